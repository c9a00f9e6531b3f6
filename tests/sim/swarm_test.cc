// The whole control plane in virtual time: real Workers, deciders and codecs over a simulated network and device.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <optional>
#include <sstream>

#include "tests/sim/swarm_config.h"

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

Step reached(const SimWorld& world) {
  Step most = 0;
  for (const auto& node : world.nodes()) {
    if (!node->steps.empty()) most = std::max(most, node->steps.back().step);
  }
  return most;
}

// Everybody who was not killed or stopped for good has ended with "finished", after the last step.
void expect_good_end(const SimWorld& world, Step max_steps) {
  for (const std::string& violation : world.violations()) ADD_FAILURE() << violation;
  for (const auto& node : world.nodes()) {
    if (!node->exit) continue;
    EXPECT_EQ(static_cast<int>(node->exit->exit), static_cast<int>(Worker::Exit::finished))
        << node->name << ": " << node->exit->why;
  }
  EXPECT_EQ(reached(world), max_steps);
}

std::string summary(const SimWorld& world) {
  const WorkerCounters totals = world.totals();
  std::ostringstream out;
  out << "t " << seconds(world.now().time_since_epoch()) << " completed " << totals.completed << " with skips "
      << totals.completed_with_skips << " dropped " << totals.dropped << " rerouted " << totals.rerouted << " averaged "
      << totals.rounds_averaged << " solo " << totals.rounds_solo << " odd " << totals.rounds_solo_odd << " takeovers "
      << totals.takeovers << " copies " << totals.copies << " events " << world.events();
  return out.str();
}

// STARLING_SIM_LOG=1 prints the whole history of one run; STARLING_SIM_SEED=n replays one seed; STARLING_SIM_SEEDS=n runs
// n of them instead of the few that fit into a short test; STARLING_SIM_TABLE=1 prints a line per seed.
void add_log(SimWorld::Config& config) {
  if (std::getenv("STARLING_SIM_LOG") != nullptr) config.log = [](const std::string& line) { std::cerr << line << "\n"; };
}

std::vector<std::uint64_t> seeds(std::uint64_t count) {
  if (const char* one = std::getenv("STARLING_SIM_SEED")) return {std::strtoull(one, nullptr, 10)};
  if (const char* more = std::getenv("STARLING_SIM_SEEDS")) count = std::strtoull(more, nullptr, 10);
  std::vector<std::uint64_t> out;
  for (std::uint64_t seed = 1; seed <= count; ++seed) out.push_back(seed);
  return out;
}

TEST(Swarm, AHealthyRunEndsEverywhereWithoutASkip) {
  for (const std::uint64_t seed : seeds(3)) {
    SimWorld::Config config = swarm_config(seed, 4, 2, 40);
    add_log(config);
    SimWorld world(config);
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 600s)) << "seed " << seed;
    expect_good_end(world, 40);
    const WorkerCounters totals = world.totals();
    EXPECT_EQ(totals.completed_with_skips, 0) << "seed " << seed << ": " << summary(world);
    EXPECT_EQ(totals.dropped, 0) << "seed " << seed;
    EXPECT_EQ(totals.rounds_solo, 0) << "seed " << seed << ": " << summary(world);
    EXPECT_LT(totals.rerouted, totals.completed / 100) << "seed " << seed << ": " << summary(world);
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

// All live nodes believe the same of everybody.
void expect_equal_views(const SimWorld& world, std::uint64_t seed) {
  std::optional<std::string> first;
  for (const auto& node : world.nodes()) {
    if (!node->worker || node->paused) continue;
    const std::string view = SimWorld::view_text(*node);
    if (!first) first = view;
    EXPECT_EQ(view, *first) << "seed " << seed << ", " << node->name;
  }
}

TEST(Swarm, HalfOfTheWorkersDieAtOnceAndTheRunReachesItsEnd) {
  for (const std::uint64_t seed : seeds(4)) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 60);
    config.faults = sim::half_killed_at_once(seed, config.workers, TimePoint{} + 40s);
    add_log(config);
    SimWorld world(config);
    world.run_until(TimePoint{} + 100s);
    expect_equal_views(world, seed);
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << "seed " << seed << ": " << summary(world) << "\n" << world.describe();
    expect_good_end(world, 60);
    if (std::getenv("STARLING_SIM_TABLE") != nullptr) std::cout << "seed " << seed << ": " << summary(world) << "\n";
  }
}

TEST(Swarm, HalfOfSixtyFourWorkersDieAtOnce) {
  for (const std::uint64_t seed : seeds(1)) {
    SimWorld::Config config = swarm_config(seed, 4, 16, 20);
    config.worker.training.microbatches = 4;
    config.faults = sim::half_killed_at_once(seed, config.workers, TimePoint{} + 10s);
    add_log(config);
    SimWorld world(config);
    world.run_until(TimePoint{} + 70s);
    expect_equal_views(world, seed);
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << "seed " << seed << ": " << summary(world) << "\n" << world.describe();
    expect_good_end(world, 20);
    if (std::getenv("STARLING_SIM_TABLE") != nullptr) std::cout << "seed " << seed << ": " << summary(world) << "\n";
  }
}

TEST(Swarm, HalfOfTheWorkersStopAtOnceAndTheRunReachesItsEnd) {
  for (const std::uint64_t seed : seeds(4)) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 60);
    config.faults = sim::half_paused(seed, config.workers, TimePoint{} + 40s, 60s);
    add_log(config);
    SimWorld world(config);
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << "seed " << seed << ": " << summary(world) << "\n" << world.describe();
    expect_good_end(world, 60);
    if (std::getenv("STARLING_SIM_TABLE") != nullptr) std::cout << "seed " << seed << ": " << summary(world) << "\n";
  }
}

// Kills whoever holds stage 2 or a copy of it, as `world` stands.
void lose_stage_2_and_its_copies(SimWorld& world) {
  for (const auto& node : world.nodes()) {
    if (!node->worker || node->worker->record().role != membership::Role::worker) continue;
    const membership::Record& record = node->worker->record();
    const bool holds = std::any_of(record.backups.begin(), record.backups.end(),
                                   [](const membership::BackupHeld& held) { return held.stage == 2; });
    if (holds || record.stage == 2) world.apply({.kind = sim::Fault::Kind::crash, .node = node->index});
  }
}

std::vector<const SimWorld::Node*> holders_of(const SimWorld& world, Stage stage) {
  std::vector<const SimWorld::Node*> out;
  for (const auto& node : world.nodes()) {
    if (node->worker && node->worker->active() && node->worker->stage() == stage) out.push_back(node.get());
  }
  return out;
}

TEST(Swarm, AStageWithoutAnyCopyIsMadeFromItsNeighbours) {
  for (const std::uint64_t seed : seeds(2)) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 60);
    add_log(config);
    SimWorld world(config);
    while (reached(world) < 15) world.run_until(world.now() + 100ms);
    lose_stage_2_and_its_copies(world);
    while (holders_of(world, 2).empty() && world.now() < TimePoint{} + 300s) world.run_until(world.now() + 10ms);
    const auto takers = holders_of(world, 2);
    ASSERT_EQ(takers.size(), 1U) << "seed " << seed << ": " << summary(world);
    EXPECT_EQ(takers[0]->takeovers, std::vector<std::string>{"neighbours"}) << "seed " << seed;
    // Every gradient has the same norm there, so the mean of one replica of each side is not weighted.
    const std::span<const float> phi = takers[0]->compute->phi();
    int pairs = 0;
    for (const SimWorld::Node* left : holders_of(world, 1)) {
      for (const SimWorld::Node* right : holders_of(world, 3)) {
        bool equal = true;
        for (std::size_t i = 0; i < phi.size(); ++i) {
          equal = equal && phi[i] == 0.5F * left->compute->phi()[i] + 0.5F * right->compute->phi()[i];
        }
        pairs += equal ? 1 : 0;
      }
    }
    EXPECT_GE(pairs, 1) << "seed " << seed << ": the taker's weights are nobody's mean";
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << "seed " << seed << ": " << summary(world) << "\n" << world.describe();
    expect_good_end(world, 60);
  }
}

TEST(Swarm, AStageThatIsLostBeforeTheFirstRoundEndsIsDrawnAgain) {
  SimWorld::Config config = swarm_config(3, 4, 4, 60);
  // Long rounds, so that the taker is there before the first one ends.
  config.worker.outer.local_steps = 40;
  SimWorld world(config);
  while (reached(world) < 2) world.run_until(world.now() + 100ms);
  const auto replicas = holders_of(world, 2);
  const std::vector<float> drawn(replicas[0]->compute->phi().begin(), replicas[0]->compute->phi().end());
  lose_stage_2_and_its_copies(world);
  while (holders_of(world, 2).empty() && world.now() < TimePoint{} + 300s) world.run_until(world.now() + 10ms);
  const auto takers = holders_of(world, 2);
  ASSERT_EQ(takers.size(), 1U) << summary(world);
  ASSERT_LT(reached(world), 40);
  EXPECT_EQ(takers[0]->takeovers, std::vector<std::string>{"seed"});
  EXPECT_TRUE(std::equal(drawn.begin(), drawn.end(), takers[0]->compute->phi().begin()));
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << summary(world) << "\n" << world.describe();
  expect_good_end(world, 60);
}

// A member whose tensors are wrong: whoever gets them refuses and counts them, and the run goes on to its end.
TEST(Swarm, TensorsOfAWrongSizeAreRefusedAndTheRunGoesOn) {
  SimWorld world(swarm_config(5, 4, 2, 40));
  while (reached(world) < 5) world.run_until(world.now() + 100ms);
  const SimWorld::Node* liar = holders_of(world, 2).at(0);
  liar->compute->set_lie(SimulatedCompute::Lie::wrong_size);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << summary(world) << "\n" << world.describe();
  expect_good_end(world, 40);
  EXPECT_GT(world.totals().rejected_malformed, 0);
}

TEST(Swarm, AnExchangeThatIsNotFiniteIsRefusedAndNobodyTakesItOver) {
  SimWorld world(swarm_config(6, 4, 2, 40));
  while (reached(world) < 5) world.run_until(world.now() + 100ms);
  const SimWorld::Node* liar = holders_of(world, 2).at(0);
  liar->compute->set_lie(SimulatedCompute::Lie::not_finite);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << summary(world) << "\n" << world.describe();
  expect_good_end(world, 40);
  EXPECT_GE(world.totals().rejected_non_finite, 3) << "one in each round: " << summary(world);
  for (const auto& node : world.nodes()) {
    if (!node->compute) continue;
    for (const float value : node->compute->phi()) ASSERT_TRUE(std::isfinite(value)) << node->name;
  }
}

// The owner's wish ends a run also while it waits for a worker that never comes.
TEST(Swarm, TheOwnersWishEndsARunThatHasNotBegun) {
  SimWorld::Config config = swarm_config(4, 4, 2, 40);
  config.workers = 7;
  SimWorld world(config);
  world.run_until(TimePoint{} + 20s);
  ASSERT_EQ(reached(world), 0);
  const std::string_view statement = "finish";
  const ByteView bytes = as_bytes(statement);
  world.observer().worker->on(Worker::FinishWished{Bytes(bytes.begin(), bytes.end())}, world.now());
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 60s)) << world.describe();
  expect_good_end(world, 0);
}

}  // namespace
}  // namespace starling::trainer
