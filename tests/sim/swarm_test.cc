// The whole control plane in virtual time: real Workers, deciders and codecs over a simulated network and device.
//
// STARLING_SIM_LOG=1 prints the whole history of a run; STARLING_SIM_SEED=n replays one seed; STARLING_SIM_SEEDS=n runs n
// of them instead of the few that fit into a short test; STARLING_SIM_TABLE=1 prints a line per run.
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iostream>

#include "tests/sim/scenario.h"
#include "tests/sim/swarm_config.h"

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

// The step clock's own simulation gave 0.62 to 0.87 of the ideal in exact mode.
constexpr double least_of_the_ideal = 0.62;

std::vector<Outcome> play_all(std::string_view name, std::uint64_t count) {
  std::vector<Outcome> out;
  for (const std::uint64_t seed : seeds(count)) {
    Scenario scenario = named(name, seed);
    add_log(scenario.config);
    out.push_back(play(scenario));
    if (table_wanted()) std::cout << to_string(out.back()) << std::endl;
    EXPECT_TRUE(out.back().problems.empty()) << name << ", " << to_string(out.back());
  }
  return out;
}

TEST(Swarm, AHealthyRunEndsEverywhereWithoutASkip) {
  for (const Outcome& outcome : play_all("healthy", 3)) {
    const WorkerCounters& totals = outcome.totals;
    EXPECT_EQ(totals.completed_with_skips, 0) << to_string(outcome);
    EXPECT_EQ(totals.dropped, 0) << to_string(outcome);
    EXPECT_EQ(totals.rounds_solo, 0) << to_string(outcome);
    EXPECT_EQ(outcome.measured.double_forwards, 0) << to_string(outcome);
    EXPECT_LT(totals.rerouted, totals.completed / 100) << to_string(outcome);
    EXPECT_LE(outcome.measured.largest_skew, 1) << to_string(outcome);
    EXPECT_GE(outcome.throughput, least_of_the_ideal) << to_string(outcome);
  }
}

// Devices so fast that the first microbatches travel as soon as the last record does: nobody may be sent one, or the way
// back of one, past workers that it has not heard of.
TEST(Swarm, NobodyIsSkippedBeforeAllHaveHeardOfAll) {
  for (const std::uint64_t seed : seeds(20)) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 3);
    config.compute.forward_seconds = 0.001;
    config.network.link.latency = 1ms;
    config.network.link.jitter = 0ms;
    add_log(config);
    SimWorld world(config);
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 60s)) << "seed " << seed << "\n" << world.describe();
    EXPECT_EQ(world.violations(), std::vector<std::string>{}) << "seed " << seed;
    EXPECT_EQ(world.totals().completed_with_skips, 0) << "seed " << seed;
    EXPECT_EQ(world.totals().dropped, 0) << "seed " << seed;
  }
}

TEST(Swarm, PermutationKeepsEqualMachinesBusy) {
  for (const Outcome& outcome : play_all("healthy, permutation", 2)) {
    EXPECT_LE(outcome.measured.largest_skew, 1) << to_string(outcome);
    EXPECT_GE(outcome.throughput, least_of_the_ideal) << to_string(outcome);
    EXPECT_LE(outcome.throughput, 0.87) << to_string(outcome);
  }
}

TEST(Swarm, SpeedsOfOneToTenStayInStepAndNearTheIdeal) {
  for (const Outcome& outcome : play_all("speeds 1x to 10x", 2)) {
    EXPECT_LE(outcome.measured.largest_skew, 4) << to_string(outcome);
    EXPECT_GE(outcome.throughput, least_of_the_ideal) << to_string(outcome);
    EXPECT_LE(outcome.throughput, 1.0) << to_string(outcome);
  }
}

TEST(Swarm, TheSameSeedGivesTheSameHistory) {
  const auto history = [](std::uint64_t seed) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 20);
    config.faults = sim::half_killed_at_once(seed, config.workers, TimePoint{} + 20s);
    SimWorld world(config);
    world.run_to_end(TimePoint{} + 300s);
    return std::pair(world.log_hash(), world.events());
  };
  EXPECT_EQ(history(7), history(7));
  EXPECT_NE(history(7), history(8));
}

TEST(Swarm, HalfOfTheWorkersDieAtOnce) { play_all("half killed", 3); }

TEST(Swarm, HalfOfTheWorkersStopAtOnce) { play_all("half stopped", 3); }

TEST(Swarm, EveryReplicaOfAMiddleStageDies) {
  for (const Outcome& outcome : play_all("a middle stage killed", 2)) {
    EXPECT_GT(outcome.totals.completed_with_skips, 0) << "until somebody takes it over, it is skipped";
  }
}

TEST(Swarm, EveryReplicaOfStageZeroDies) { play_all("stage 0 killed", 2); }

// Stage 0 cannot be skipped, so there is a silence until it is taken over; the new originator knows from its steps how long a
// microbatch may take.
TEST(Swarm, EveryReplicaOfBothEndsDies) {
  for (const Outcome& outcome : play_all("both ends killed", 3)) {
    EXPECT_LT(outcome.measured.longest_silence, 25s) << to_string(outcome);
  }
}

TEST(Swarm, AWorkerJoinsInTheMiddle) { play_all("a joiner", 2); }

// At its second exchange a newcomer is as far from its partner as the others are from each other: over seeds, as single
// pairs differ by a factor of three.
TEST(Swarm, ANewcomerDivergesNoMoreThanTheOthers) {
  const std::vector<std::uint64_t> all = seeds(15);
  if (all.size() < 15) GTEST_SKIP() << "the median of so few seeds says nothing";
  std::vector<double> ratios;
  for (const std::uint64_t seed : all) {
    Scenario scenario = named("a joiner", seed);
    scenario.judge = [&](const SimWorld& world, std::vector<std::string>&) {
      const SimWorld::Node& newcomer = *world.nodes()[world.config().workers];
      std::vector<RoundReport> met;
      for (const auto& [at, round] : newcomer.rounds) {
        if (round.averaged && round.divergence) met.push_back(round);
      }
      if (met.size() < 2) return;
      std::vector<double> others;
      for (const auto& node : world.nodes()) {
        if (node->role_stage != newcomer.role_stage || node.get() == &newcomer) continue;
        for (const auto& [at, round] : node->rounds) {
          const bool near = round.round + 1 >= met[1].round && round.round <= met[1].round + 1;
          if (near && round.averaged && round.divergence && round.partner != newcomer.id) others.push_back(*round.divergence);
        }
      }
      if (others.empty()) return;
      std::sort(others.begin(), others.end());
      ratios.push_back(*met[1].divergence / others[others.size() / 2]);
    };
    play(scenario);
  }
  ASSERT_GE(ratios.size(), 5U);
  std::sort(ratios.begin(), ratios.end());
  if (table_wanted()) std::cout << fmt::format("divergence of newcomers: {:.2f}\n", fmt::join(ratios, " "));
  EXPECT_LE(ratios[ratios.size() / 2], 1.5);
}

TEST(Swarm, TheObserverDies) {
  for (const Outcome& outcome : play_all("the observer killed", 2)) {
    EXPECT_EQ(outcome.totals.dropped, 0) << "nobody notices: " << to_string(outcome);
  }
}

TEST(Swarm, WorkersComeAndGo) { play_all("a minute of churn", 2); }

TEST(Swarm, HalfOfSixtyFourWorkersDieAtOnce) {
  for (const Outcome& outcome : play_all("64 workers, half killed", 1)) {
    EXPECT_TRUE(outcome.views_compared);
    EXPECT_LE(outcome.measured.largest_skew, 4) << to_string(outcome);
  }
}

TEST(Swarm, HalfOfSixtyFourWorkersStopAtOnce) {
  for (const Outcome& outcome : play_all("64 workers, half stopped", 1)) {
    EXPECT_TRUE(outcome.views_compared);
    EXPECT_LE(outcome.measured.largest_skew, 4) << to_string(outcome);
  }
}

}  // namespace
}  // namespace starling::trainer
