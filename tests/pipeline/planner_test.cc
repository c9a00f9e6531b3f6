#include "pipeline/planner.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "tests/pipeline/slow_pipeline.h"
#include "tests/support/plan_instances.h"

namespace starling::pipeline {
namespace {

SkipPlan planned(const PlanInstance& instance, std::uint64_t seed, std::uint64_t evaluations,
                 std::uint64_t slice = 1000) {
  Planner planner(instance, seed, evaluations);
  while (planner.improve(slice) == Planner::Progress::going_on) {
  }
  return planner.best();
}

RC_GTEST_PROP(PlannerProperty, EveryPlanObeysTheRulesAndTakesTheSecondsItSays, ()) {
  Stream random(*rc::gen::arbitrary<std::uint64_t>());
  const PlanInstance instance = test::random_instance(4 + static_cast<int>(random.below(57)), random);
  Planner planner(instance, random.next(), 400);
  const SkipPlan first = planner.best();
  while (planner.improve(100) == Planner::Progress::going_on) {
  }
  for (const SkipPlan& plan : {first, planner.best()}) {
    const Status status = check_plan(instance, plan);
    RC_ASSERT(status.has_value());
    RC_ASSERT(slow_seconds(instance, plan.paths).has_value());
  }
  RC_ASSERT(std::abs(*slow_seconds(instance, planner.best().paths) - planner.best_seconds()) < 1e-9);
  RC_ASSERT(planner.best_seconds() <= planner.first_seconds());
}

TEST(Planner, SameInstanceSeedAndEvaluationsGiveTheSamePlanInWhateverSlices) {
  const PlanInstance instance = test::published_instance();
  const SkipPlan once = planned(instance, 7, 3000);
  EXPECT_EQ(once, planned(instance, 7, 3000));
  EXPECT_EQ(once, planned(instance, 7, 3000, 1));
  EXPECT_EQ(once, planned(instance, 7, 3000, 777));
  EXPECT_NE(once, planned(instance, 8, 3000));
}

// What the authors reach after 73 s of search is 33.3 s.
TEST(Planner, FirstPlanOfThePublishedInstanceIsBelow32Seconds) {
  const PlanInstance instance = test::published_instance();
  for (std::uint64_t seed = 0; seed < 20; ++seed) EXPECT_LE(Planner(instance, seed, 0).best_seconds(), 32.0) << seed;
}

TEST(Planner, PublishedInstanceIsBelow25SecondsAfter30000Evaluations) {
  const PlanInstance instance = test::published_instance();
  EXPECT_LE(plan_seconds(instance, planned(instance, 1, 30'000)).value(), 25.0);
}

// One link in seven is absurd; the first plan uses none.
TEST(Planner, AbsurdLinksAreAvoided) {
  PlanInstance instance = test::corrected_instance();
  for (std::size_t k = 1; k < instance.delays.size(); k += 7) {
    if (k / 20 != k % 20) instance.delays[k] = 10'000.0;
  }
  EXPECT_LT(Planner(instance, 1, 0).best_seconds(), 10'000.0);
}

TEST(Planner, SlowNodesGetFewMicrobatches) {
  PlanInstance instance = test::corrected_instance();
  for (const int slow : {3, 11, 17}) instance.forward_seconds[static_cast<std::size_t>(slow)] *= 8.0;
  const SkipPlan plan = planned(instance, 1, 20'000);
  for (const int slow : {3, 11, 17}) {
    EXPECT_EQ(std::count(plan.stages[0].begin(), plan.stages[0].end(), slow), 0) << slow;
    std::ptrdiff_t visits = 0;
    for (const PlannedPath& path : plan.paths) visits += std::count(path.hops.begin(), path.hops.end(), slow);
    EXPECT_LE(visits, 3) << slow;  // 6 on average
  }
}

TEST(Planner, FreeSizesAreNoWorseThanBadOnes) {
  PlanInstance instance = test::corrected_instance();
  instance.stage_sizes = {5, 11, 1, 1, 1, 1};
  const double bad = plan_seconds(instance, planned(instance, 1, 10'000)).value();
  instance.stage_sizes.clear();
  const SkipPlan plan = planned(instance, 1, 10'000);
  EXPECT_EQ(plan.stages[0].size(), 5U);
  EXPECT_LT(plan_seconds(instance, plan).value(), 0.7 * bad);
}

TEST(Planner, SkippingBeatsTheFullPipelineOfAllNodes) {
  const PlanInstance instance = test::corrected_instance();
  const PlanInstance full = full_pipeline(instance);
  EXPECT_LT(plan_seconds(instance, planned(instance, 1, 5000)).value(),
            0.7 * plan_seconds(full, planned(full, 1, 5000)).value());
}

TEST(Planner, SmallestInstanceHasAPlan) {
  PlanInstance in;
  in.nodes = 2;
  in.delays = {0.0, 1.0, 2.0, 0.0};
  in.forward_seconds = {0.5, 0.5};
  in.memory = {1, 1};
  in.stages = in.path_length = 2;
  in.originators = 1;
  in.microbatches_per_originator = 1;
  ASSERT_TRUE(in.validate());
  // 0.5 + d + 0.5 + d' + 0.125 + d + 0.75 + d' + 0.75, and each way is used twice.
  EXPECT_NEAR(plan_seconds(in, planned(in, 0, 50)).value(), 2.625 + 2 * 3.0, 1e-9);
}

TEST(Exponential, HasMeanAndVarianceOne) {
  Stream random(3);
  constexpr int draws = 200'000;
  double sum = 0.0;
  double squares = 0.0;
  for (int k = 0; k < draws; ++k) {
    const double x = exponential(random);
    sum += x;
    squares += x * x;
  }
  const double mean = sum / draws;
  // Standard errors: 1 / sqrt(draws) = 0.0022 of the mean, sqrt(8 / draws) = 0.0063 of the variance; five of each.
  EXPECT_NEAR(mean, 1.0, 0.012);
  EXPECT_NEAR(squares / draws - mean * mean, 1.0, 0.032);
}

// --- rules and instances ---------------------------------------------------------------------------------------------

SkipPlan good_plan(const PlanInstance& instance) { return Planner(instance, 1, 0).best(); }

void expect_refused(const SkipPlan& plan, const std::string& what) {
  const Status status = check_plan(test::published_instance(), plan);
  ASSERT_FALSE(status) << what;
  EXPECT_NE(status.error().message.find(what), std::string::npos) << status.error().message;
}

TEST(CheckPlan, EachRuleIsFoundBroken) {
  const PlanInstance instance = test::published_instance();
  const SkipPlan good = good_plan(instance);
  ASSERT_TRUE(check_plan(instance, good));
  const auto with = [&good](const auto& change) {
    SkipPlan plan = good;
    change(plan);
    return plan;
  };
  expect_refused(with([](SkipPlan& p) { p.stages.pop_back(); }), "stages, the instance");
  expect_refused(with([](SkipPlan& p) { std::swap(p.stages[0], p.stages[1]); }), "does not allow");
  expect_refused(with([](SkipPlan& p) { p.stages[1][0] = p.stages[2][0]; }), "more than one stage");
  expect_refused(with([](SkipPlan& p) { p.stages[1][0] = 20; }), "does not exist");
  expect_refused(with([](SkipPlan& p) { p.paths[0].hops.pop_back(); }), "visits 3 stages instead of 4");
  expect_refused(with([](SkipPlan& p) { p.paths[0].hops[1] = p.paths[0].hops[0]; }), "a stage twice");
  expect_refused(with([](SkipPlan& p) { p.paths[0].originator = p.paths[0].hops[0]; }), "is not in stage 0");
  expect_refused(with([](SkipPlan& p) { p.paths[0].hops[0] = -1; }), "does not exist");
  expect_refused(with([](SkipPlan& p) { p.paths[0].start = -1.0; }), "starts at no time");
  expect_refused(with([](SkipPlan& p) {
                   p.paths[0].hops = {p.stages[5][0], p.stages[3][0], p.stages[1][0]};
                 }),
                 "steps back");
  expect_refused(with([](SkipPlan& p) {
                   for (std::size_t k = 0; k < 24; ++k)
                     p.paths[k].hops = {p.stages[1][0], p.stages[2][0], p.stages[3][0]};
                 }),
                 "unevenly");
  expect_refused(with([](SkipPlan& p) { p.paths[0].originator = p.paths[1].originator; }), "instead of 6");
}

TEST(OrderAllowed, TwoStepsBackByOneStageEach) {
  EXPECT_TRUE(order_allowed(std::vector{0, 1, 2, 5}));
  EXPECT_TRUE(order_allowed(std::vector{0, 2, 1, 4, 3}));
  EXPECT_TRUE(order_allowed(std::vector{0, 3, 2, 1}));
  EXPECT_FALSE(order_allowed(std::vector{0, 3, 1}));
  EXPECT_FALSE(order_allowed(std::vector{0, 4, 3, 2, 1}));
}

TEST(PlanInstance, EachMistakeHasItsOwnMessage) {
  const auto expect_bad = [](const auto& change, const std::string& what) {
    PlanInstance in = test::published_instance();
    change(in);
    const Status status = in.validate();
    ASSERT_FALSE(status) << what;
    EXPECT_EQ(status.error().code, ErrorCode::bad_config);
    EXPECT_NE(status.error().message.find(what), std::string::npos) << status.error().message;
  };
  expect_bad([](PlanInstance& in) { in.delays[23] = -1.0; }, "delays[1][3] is negative");
  expect_bad([](PlanInstance& in) { in.delays[23] = std::nan(""); }, "delays[1][3] is NaN");
  expect_bad([](PlanInstance& in) { in.delays[23] = 1e300; }, "nodes 1 and 3 are disconnected");
  expect_bad([](PlanInstance& in) { in.delays.pop_back(); }, "a value for each of the 20 nodes");
  expect_bad([](PlanInstance& in) { in.memory[4] = 0; }, "memory of node 4 is 0");
  expect_bad([](PlanInstance& in) { in.forward_seconds[4] = 0.0; }, "forward_seconds of node 4");
  expect_bad([](PlanInstance& in) { in.stages = 21; }, "fewer nodes (20) than stages (21)");
  expect_bad([](PlanInstance& in) { in.path_length = 7; }, "path_length (7) is more than the number of stages (6)");
  expect_bad([](PlanInstance& in) { in.path_length = 1; }, "at least 2 stages");
  expect_bad([](PlanInstance& in) { in.stage_sizes[2] = 0; }, "stage_sizes[2] is 0");
  expect_bad([](PlanInstance& in) { in.stage_sizes[2] = 4; }, "add up to 21");
  expect_bad([](PlanInstance& in) { in.stage_sizes.pop_back(); }, "5 values for 6 stages");
  expect_bad([](PlanInstance& in) { in.microbatches_per_originator = 0; }, "microbatches_per_originator is 0");
  expect_bad([](PlanInstance& in) { in.microbatches_per_originator = 100'000'000; }, "are more than");
  expect_bad(
      [](PlanInstance& in) {
        in.stage_sizes.clear();
        in.originators = 16;
      },
      "originators is 16");
}

}  // namespace
}  // namespace starling::pipeline
