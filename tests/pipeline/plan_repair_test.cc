#include "pipeline/plan_repair.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>

#include "pipeline/plan_clock.h"
#include "pipeline/planner.h"
#include "tests/support/plan_instances.h"

namespace starling::pipeline {
namespace {

SkipPlan planned(const PlanInstance& instance, std::uint64_t evaluations) {
  Planner planner(instance, 1, evaluations);
  while (planner.improve(1000) == Planner::Progress::going_on) {
  }
  return planner.best();
}

// Counted from the plans alone: microbatches of the new plan that have no equal among the old ones.
int new_ways(const SkipPlan& old, const ChangedInstance& changed, const SkipPlan& plan) {
  std::vector<PlannedPath> before = old.paths;
  int out = 0;
  for (PlannedPath path : plan.paths) {
    path.originator = changed.before[static_cast<std::size_t>(path.originator)];
    for (int& hop : path.hops) hop = changed.before[static_cast<std::size_t>(hop)];
    const auto same = std::find(before.begin(), before.end(), path);
    if (same == before.end()) {
      ++out;
    } else {
      before.erase(same);
    }
  }
  return out;
}

void expect_sound(const SkipPlan& old, const ChangedInstance& changed, const RepairedPlan& repaired) {
  const auto seconds = plan_seconds(changed.instance, repaired.plan);
  RC_ASSERT(seconds.has_value());
  RC_ASSERT(std::abs(*seconds - repaired.seconds) < 1e-9);
  RC_ASSERT(repaired.paths_changed >= new_ways(old, changed, repaired.plan));
  RC_ASSERT(repaired.paths_changed <= changed.instance.microbatches());
}

RC_GTEST_PROP(PlanRepairProperty, ARepairedPlanObeysTheRulesAfterAnyChange, ()) {
  Stream random(*rc::gen::arbitrary<std::uint64_t>());
  const PlanInstance instance = test::random_instance(4 + static_cast<int>(random.below(27)), random);
  const SkipPlan old = planned(instance, 50);
  const auto node = static_cast<int>(random.below(static_cast<std::uint64_t>(instance.nodes)));
  const auto what = random.below(3);
  Result<ChangedInstance> changed = fail(ErrorCode::failed, "");
  if (what == 0) {
    changed = node_died(instance, old, node);
    RC_TAG(changed ? "died" : "too few are left");
    if (!changed) {
      RC_ASSERT(instance.nodes - 1 < instance.stages || instance.nodes == 2);
      return;
    }
  } else if (what == 1) {
    const std::vector<double> delays(static_cast<std::size_t>(instance.nodes), random.uniform());
    changed = node_joined(instance, old, delays, delays, 0.1, 2);
    RC_TAG("joined");
  } else {
    changed = speed_changed(instance, node, 2.0);
    RC_TAG("changed speed");
  }
  RC_ASSERT(changed.has_value());
  expect_sound(old, *changed, repair_plan(old, *changed, random.next(), 200));
}

TEST(PlanRepair, OnlyPathsThroughADeadNodeMustChange) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 5000);
  const int dead = old.paths[0].hops[1];
  const auto through = std::count_if(old.paths.begin(), old.paths.end(), [dead](const PlannedPath& path) {
    return std::find(path.hops.begin(), path.hops.end(), dead) != path.hops.end();
  });
  const auto changed = node_died(instance, old, dead);
  ASSERT_TRUE(changed);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_EQ(repaired.placements_changed, 0);
  EXPECT_GE(repaired.paths_changed, through);
  EXPECT_LT(repaired.paths_changed, 25);
  // Not far from what planning anew finds, which changes nearly everything.
  const double anew = plan_seconds(changed->instance, planned(changed->instance, 5000)).value();
  EXPECT_LT(repaired.seconds, 1.5 * anew);
}

TEST(PlanRepair, NothingChangesWhereNothingNeedsTo) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 30'000);
  const auto changed = speed_changed(instance, 3, instance.forward_seconds[3]);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_LE(repaired.paths_changed, 3);
  EXPECT_EQ(repaired.placements_changed, 0);
}

TEST(PlanRepair, ANodeThatSlowsDownLosesMicrobatches) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 5000);
  const int slow = old.paths[0].hops[0];
  const auto changed = speed_changed(instance, slow, 8 * instance.forward_seconds[static_cast<std::size_t>(slow)]);
  ASSERT_TRUE(changed);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_LT(repaired.seconds, 0.8 * plan_seconds(changed->instance, old).value());
  EXPECT_GT(repaired.paths_changed, 0);
}

TEST(PlanRepair, ADeadOriginatorTakesItsShareAlong) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 2000);
  const auto changed = node_died(instance, old, old.stages[0][0]);
  ASSERT_TRUE(changed);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_EQ(repaired.plan.paths.size(), 24U);
  EXPECT_TRUE(check_plan(changed->instance, repaired.plan));
}

TEST(PlanRepair, TheLastNodeOfAStageIsReplacedByOneMove) {
  PlanInstance instance = test::corrected_instance();
  instance.stage_sizes = {5, 1, 5, 3, 3, 3};
  const SkipPlan old = planned(instance, 500);
  const auto changed = node_died(instance, old, old.stages[1][0]);
  ASSERT_TRUE(changed);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_EQ(repaired.placements_changed, 1);
  EXPECT_EQ(repaired.plan.stages[1].size(), 1U);
  EXPECT_TRUE(plan_seconds(changed->instance, repaired.plan));
}

TEST(PlanRepair, ANodeThatMovesIsNoLongerVisitedForItsOldStage) {
  PlanInstance in;
  in.nodes = 5;
  in.delays.assign(25, 0.5);
  in.forward_seconds.assign(5, 0.2);
  in.memory.assign(5, 2);
  in.stages = in.path_length = 3;
  in.stage_sizes = {2, 1, 2};
  in.originators = 2;
  in.microbatches_per_originator = 2;
  const SkipPlan old{{{0, 1}, {2}, {3, 4}}, {{0, {2, 3}}, {0, {2, 4}}, {1, {2, 3}}, {1, {2, 4}}}};
  ASSERT_TRUE(plan_seconds(in, old));
  const auto changed = node_died(in, old, 2);
  ASSERT_TRUE(changed);
  const RepairedPlan repaired = repair_plan(old, *changed, 1);
  EXPECT_TRUE(plan_seconds(changed->instance, repaired.plan));
  EXPECT_EQ(repaired.placements_changed, 1);
  EXPECT_EQ(repaired.paths_changed, 4);
}

TEST(PlanRepair, SameInputsGiveTheSameRepair) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 500);
  const auto changed = node_died(instance, old, 2);
  ASSERT_TRUE(changed);
  EXPECT_EQ(repair_plan(old, *changed, 5).plan, repair_plan(old, *changed, 5).plan);
}

TEST(PlanRepair, WithoutEnoughNodesThereIsNoInstance) {
  PlanInstance instance = test::cloud_instance(6, 6, 4);
  const auto died = node_died(instance, planned(instance, 10), 0);
  ASSERT_FALSE(died);
  EXPECT_NE(died.error().message.find("fewer nodes (5) than stages (6)"), std::string::npos) << died.error().message;
}

TEST(PlanRepair, AChangeThatIsNotValidIsRefused) {
  const PlanInstance instance = test::corrected_instance();
  const SkipPlan old = planned(instance, 10);
  std::vector<double> delays(20, 0.5);
  const auto expect_refused = [](const Result<ChangedInstance>& changed, const std::string& what) {
    ASSERT_FALSE(changed) << what;
    EXPECT_EQ(changed.error().code, ErrorCode::bad_config);
    EXPECT_NE(changed.error().message.find(what), std::string::npos) << changed.error().message;
  };
  EXPECT_TRUE(node_joined(instance, old, delays, delays, 0.4, 3));
  expect_refused(node_joined(instance, old, delays, delays, 0.4, 0), "memory of node 20 is 0");
  expect_refused(node_joined(instance, old, delays, delays, -0.4, 3), "forward_seconds of node 20");
  expect_refused(speed_changed(instance, 3, std::nan("")), "forward_seconds of node 3 is nan");
  std::vector<double> broken = delays;
  broken[7] = std::nan("");
  expect_refused(node_joined(instance, old, broken, delays, 0.4, 3), "delays[20][7] is NaN");
  expect_refused(node_joined(instance, old, delays, broken, 0.4, 3), "delays[7][20] is NaN");
  delays.pop_back();
  expect_refused(node_joined(instance, old, delays, broken, 0.4, 3), "a delay to and from each");
}

}  // namespace
}  // namespace starling::pipeline
