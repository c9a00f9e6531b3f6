// What an originator starts, how much of it, and when it gives up.
#include "pipeline/originator.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using membership::PeerState;
using membership::Swarm;

Swarm originators(std::vector<double> microbatch_seconds) {
  Swarm swarm;
  swarm.self = id_of(1);
  int number = 0;
  for (const double s : microbatch_seconds) add_worker(swarm, ++number, 0, 0).record.microbatch_seconds = s;
  return swarm;
}

std::vector<std::int64_t> shares(const Swarm& swarm, Routing routing, std::int64_t microbatches, std::int64_t replicas) {
  std::vector<std::int64_t> out;
  for (const auto& [id, share] : batch_shares(swarm, routing, microbatches, replicas)) out.push_back(share);
  return out;
}

using Shares = std::vector<std::int64_t>;

TEST(BatchShares, EqualOriginatorsShareEquallyAndLowSlotsTakeTheRemainder) {
  const Swarm swarm = originators({0.1, 0.1, 0.1});
  EXPECT_EQ(shares(swarm, Routing::adaptive, 16, 2), (Shares{11, 11, 10}));
  EXPECT_EQ(shares(originators({0.1, 0.125}), Routing::adaptive, 8, 2), (Shares{8, 8})) << "1.25 times is still equal";
}

TEST(BatchShares, TheRemainderGoesByPlaceAmongTheSlotsNotByIds) {
  Swarm swarm = originators({0.1, 0.1});
  swarm.peers[id_of(1)].record.slot = 7;
  swarm.peers[id_of(2)].record.slot = 3;
  EXPECT_EQ(shares(swarm, Routing::adaptive, 5, 1), (Shares{2, 3}));
}

TEST(BatchShares, UnequalOnesShareBySpeedAndTheBatchIsKept) {
  EXPECT_EQ(shares(originators({0.1, 0.3}), Routing::adaptive, 8, 2), (Shares{12, 4})) << "1 + 14 x 3/4, 1 + 14 x 1/4";
  for (const std::int64_t batch : {2, 3, 7, 16, 31}) {
    const auto all = shares(originators({0.1, 0.17, 1.0, 0.45}), Routing::adaptive, 2 * batch, 4);
    EXPECT_EQ(std::accumulate(all.begin(), all.end(), std::int64_t{0}), 8 * batch);
  }
}

TEST(BatchShares, NobodyGetsLessThanOneOrMoreThanFourTimesItsOwn) {
  EXPECT_EQ(shares(originators({0.001, 10.0}), Routing::adaptive, 2, 2), (Shares{3, 1}));
  EXPECT_EQ(shares(originators({0.1}), Routing::adaptive, 4, 8), (Shares{16})) << "32 are missing, 4 x 4 may be taken over";
  EXPECT_EQ(shares(originators({0.1, 0.1, 0.1}), Routing::adaptive, 2, 1), (Shares{1, 1, 1})) << "more originators than work";
}

TEST(BatchShares, PermutationSharesEquallyWhateverTheSpeeds) {
  EXPECT_EQ(shares(originators({0.1, 1.0}), Routing::permutation, 8, 2), (Shares{8, 8}));
}

TEST(BatchShares, WhoIsNotMeasuredYetCountsAsEqual) {
  EXPECT_EQ(shares(originators({0.1, 0.0}), Routing::adaptive, 8, 2), (Shares{8, 8}));
}

TEST(BatchShares, OnlyLiveOriginatorsShare) {
  Swarm swarm = originators({0.1, 0.1});
  add_worker(swarm, 11, 1);
  set_state(swarm, 2, PeerState::suspect);
  const auto all = batch_shares(swarm, Routing::adaptive, 8, 2);
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all.at(id_of(1)), 16);
  EXPECT_TRUE(batch_shares(Swarm{}, Routing::adaptive, 8, 2).empty());
}

TEST(MissingToStart, NamesWorkersAndStages) {
  Swarm swarm = originators({0.1, 0.1});
  EXPECT_EQ(missing_to_start(swarm, 3, 4), "2 of 4 workers, a worker for stage 1, a worker for stage 2");
  add_worker(swarm, 11, 1);
  add_worker(swarm, 21, 2);
  EXPECT_EQ(missing_to_start(swarm, 3, 4), "");
  set_state(swarm, 21, PeerState::dead);
  EXPECT_EQ(missing_to_start(swarm, 3, 3), "a worker for stage 2");
}

struct Bench {
  explicit Bench(std::vector<double> speeds = {0.1}, Originator::Config config = {})
      : swarm(originators(std::move(speeds))), originator([&] {
          config.self = id_of(1);
          config.boot = 1;
          if (config.last_step == 0) config.last_step = 100;
          return config;
        }()) {}
  std::vector<Originator::Action> on(const Originator::Event& event = Originator::Look{}) {
    return originator.on(event, swarm, clock, now);
  }
  std::vector<MicrobatchId> started(const std::vector<Originator::Action>& actions) {
    std::vector<MicrobatchId> out;
    for (const auto& start : only<Originator::Start>(actions)) out.push_back(start.microbatch);
    return out;
  }
  // One microbatch from its start to its end.
  void complete_one(Duration took) {
    const auto ids = started(on());
    ASSERT_FALSE(ids.empty());
    now += took;
    for (const auto& id : ids) on(Originator::Completed{id});
  }

  Swarm swarm;
  Originator::Clock clock{.step = 1, .paused = false};
  TimePoint now = at(100s);
  Originator originator;
};

TEST(Originator, StartsItsShareNumbersItAndSaysSoOnce) {
  Bench b({0.1}, {.microbatches = 4, .stages = 4});
  auto actions = b.on();
  EXPECT_EQ(b.started(actions), (std::vector{microbatch(1, 1, 0), microbatch(1, 1, 1), microbatch(1, 1, 2), microbatch(1, 1, 3)}));
  ASSERT_TRUE(first<Originator::ShareStarted>(actions).has_value());
  EXPECT_EQ(first<Originator::ShareStarted>(actions)->step, 1);
  EXPECT_TRUE(b.on().empty());
  b.clock.step = 2;
  EXPECT_EQ(b.started(b.on()).front(), microbatch(1, 2, 0)) << "the next step counts from zero";
}

// Reports go up and down within a step: a share that followed them up would never come down.
TEST(Originator, KeepsItsShareOfAStepUntilSomebodyIsGone) {
  Bench b({0.1, 0.1}, {.microbatches = 8, .replicas = 2, .stages = 4, .max_in_flight = 64});
  const auto at_first = b.started(b.on()).size();
  EXPECT_EQ(at_first, 8U);
  b.swarm.peers[id_of(2)].record.microbatch_seconds = 0.4;
  EXPECT_TRUE(b.started(b.on()).empty());
  set_state(b.swarm, 2, PeerState::dead);
  EXPECT_EQ(at_first + b.started(b.on()).size(), 16U) << "the batch is kept";
}

TEST(Originator, WaitsWhilePausedAndAfterTheLastStep) {
  Bench b({0.1}, {.microbatches = 4, .last_step = 3});
  b.clock.paused = true;
  EXPECT_TRUE(b.on().empty());
  b.clock.paused = false;
  b.clock.step = 4;
  b.clock.done_half = 3;
  EXPECT_TRUE(b.on().empty());
  b.clock.step = 3;
  EXPECT_FALSE(b.on().empty());
  b.originator.set_last_step(2);
  b.on(Originator::StoppedAll{});
  EXPECT_TRUE(b.on().empty()) << "the last step was brought forward";
}

TEST(Originator, KeepsAtLeastTwiceTheStagesInFlight) {
  Bench b({0.1}, {.microbatches = 64, .stages = 4});
  EXPECT_EQ(b.started(b.on()).size(), 8U);
  EXPECT_EQ(b.originator.open(), 8U);
  EXPECT_FALSE(has<Originator::ShareStarted>(b.on()));
  EXPECT_EQ(b.started(b.on(Originator::Completed{microbatch(1, 1, 3)})).size(), 1U) << "one home, one starts";
}

TEST(Originator, KeepsAsManyInFlightAsCompletionTimeAsksFor) {
  Bench b({0.1}, {.microbatches = 100, .stages = 2});
  b.clock.own_seconds = 0.1;
  const auto ids = b.started(b.on());
  ASSERT_EQ(ids.size(), 4U);
  b.now += 1s;
  EXPECT_EQ(b.started(b.on(Originator::Completed{ids[0]})).size(), 12U) << "ceil(1.5 x 1 s / 0.1 s) = 15, three are open";
}

TEST(Originator, MemoryAndTheConfigBoundWhatIsInFlight) {
  Bench memory({0.1}, {.microbatches = 64, .stages = 4, .memory_microbatches = 3});
  EXPECT_EQ(memory.started(memory.on()).size(), 3U);
  Bench configured({0.1}, {.microbatches = 64, .stages = 4, .max_in_flight = 5});
  EXPECT_EQ(configured.started(configured.on()).size(), 5U);
  Bench tight({0.1}, {.microbatches = 64, .stages = 4, .memory_microbatches = 0});
  EXPECT_EQ(tight.started(tight.on()).size(), 1U) << "never none at all";
}

TEST(Originator, TheLeadBoundHoldsNewWorkForTwoTaus) {
  Bench b({0.1}, {.microbatches = 4});
  b.clock = {.step = 5, .done_half = 2, .began = b.now, .tau = 3s, .paused = false};
  EXPECT_TRUE(b.on().empty()) << "k = 5 > 2 + 2";
  EXPECT_EQ(b.originator.next_deadline(), b.now + 6s) << "a timer of its own";
  b.now += 5999ms;
  EXPECT_TRUE(b.on().empty());
  b.now += 1ms;
  EXPECT_EQ(b.started(b.on()).size(), 4U);
}

TEST(Originator, TheLeadBoundEndsWhenTheOthersFollow) {
  Bench b({0.1}, {.microbatches = 4});
  b.clock = {.step = 5, .done_half = 2, .began = b.now, .tau = 3s, .paused = false};
  EXPECT_TRUE(b.on().empty());
  b.clock.done_half = 3;
  EXPECT_EQ(b.started(b.on()).size(), 4U) << "k = 5 <= 3 + 2";
}

TEST(Originator, WithoutTauTheLeadBoundHasNoTimer) {
  Bench b({0.1}, {.microbatches = 4});
  b.clock = {.step = 5, .done_half = 2, .began = b.now, .paused = false};
  b.now += 1h;
  EXPECT_TRUE(b.on().empty());
  EXPECT_EQ(b.originator.next_deadline(), never);
}

TEST(Originator, WithoutGiveUpsNobodyIsHeldByTheLeadBound) {
  Bench b({0.1}, {.give_ups = Originator::GiveUps::off, .microbatches = 4});
  b.clock = {.step = 5, .done_half = 2, .began = b.now, .tau = 3s, .paused = false};
  EXPECT_EQ(b.started(b.on()).size(), 4U);
  EXPECT_EQ(b.originator.next_deadline(), never) << "and nothing is given up";
  b.now += 24h;
  EXPECT_FALSE(has<Originator::GiveUp>(b.on()));
}

TEST(Originator, GivesUpAfterAMinuteBeforeAnythingWasCompleted) {
  Bench b({0.1}, {.microbatches = 1, .stages = 4});
  const auto actions = b.on();
  EXPECT_EQ(first<Originator::Start>(actions)->give_up_age, 60s);
  EXPECT_EQ(b.originator.next_deadline(), b.now + 60s);
  b.now += 59999ms;
  EXPECT_FALSE(has<Originator::GiveUp>(b.on()));
  b.now += 1ms;
  const auto given = first<Originator::GiveUp>(b.on());
  ASSERT_TRUE(given.has_value());
  EXPECT_EQ(given->microbatch, microbatch(1, 1, 0));
  EXPECT_EQ(b.originator.open(), 0U);
}

TEST(Originator, WhatWasStartedBlindlyIsGivenUpByTheFirstCompletions) {
  Bench b({0.1}, {.microbatches = 2, .stages = 4});
  const auto ids = b.started(b.on());
  ASSERT_EQ(ids.size(), 2U);
  b.now += 2s;
  b.on(Originator::Completed{ids[0]});
  EXPECT_EQ(b.originator.next_deadline(), b.now + 5s) << "3 x 2 s + 1 s from its start, not a minute";
  b.now += 5s;
  const auto given = first<Originator::GiveUp>(b.on());
  ASSERT_TRUE(given.has_value());
  EXPECT_EQ(given->microbatch, ids[1]);
}

// A taker of stage 0, or a newcomer: others have told it how long a step lasts.
TEST(Originator, WhoKnowsTheStepTimeNeedNotWaitAMinute) {
  Bench b({0.1}, {.microbatches = 1, .stages = 4});
  b.clock.tau = 2s;
  EXPECT_EQ(first<Originator::Start>(b.on())->give_up_age, 13s);
}

TEST(Originator, TheGiveUpAgeFollowsCompletionTimesAndItsOwnMistakes) {
  Bench b({0.1}, {.microbatches = 1, .stages = 4});
  b.complete_one(2s);
  EXPECT_EQ(b.originator.give_up_age(), 7s) << "3 x 2 s + 1 s";
  for (int i = 1; i <= 2; ++i) {
    ++b.clock.step;
    b.clock.done_half = b.clock.step - 1;
    b.on();
    b.now += 20s;
    EXPECT_TRUE(has<Originator::GiveUp>(b.on()));
  }
  EXPECT_NEAR(seconds(b.originator.give_up_age()), 7.0 * 1.2 * 1.2, 1e-6);
  ++b.clock.step;
  b.clock.done_half = b.clock.step - 1;
  b.complete_one(2s);
  EXPECT_NEAR(seconds(b.originator.give_up_age()), 7.0 * 1.2 * 1.2 * 0.8, 1e-6);
  ++b.clock.step;
  b.clock.done_half = b.clock.step - 1;
  b.complete_one(2s);
  EXPECT_EQ(b.originator.give_up_age(), 7s) << "never below one";
}

TEST(Originator, TheGiveUpAgeGrowsToSixtyFourTimesAndNoFurther) {
  Bench b({0.1}, {.microbatches = 1, .stages = 4});
  b.complete_one(2s);
  for (int i = 0; i < 40; ++i) {
    ++b.clock.step;
    b.clock.done_half = b.clock.step - 1;
    b.on();
    b.now += 1h;
    b.on();
  }
  EXPECT_EQ(b.originator.give_up_age(), 64 * 7s);
}

TEST(Originator, SpeedFallsWithDeadlinesToAThirdAndRecovers) {
  Bench b;
  EXPECT_EQ(b.originator.speed_factor(), 1.0);
  b.on(Originator::ClosedByDeadline{});
  const double lowered = b.originator.speed_factor();
  EXPECT_LT(lowered, 1.0);
  b.on(Originator::ClosedInTime{});
  EXPECT_NEAR(b.originator.speed_factor(), lowered * 1.05, 1e-12);
  for (int i = 0; i < 50; ++i) b.on(Originator::ClosedByDeadline{});
  EXPECT_EQ(b.originator.speed_factor(), 0.3);
  for (int i = 0; i < 100; ++i) b.on(Originator::ClosedInTime{});
  EXPECT_EQ(b.originator.speed_factor(), 1.0) << "never faster than it is";
}

TEST(Originator, WhatIsLostIsNotStartedAgain) {
  Bench b({0.1}, {.microbatches = 2, .stages = 4});
  b.on();
  EXPECT_TRUE(b.on(Originator::Lost{microbatch(1, 1, 0)}).empty());
  EXPECT_EQ(b.originator.open(), 1U);
  b.on(Originator::Completed{microbatch(1, 1, 0)});  // of no effect: it is not open
  EXPECT_EQ(b.originator.open(), 1U);
}

TEST(Originator, AStopNeverReusesANumberOfThisStep) {
  Bench b({0.1}, {.microbatches = 6, .stages = 2});
  EXPECT_EQ(b.started(b.on()).size(), 4U);
  b.clock.paused = true;
  EXPECT_TRUE(b.on(Originator::StoppedAll{}).empty());
  EXPECT_EQ(b.originator.open(), 0U);
  b.clock.paused = false;
  const auto actions = b.on();
  EXPECT_EQ(b.started(actions), (std::vector{microbatch(1, 1, 4), microbatch(1, 1, 5)}));
  EXPECT_TRUE(has<Originator::ShareStarted>(actions)) << "and says again that its share is started";
}

TEST(Originator, TakesOverTheShareOfOneWhoDies) {
  Bench b({0.1, 0.1}, {.microbatches = 4, .replicas = 2, .stages = 8});
  EXPECT_EQ(b.started(b.on()).size(), 4U);
  set_state(b.swarm, 2, PeerState::dead);
  const auto actions = b.on();
  EXPECT_EQ(b.started(actions).size(), 4U);
  EXPECT_FALSE(has<Originator::ShareStarted>(actions)) << "said once a step: the step may close with the others'";
}

TEST(Originator, WhoIsNoLiveOriginatorStartsNothing) {
  Bench b({0.1});
  set_state(b.swarm, 1, PeerState::suspect);
  EXPECT_TRUE(b.on().empty());
}

}  // namespace
}  // namespace starling::pipeline
