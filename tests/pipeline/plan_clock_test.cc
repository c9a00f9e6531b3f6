#include "pipeline/plan_clock.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "launcher/plan_file.h"
#include "pipeline/plan_layout.h"
#include "pipeline/plan_report.h"
#include "tests/pipeline/slow_pipeline.h"
#include "tests/support/plan_instances.h"

namespace starling::pipeline {
namespace {

constexpr double no_limit = std::numeric_limits<double>::infinity();

SkipPlan plan_of(const nlohmann::json& json) {
  SkipPlan out;
  out.stages = json.at("stages").get<std::vector<std::vector<int>>>();
  for (const auto& path : json.at("paths")) {
    out.paths.push_back({path.at("originator"), path.at("hops"), path.value("start", 0.0)});
  }
  return out;
}

// SkipPipe's own plan for its 20 nodes: all microbatches of an originator go the same way.
SkipPlan published_plan() {
  SkipPlan out;
  out.stages = {{0, 3, 4, 10, 11}, {8, 14, 15}, {1, 6, 9}, {12, 13, 16}, {5, 7, 18}, {2, 17, 19}};
  const std::vector<std::vector<int>> ways{
      {0, 14, 6, 12}, {3, 15, 17, 5}, {4, 7, 13, 19}, {10, 1, 18, 2}, {11, 8, 16, 9}};
  for (const auto& way : ways) {
    for (int k = 0; k < 6; ++k) out.paths.push_back({way[0], {way.begin() + 1, way.end()}});
  }
  return out;
}

TEST(PlanClock, PublishedPlanTakesWhatTheIndependentSimulationSays) {
  const PlanInstance instance = test::published_instance();
  // The authors' own simulation says 33.31 s.
  EXPECT_NEAR(plan_seconds(instance, published_plan()).value(), 33.133792, 1e-9);
}

TEST(PlanClock, GoldenCasesTakeWhatTheIndependentSimulationSays) {
  int locked_up = 0;
  const auto cases = nlohmann::json::parse(test::read_golden("plan_clock_cases.json"));
  ASSERT_GE(cases.size(), 10U);
  for (const auto& one : cases) {
    const auto file = launcher::parse_plan_file(one.at("instance").dump());
    ASSERT_TRUE(file) << file.error().message;
    const auto seconds = plan_seconds(file->instance, plan_of(one.at("plan")));
    if (one.at("seconds").is_null()) {
      ++locked_up;
      ASSERT_FALSE(seconds);
      EXPECT_NE(seconds.error().message.find("locks up"), std::string::npos) << seconds.error().message;
    } else {
      ASSERT_TRUE(seconds) << seconds.error().message;
      EXPECT_NEAR(*seconds, one.at("seconds").get<double>(), 1e-9);
    }
  }
  EXPECT_GE(locked_up, 3);
}

// Paths of any nodes in any order, which is more than a plan may have. Coarse ones have many ties and jobs of no length.
struct Wild {
  PlanInstance instance;
  std::vector<PlannedPath> paths;
};

enum class Grain { fine, coarse };

PlannedPath wild_path(const PlanInstance& instance, Grain grain, Stream& random) {
  const auto any = [&] { return static_cast<int>(random.below(static_cast<std::uint64_t>(instance.nodes))); };
  PlannedPath out{any(), {}, 0.0};
  for (int k = 1; k < instance.path_length; ++k) out.hops.push_back(any());
  if (random.below(3) == 0)
    out.start = grain == Grain::coarse ? 0.25 * static_cast<double>(random.below(8)) : random.uniform();
  return out;
}

Wild wild(std::uint64_t seed) {
  Stream random(seed);
  const Grain grain = random.below(2) == 0 ? Grain::fine : Grain::coarse;
  Wild out{test::random_instance(2 + static_cast<int>(random.below(14)), random), {}};
  if (grain == Grain::coarse) {
    for (double& delay : out.instance.delays) delay = 0.25 * static_cast<double>(random.below(4));
    for (double& work : out.instance.forward_seconds) work = 0.25 * static_cast<double>(random.below(3));
  }
  for (int i = 0; i < out.instance.microbatches(); ++i) out.paths.push_back(wild_path(out.instance, grain, random));
  return out;
}

void set(PlanClock& clock, int microbatch, const PlannedPath& path) {
  std::vector<int> nodes{path.originator};
  nodes.insert(nodes.end(), path.hops.begin(), path.hops.end());
  clock.set_path(microbatch, nodes, path.start);
}

void expect_same(const PlanTime& time, const std::optional<double>& slow) {
  RC_ASSERT((time.end == PlanTime::End::locked_up) == !slow.has_value());
  if (slow) RC_ASSERT(time.seconds == *slow);
}

RC_GTEST_PROP(PlanClockProperty, AgreesWithTheSlowOneAndFindsEveryLockUp, ()) {
  const Wild it = wild(*rc::gen::arbitrary<std::uint64_t>());
  PlanClock clock(it.instance);
  for (std::size_t i = 0; i < it.paths.size(); ++i) set(clock, static_cast<int>(i), it.paths[i]);
  const auto slow = slow_seconds(it.instance, it.paths);
  RC_TAG(slow ? "finishes" : "locks up");
  expect_same(clock.run(no_limit), slow);
}

// Changes, some kept and some reverted: the clock goes on from checkpoints and must not show it.
RC_GTEST_PROP(PlanClockProperty, ChangesAreTimedAsIfFromTheStart, ()) {
  Wild it = wild(*rc::gen::arbitrary<std::uint64_t>());
  Stream random(*rc::gen::arbitrary<std::uint64_t>());
  for (PlannedPath& path : it.paths) path = {path.originator, path.hops, 0.0};
  it.instance.memory.assign(it.instance.memory.size(), 1000);  // the first run must finish to be kept
  PlanClock clock(it.instance);
  for (std::size_t i = 0; i < it.paths.size(); ++i) set(clock, static_cast<int>(i), it.paths[i]);
  RC_ASSERT(clock.run(no_limit).end == PlanTime::End::finished);
  clock.keep();
  for (int round = 0; round < 30; ++round) {
    std::vector<PlannedPath> paths = it.paths;
    for (std::uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      const std::size_t i = random.below(paths.size());
      PlannedPath other = wild_path(it.instance, Grain::fine, random);
      const std::size_t same = random.below(other.hops.size() + 1);  // only what comes after differs
      if (same > 0) other.originator = paths[i].originator;
      if (same > 0) other.start = paths[i].start;
      for (std::size_t k = 0; k + 1 < same; ++k) other.hops[k] = paths[i].hops[k];
      paths[i] = other;
      set(clock, static_cast<int>(i), other);
    }
    const auto slow = slow_seconds(it.instance, paths);
    const PlanTime time = clock.run(no_limit);
    expect_same(time, slow);
    if (slow && random.below(2) == 0) {
      clock.keep();
      it.paths = paths;
    } else {
      clock.revert();
    }
  }
}

// A run that is given up must be one that would have cost more, and its bounds must hold.
RC_GTEST_PROP(PlanClockProperty, GivesUpOnlyWhatIsOverTheLimit, ()) {
  const Wild it = wild(*rc::gen::arbitrary<std::uint64_t>());
  PlanClock clock(it.instance);
  for (std::size_t i = 0; i < it.paths.size(); ++i) set(clock, static_cast<int>(i), it.paths[i]);
  const double weight = static_cast<double>(*rc::gen::inRange(0, 3));
  const PlanTime all = clock.run(no_limit, weight);
  RC_PRE(all.end == PlanTime::End::finished);
  const double limit = all.cost(weight) * *rc::gen::elementOf(std::vector<double>{0.3, 0.9, 0.999, 1.001, 1.5});
  const PlanTime limited = clock.run(limit, weight);
  RC_TAG(limited.end == PlanTime::End::finished ? "within" : "given up");
  if (limited.end == PlanTime::End::finished) {
    RC_ASSERT(limited.seconds == all.seconds);
  } else {
    RC_ASSERT(all.cost(weight) > limit);
    RC_ASSERT(limited.cost(weight) <= all.cost(weight) + 1e-9);
  }
}

TEST(PlanClock, TwoMicrobatchesThatHoldWhatTheOtherNeedsLockUp) {
  PlanInstance in;
  in.nodes = 4;
  in.delays.assign(16, 1.0);
  in.forward_seconds.assign(4, 0.1);
  in.memory = {1, 1, 1, 1};
  in.stages = 3;
  in.originators = 2;
  in.stage_sizes = {2, 1, 1};
  in.path_length = 3;
  in.microbatches_per_originator = 1;
  ASSERT_TRUE(in.validate());
  SkipPlan plan{{{0, 1}, {2}, {3}}, {{0, {2, 3}}, {1, {3, 2}}}};
  ASSERT_TRUE(check_plan(in, plan));
  const auto locked = plan_seconds(in, plan);
  ASSERT_FALSE(locked);
  EXPECT_NE(locked.error().message.find("locks up"), std::string::npos);
  in.memory = {1, 1, 2, 2};
  EXPECT_TRUE(plan_seconds(in, plan));
}

TEST(PlanReport, PartsOfTheCriticalMicrobatchAddUpAndNodesAreBusyForTheirJobs) {
  const PlanInstance instance = test::published_instance();
  const auto report = report_plan(instance, published_plan());
  ASSERT_TRUE(report);
  EXPECT_NEAR(report->seconds, 33.133792, 1e-9);
  const MicrobatchTime& m = report->critical;
  EXPECT_NEAR(m.start + m.forward + m.loss + m.backward + m.travel + m.waiting, m.done, 1e-9);
  EXPECT_NEAR(m.done, report->seconds, 1e-9);
  EXPECT_NEAR(m.forward, 4 * 0.44, 1e-9);
  EXPECT_NEAR(m.backward, 4 * 0.66, 1e-9);
  EXPECT_EQ(report->jobs.size(), 30U * 9U);
  EXPECT_NEAR(report->nodes[0].busy, 6 * (0.44 + 0.11 + 0.66), 1e-9);
  EXPECT_NEAR(report->nodes[14].busy, 6 * (0.44 + 0.66), 1e-9);
  EXPECT_EQ(report->nodes[14].visits, 6);
  EXPECT_EQ(report->nodes[14].stage, 1);
}

}  // namespace
}  // namespace starling::pipeline
