// What one run in a thousand meets: a stage of which nobody has a copy, members that send wrong tensors, an end that is
// wished before there was a beginning.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/sim/scenario.h"
#include "tests/sim/swarm_config.h"

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

void expect_good_end(const SimWorld& world, Step last_step) {
  for (const std::string& problem : problems_at_end(world, last_step)) ADD_FAILURE() << problem;
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

TEST(RareEnds, AStageWithoutAnyCopyIsMadeFromItsNeighbours) {
  for (const std::uint64_t seed : seeds(2)) {
    SimWorld::Config config = swarm_config(seed, 4, 4, 60);
    add_log(config);
    SimWorld world(config);
    while (reached(world) < 15) world.run_until(world.now() + 100ms);
    lose_stage_2_and_its_copies(world);
    while (holders_of(world, 2).empty() && world.now() < TimePoint{} + 300s) world.run_until(world.now() + 10ms);
    const auto takers = holders_of(world, 2);
    ASSERT_EQ(takers.size(), 1U) << "seed " << seed << ": " << world.describe();
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
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << "seed " << seed << ": " << world.describe();
    expect_good_end(world, 60);
  }
}

TEST(RareEnds, AStageThatIsLostBeforeTheFirstRoundEndsIsDrawnAgain) {
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
  ASSERT_EQ(takers.size(), 1U) << world.describe();
  ASSERT_LT(reached(world), 40);
  EXPECT_EQ(takers[0]->takeovers, std::vector<std::string>{"seed"});
  EXPECT_TRUE(std::equal(drawn.begin(), drawn.end(), takers[0]->compute->phi().begin()));
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 60);
}

// `pipeline.takeover: never` is what an experiment compares with: the stage is skipped to the end.
TEST(RareEnds, WithoutTakeoverALostStageIsSkippedToTheEnd) {
  SimWorld::Config config = swarm_config(8, 4, 2, 40);
  config.worker.pipeline.takeover = pipeline::Takeover::never;
  SimWorld world(config);
  while (reached(world) < 10) world.run_until(world.now() + 100ms);
  for (const SimWorld::Node* replica : holders_of(world, 2)) {
    world.apply({.kind = sim::Fault::Kind::crash, .node = replica->index});
  }
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 40);
  EXPECT_EQ(world.totals().takeovers, 0);
  EXPECT_GT(world.totals().completed_with_skips, 0);
}

// On slow lines an exchange lasts as long as a copy, so some of these joiners ask in its middle. The world compares each copy
// with its donor; one with the weights of before the exchange would not be equal.
TEST(RareEnds, ACopyAskedForDuringAnExchangeIsOfTheWeightsAfterIt) {
  int copies = 0;
  for (int i = 0; i < 24; ++i) {
    SimWorld::Config config = swarm_config(11, 2, 2, 24);
    config.network.link.latency = 150ms;
    config.joiners = 1;
    SimWorld world(config);
    while (reached(world) < 8) world.run_until(world.now() + 100ms);
    world.run_until(world.now() + i * 150ms);
    world.apply({.kind = sim::Fault::Kind::join, .node = config.workers});
    EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
    expect_good_end(world, 24);
    for (const auto& node : world.nodes()) copies += node->copies > 0 ? 1 : 0;
  }
  EXPECT_GT(copies, 12) << "of 24 joiners";
}

// A member whose tensors are wrong: whoever gets them refuses and counts them, and the run goes on to its end.
TEST(RareEnds, TensorsOfAWrongSizeAreRefusedAndTheRunGoesOn) {
  SimWorld world(swarm_config(5, 4, 2, 40));
  while (reached(world) < 5) world.run_until(world.now() + 100ms);
  const SimWorld::Node* liar = holders_of(world, 2).at(0);
  liar->compute->set_lie(SimulatedCompute::Lie::wrong_size);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 40);
  EXPECT_GT(world.totals().rejected_malformed, 0);
}

void expect_finite_weights(const SimWorld& world) {
  for (const auto& node : world.nodes()) {
    if (!node->compute) continue;
    for (const float value : node->compute->theta()) ASSERT_TRUE(std::isfinite(value)) << node->name;
    for (const float value : node->compute->phi()) ASSERT_TRUE(std::isfinite(value)) << node->name;
  }
}

TEST(RareEnds, AnExchangeThatIsNotFiniteIsRefusedAndNobodyTakesItOver) {
  SimWorld world(swarm_config(6, 4, 2, 40));
  while (reached(world) < 5) world.run_until(world.now() + 100ms);
  const SimWorld::Node* liar = holders_of(world, 2).at(0);
  liar->compute->set_lie(SimulatedCompute::Lie::not_finite);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 40);
  EXPECT_GE(world.totals().rejected_non_finite, 3) << "one in each round: " << world.describe();
  expect_finite_weights(world);
}

// Weights that diverge in the middle of a round: three steps later the worker is back at those of the last exchange, and
// nobody else has taken anything from it that is not finite.
class DivergedWeights : public testing::TestWithParam<Stage> {};

TEST_P(DivergedWeights, AreReloadedAfterThreeSteps) {
  SimWorld::Config config = swarm_config(8, 4, 2, 60);
  config.worker.outer.local_steps = 20;
  SimWorld world(config);
  while (reached(world) < 23) world.run_until(world.now() + 10ms);
  const SimWorld::Node* const diverged = holders_of(world, GetParam()).at(0);
  diverged->compute->poison();
  const Step poisoned_at = reached(world);
  while (diverged->worker->counters().reloads == 0 && reached(world) < 38) world.run_until(world.now() + 10ms);
  EXPECT_EQ(diverged->worker->counters().reloads, 1) << world.describe();
  EXPECT_LE(reached(world), poisoned_at + 6) << "three steps, those under way aside";
  const std::size_t steps = diverged->compute->ledger().size();
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 60);
  EXPECT_GT(diverged->compute->ledger().size(), steps + 15) << "it trains again";
  EXPECT_EQ(world.totals().reloads, 1);
  EXPECT_EQ(world.totals().rejected_norm, 0);
  expect_finite_weights(world);
}

// All weights of a replica of `stage` become `value` in the last step of the second round, and the run goes on to its end.
void play_poisoned_before_an_exchange(SimWorld& world, Stage stage, float value) {
  while (reached(world) < 39) world.run_until(world.now() + 1ms);
  holders_of(world, stage).at(0)->compute->poison(value);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 60);
}

// At the end of a round: the exchange finds no delta that is finite, takes none, and sets the weights right.
TEST_P(DivergedWeights, OfTheLastStepBeforeAnExchangeAreNotExchanged) {
  SimWorld::Config config = swarm_config(9, 4, 2, 60);
  config.worker.outer.local_steps = 20;
  SimWorld world(config);
  play_poisoned_before_an_exchange(world, GetParam(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(world.totals().reloads, 0);
  expect_finite_weights(world);
}

// Nor are weights that are finite and have left everything behind.
TEST_P(DivergedWeights, ThatAreFiniteAreNotExchangedEither) {
  SimWorld::Config config = swarm_config(14, 4, 2, 60);
  config.worker.outer.local_steps = 20;
  SimWorld world(config);
  play_poisoned_before_an_exchange(world, GetParam(), 1.0e12F);
  for (const auto& node : world.nodes()) {
    if (!node->compute) continue;
    for (const float value : node->compute->phi()) ASSERT_LT(std::abs(value), 1.0e9F) << node->name;
  }
}

// Slow weights that are not finite either: a replica gives its own, and nobody takes over what is not finite.
TEST_P(DivergedWeights, WithoutGoodSlowWeightsComeFromAReplica) {
  SimWorld::Config config = swarm_config(10, 4, 2, 60);
  config.worker.outer.local_steps = 20;
  SimWorld world(config);
  while (reached(world) < 23) world.run_until(world.now() + 10ms);
  const SimWorld::Node* const diverged = holders_of(world, GetParam()).at(0);
  diverged->compute->poison_slow_weights();
  const std::int64_t copies = diverged->copies;
  const std::size_t steps = diverged->compute->ledger().size();
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 60);
  EXPECT_EQ(diverged->copies, copies + 1) << world.describe();
  EXPECT_GT(diverged->compute->ledger().size(), steps + 15) << "it trains again";
  EXPECT_EQ(world.totals().reloads, 0);
  expect_finite_weights(world);
}

// Two steps that are not finite and a good one after them, twice: nothing is reloaded. A third in a row is one too many.
TEST_P(DivergedWeights, AGoodStepBeginsTheCountAnew) {
  SimWorld world(swarm_config(11, 4, 2, 80));
  while (reached(world) < 5) world.run_until(world.now() + 10ms);
  const SimWorld::Node* const node = holders_of(world, GetParam()).at(0);
  const auto after_spoiled = [&](int spoiled) {
    const std::size_t steps = node->compute->ledger().size();
    node->compute->spoil_gradients(spoiled);
    while (node->compute->ledger().size() < steps + 4 && reached(world) < 79) world.run_until(world.now() + 10ms);
    return node->worker->counters().reloads;
  };
  EXPECT_EQ(after_spoiled(2), 0);
  EXPECT_EQ(after_spoiled(2), 0);
  EXPECT_EQ(after_spoiled(3), 1);
  EXPECT_EQ(after_spoiled(2), 1) << "so does a reload";
  EXPECT_EQ(after_spoiled(6), 3);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 80);
}

INSTANTIATE_TEST_SUITE_P(Stages, DivergedWeights, testing::Values(0, 2));

// The device checks that the borders of each microbatch reach every stage, by whatever way: here half of the workers die.
TEST(RareEnds, TheBordersOfDocumentsTravelWithTheirMicrobatch) {
  SimWorld::Config config = swarm_config(12, 4, 3, 40);
  config.worker.training.document_attention = true;
  config.compute.document_attention = true;
  SimWorld world(config);
  while (reached(world) < 10) world.run_until(world.now() + 100ms);
  for (std::size_t node = 0; node < 6; ++node) world.apply({.kind = sim::Fault::Kind::crash, .node = node});
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 1200s)) << world.describe();
  expect_good_end(world, 40);
  EXPECT_EQ(world.totals().rejected_malformed, 0);
}

// Borders that a run does not have, or beyond the last row, are no offer of it.
TEST(RareEnds, BordersThatNobodyAskedForAreRefused) {
  SimWorld::Config config = swarm_config(13, 4, 2, 30);
  config.compute.document_attention = true;
  SimWorld world(config);
  world.run_until(TimePoint{} + 30s);
  EXPECT_GT(world.totals().rejected_malformed, 0);
}

// The owner's wish ends a run also while it waits for a worker that never comes.
TEST(RareEnds, TheOwnersWishEndsARunThatHasNotBegun) {
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
