// When a step closes, with what, and what follows: the step clock.
#include <gtest/gtest.h>

#include "tests/pipeline/stage_step_bench.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using membership::PeerState;
using Apply = StageStep::CloseStep::Apply;
using Actions = std::vector<StageStep::Action>;

std::optional<StageStep::CloseStep> closed(const Actions& actions) { return first<StageStep::CloseStep>(actions); }

// A middle worker whose two originators do a step a second, so that tau is 1 s; now in step `step`.
MiddleBench in_step(Step step, StageStep::Config config = {}) {
  MiddleBench b(config);
  for (Step k = 1; k < step; ++k) {
    b.pass_through(microbatch(1, k, 0));
    b.now += 1s;
    b.done(1, k);
    b.done(2, k);
  }
  EXPECT_EQ(b.stage_step.step(), step);
  return b;
}

// ---------------------------------------------------------------- rule 4: exact closing

TEST(StepClock, StepsCountFromOne) {
  MiddleBench b;
  EXPECT_EQ(b.stage_step.step(), 1);
  EXPECT_EQ(b.stage_step.round(), 1);
  EXPECT_EQ(b.stage_step.done_half(b.swarm), 0);
}

TEST(StepClock, AMiddleWorkerClosesWhenEveryLiveOriginatorHas) {
  MiddleBench b;
  b.pass_through(microbatch(1, 1, 0));
  EXPECT_FALSE(closed(b.done(1, 1)));
  const auto close = closed(b.done(2, 1));
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->step, 1);
  EXPECT_EQ(close->apply, Apply::step);
  EXPECT_EQ(close->body_tokens, StageBench::tokens);
  EXPECT_FALSE(close->by_deadline);
  EXPECT_EQ(b.stage_step.step(), 2);
}

TEST(StepClock, AMiddleWorkerWaitsForWhatIsOpenHere) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.done(1, 1);
  EXPECT_FALSE(closed(b.done(2, 1)));
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  EXPECT_TRUE(closed(b.compute(Work::backward)));
}

TEST(StepClock, WhatIsOpenOfALaterStepDoesNotHoldTheClose) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 2, 0)));
  b.done(1, 1);
  EXPECT_TRUE(closed(b.done(2, 1)));
}

TEST(StepClock, OneGivenUpIsNoLongerOpen) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.done(1, 1);
  b.done(2, 1);
  const auto close = closed(b.on(StageStep::Freed{microbatch(1, 1, 0)}));
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->apply, Apply::nothing) << "nothing was added: no step";
}

TEST(StepClock, EvaluationIsNeverOpen) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 7), Direction::forward, Purpose::eval));
  b.done(1, 1);
  EXPECT_TRUE(closed(b.done(2, 1)));
}

TEST(StepClock, SuspectAndDeadOriginatorsAreNotWaitedFor) {
  for (const PeerState state : {PeerState::suspect, PeerState::dead}) {
    MiddleBench b;
    b.done(1, 1);
    set_state(b.swarm, 2, state);
    EXPECT_TRUE(closed(b.on(StageStep::SwarmChanged{})));
  }
}

TEST(StepClock, WithoutALiveOriginatorItStandsStill) {
  MiddleBench b;
  for (const int i : {1, 2}) set_state(b.swarm, i, PeerState::dead);
  b.now += 1h;
  EXPECT_FALSE(closed(b.on()));
  EXPECT_EQ(b.stage_step.done_half(b.swarm), 0);
}

TEST(StepClock, AnOriginatorClosesWhenItsShareIsStartedAndNoneIsOpen) {
  OriginatorBench b;
  b.own_round_trip(microbatch(1, 1, 0));
  EXPECT_EQ(b.stage_step.step(), 1) << "more may be started";
  const auto actions = b.on(StageStep::ShareStarted{1});
  const auto close = closed(actions);
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->body_tokens, StageBench::tokens);
  EXPECT_EQ(close->head_tokens, StageBench::tokens);
  EXPECT_EQ(first<StageStep::AnnounceDone>(actions)->step, 1) << "and says so";
}

TEST(StepClock, AnOriginatorWaitsForItsOpenOnesAndNotForOthers) {
  OriginatorBench b;
  b.on(StageStep::Started{b.header(microbatch(1, 1, 0))});
  b.on(StageStep::ShareStarted{1});
  b.done(2, 1);
  EXPECT_EQ(b.stage_step.step(), 1);
  EXPECT_TRUE(closed(b.on(StageStep::Freed{microbatch(1, 1, 0)}))) << "given up";
}

TEST(StepClock, AMiddleWorkerAnnouncesNothing) {
  MiddleBench b;
  b.done(1, 1);
  EXPECT_FALSE(has<StageStep::AnnounceDone>(b.done(2, 1)));
}

TEST(StepClock, AStepNeverClosesBetweenTheJobsThatAddToIt) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  const auto job = b.stage_step.next_work();
  ASSERT_TRUE(job.has_value());
  b.done(1, 1);
  EXPECT_FALSE(closed(b.done(2, 1))) << "the device is adding to the gradient";
  EXPECT_FALSE(closed(b.on(StageStep::Freed{microbatch(1, 1, 0)}))) << "even of one that is given up meanwhile";
  const auto close = closed(b.computed(*job, Work::backward));
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->body_tokens, StageBench::tokens) << "what was added counts";
}

TEST(StepClock, WhatTheDeviceHasDroppedDoesNotCount) {
  MiddleBench b = in_step(3);
  b.pass_through(microbatch(1, 3, 0));
  b.on(StageStep::SumsDropped{});
  b.pass_through(microbatch(1, 3, 1));
  b.done(1, 3);
  EXPECT_EQ(closed(b.done(2, 3))->body_tokens, StageBench::tokens) << "of the one that came later";
}

TEST(StepClock, AMicrobatchOfAnEarlierStepIsComputedNowAndCountsInThisOne) {
  MiddleBench b = in_step(3);
  b.pass_through(microbatch(2, 2, 5));
  b.done(1, 3);
  EXPECT_EQ(closed(b.done(2, 3))->body_tokens, StageBench::tokens);
}

// ---------------------------------------------------------------- rule 5: the deadline

TEST(StepClock, DHalfIsTheCeilOfHalfTheLiveButAtLeastTwo) {
  MiddleBench b;
  const auto half_of = [&](std::vector<Step> done) {
    membership::Swarm swarm;
    for (std::size_t i = 0; i < done.size(); ++i) add_worker(swarm, static_cast<int>(i) + 1, 0, done[i]);
    return b.stage_step.done_half(swarm);
  };
  EXPECT_EQ(half_of({7}), 7);
  EXPECT_EQ(half_of({7, 3}), 3) << "of two, both";
  EXPECT_EQ(half_of({7, 5, 3}), 5);
  EXPECT_EQ(half_of({7, 5, 3, 1}), 5);
  EXPECT_EQ(half_of({7, 6, 5, 4, 3}), 5);
  EXPECT_EQ(half_of({-1, -1}), 0) << "a D that is not known is 0";
}

TEST(StepClock, AQuarterOfTauAfterHalfHaveClosedTheStepClosesAsItIs) {
  MiddleBench b = in_step(3);
  add_worker(b.swarm, 3, 0, 2);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.compute(Work::forward);
  b.pass_through(microbatch(1, 3, 1));
  b.done(1, 3);
  EXPECT_EQ(b.stage_step.next_deadline(), b.now + 60s) << "one of three is not half: only the age counts";
  EXPECT_FALSE(closed(b.done(2, 3)));
  ASSERT_EQ(b.stage_step.tau(), 1s);
  EXPECT_EQ(b.stage_step.next_deadline(), b.now + 250ms);
  b.now += 249ms;
  EXPECT_FALSE(closed(b.on()));
  b.now += 1ms;
  const auto close = closed(b.on());
  ASSERT_TRUE(close.has_value());
  EXPECT_TRUE(close->by_deadline);
  EXPECT_EQ(close->body_tokens, StageBench::tokens) << "of the one that was done";
  EXPECT_EQ(b.stage_step.kept(), 1U) << "what is open counts in the next step";
}

TEST(StepClock, AnOriginatorIsHeldToTheDeadlineToo) {
  OriginatorBench b;
  b.steps_of_a_second(3);
  add_worker(b.swarm, 3, 0, 2);
  b.on(StageStep::Started{b.header(microbatch(1, 3, 0))});
  b.done(2, 3);
  b.done(3, 3);
  b.now += 250ms;
  const auto actions = b.on();
  ASSERT_TRUE(closed(actions).has_value());
  EXPECT_TRUE(closed(actions)->by_deadline);
  EXPECT_TRUE(has<StageStep::AnnounceDone>(actions));
}

TEST(StepClock, TheDeadlineIsCalledOffWhenAnOriginatorComesBack) {
  MiddleBench b = in_step(3);
  add_worker(b.swarm, 3, 0, 2);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.done(1, 3);
  b.done(2, 3);
  add_worker(b.swarm, 4, 0, 2);
  add_worker(b.swarm, 5, 0, 2);
  b.on(StageStep::SwarmChanged{});
  b.now += 1s;
  EXPECT_FALSE(closed(b.on())) << "two of five are no half";
}

TEST(StepClock, BeforeTheFirstTauOnlyAWholeStepOfTheOthersIsADeadline) {
  MiddleBench b;
  add_worker(b.swarm, 3, 0, 0);
  b.arrive(b.header(microbatch(3, 1, 0)));
  b.compute(Work::forward);
  b.done(1, 1);
  b.done(2, 1);
  b.now += 50s;
  EXPECT_FALSE(closed(b.on())) << "there is no tau to wait by";
  b.done(1, 2);
  const auto close = closed(b.done(2, 2));
  ASSERT_TRUE(close.has_value()) << "half have closed the next step, too";
  EXPECT_TRUE(close->by_deadline);
  EXPECT_EQ(b.stage_step.step(), 2);
}

TEST(StepClock, WithSkipNeverOneWaits) {
  MiddleBench b = in_step(3, {.deadlines = StageStep::Deadlines::off});
  add_worker(b.swarm, 3, 0, 2);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.done(1, 3);
  b.done(2, 3);
  EXPECT_EQ(b.stage_step.next_deadline(), never);
  b.now += 1h;
  EXPECT_FALSE(closed(b.on()));
  EXPECT_EQ(b.stage_step.kept(), 1U) << "and nothing is given up";
}

TEST(StepClock, ADueCloseThatWaitsForTheDeviceNeedsNoTimer) {
  MiddleBench b = in_step(3);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 3, 0), Direction::backward));
  b.stage_step.next_work();
  b.done(1, 3);
  b.done(2, 3);
  b.now += 1s;
  EXPECT_FALSE(closed(b.on()));
  EXPECT_EQ(b.stage_step.next_deadline(), never) << "a timer in the past would spin";
}

// ---------------------------------------------------------------- rule 1: tau

TEST(StepClock, TauBeginsWithTheFirstStepThatWasWholeAndFollowsWithAnEighth) {
  MiddleBench b;
  b.steps_of_a_second(2);
  EXPECT_EQ(b.stage_step.tau(), std::nullopt) << "step 1 began before the others came: its time says nothing";
  b.steps_of_a_second(3);
  EXPECT_EQ(b.stage_step.tau(), 1s);
  b.now += 9s;
  b.done(1, 3);
  b.done(2, 3);
  EXPECT_EQ(b.stage_step.tau(), 2s) << "1 s + (9 s - 1 s) / 8";
}

TEST(StepClock, AStepThatWasJumpedToSaysNothingOfTau) {
  MiddleBench b = in_step(3);
  b.swarm.peers[id_of(1)].done = 6;
  b.done(2, 6);
  EXPECT_EQ(b.stage_step.step(), 7) << "closed 3, jumped to 6, closed that too";
  EXPECT_EQ(b.stage_step.tau(), scale(1s, 7.0 / 8.0)) << "step 3 took no time, step 6 does not count";
}

// ---------------------------------------------------------------- rule 6: closing and catching up

TEST(StepClock, WithAQuarterOfTheUsualTokensItSteps) {
  MiddleBench b;
  for (std::uint32_t i = 0; i < 4; ++i) b.pass_through(microbatch(1, 1, i));
  b.done(1, 1);
  EXPECT_EQ(closed(b.done(2, 1))->apply, Apply::step);
  b.pass_through(microbatch(1, 2, 0));
  b.done(1, 2);
  EXPECT_EQ(closed(b.done(2, 2))->apply, Apply::step) << "one of four is a quarter";
}

TEST(StepClock, WithLessThanAQuarterItKeepsTheSumAndStepsLater) {
  MiddleBench b;
  for (std::uint32_t i = 0; i < 5; ++i) b.pass_through(microbatch(1, 1, i));
  b.done(1, 1);
  b.done(2, 1);
  b.pass_through(microbatch(1, 2, 0));
  b.done(1, 2);
  const auto kept = closed(b.done(2, 2));
  EXPECT_EQ(kept->apply, Apply::keep_sum);
  EXPECT_EQ(b.stage_step.step(), 3) << "k goes on all the same";
  b.pass_through(microbatch(1, 3, 0));
  b.done(1, 3);
  const auto later = closed(b.done(2, 3));
  EXPECT_EQ(later->apply, Apply::step);
  EXPECT_EQ(later->body_tokens, 2 * StageBench::tokens) << "both microbatches are in";
}

TEST(StepClock, WithSkipNeverEveryStepIsMade) {
  MiddleBench b({.deadlines = StageStep::Deadlines::off});
  for (std::uint32_t i = 0; i < 9; ++i) b.pass_through(microbatch(1, 1, i));
  b.done(1, 1);
  b.done(2, 1);
  b.pass_through(microbatch(1, 2, 0));
  b.done(1, 2);
  EXPECT_EQ(closed(b.done(2, 2))->apply, Apply::step);
}

TEST(StepClock, ALossWithoutItsBackwardIsAStepOfTheHead) {
  OriginatorBench b;
  b.on(StageStep::Started{b.header(microbatch(1, 1, 0))});
  b.compute(Work::begin);
  b.on(StageStep::HereAlready{microbatch(1, 1, 0), Direction::forward});
  b.compute(Work::loss);
  b.on(StageStep::ShareStarted{1});
  const auto close = closed(b.on(StageStep::Freed{microbatch(1, 1, 0)}));
  ASSERT_TRUE(close.has_value());
  EXPECT_EQ(close->apply, Apply::step);
  EXPECT_EQ(close->head_tokens, StageBench::tokens);
  EXPECT_EQ(close->body_tokens, 0);
}

TEST(StepClock, WhoIsBehindJumpsToDHalf) {
  MiddleBench b = in_step(3);
  b.swarm.peers[id_of(1)].done = 7;
  const auto actions = b.done(2, 6);
  // Closing 3 it catches up with D_half = 6, which closes at once as all are beyond it.
  const auto steps = only<StageStep::CloseStep>(actions);
  ASSERT_EQ(steps.size(), 2U);
  EXPECT_EQ(steps[0].step, 3);
  EXPECT_EQ(steps[1].step, 6);
  EXPECT_EQ(b.stage_step.step(), 7);
}

TEST(StepClock, AJumpStopsAtTheRoundsEndAndEndsThatRound) {
  MiddleBench b = in_step(3, {.local_steps = 5});
  b.swarm.peers[id_of(1)].done = 8;
  const auto actions = b.done(2, 8);
  const auto round = first<StageStep::EndRound>(actions);
  ASSERT_TRUE(round.has_value());
  EXPECT_EQ(round->round, 1);
  EXPECT_EQ(round->step, 5);
  EXPECT_FALSE(round->last);
  EXPECT_EQ(b.stage_step.step(), 6);
  EXPECT_TRUE(b.stage_step.between_steps());
  b.on(StageStep::RoundFinished{});
  EXPECT_EQ(b.stage_step.step(), 9) << "and then it goes on to D_half and beyond";
}

TEST(StepClock, MoreThanARoundBehindTheWeightsMustBeCopied) {
  MiddleBench b = in_step(3, {.local_steps = 5});
  b.swarm.peers[id_of(1)].done = 10;
  const auto actions = b.done(2, 10);
  EXPECT_TRUE(has<StageStep::FarBehind>(actions));
  EXPECT_TRUE(b.stage_step.between_steps());
  EXPECT_TRUE(b.on().empty());
  EXPECT_EQ(b.stage_step.step(), 4);
  b.on(StageStep::Adopted{.step = 11, .tau = 2s, .stage = 1, .kept_bytes = 100});
  EXPECT_EQ(b.stage_step.step(), 11);
  EXPECT_EQ(b.stage_step.tau(), 2s);
  EXPECT_FALSE(b.stage_step.between_steps());
}

TEST(StepClock, WithSkipNeverNobodyJumps) {
  MiddleBench b = in_step(3, {.deadlines = StageStep::Deadlines::off});
  b.swarm.peers[id_of(1)].done = 6;
  const auto steps = only<StageStep::CloseStep>(b.done(2, 6));
  ASSERT_EQ(steps.size(), 4U);
  for (std::size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i].step, static_cast<Step>(3 + i));
}

// ---------------------------------------------------------------- rule 12: rounds

TEST(StepClock, ARoundEndsWithItsLastStepAndHoldsTheFirstWorkOfTheNext) {
  OriginatorBench b({.local_steps = 1});
  b.own_round_trip(microbatch(1, 1, 0));
  const auto actions = b.on(StageStep::ShareStarted{1});
  ASSERT_TRUE(has<StageStep::EndRound>(actions));
  const auto position = [&](const auto& is) {
    return std::find_if(actions.begin(), actions.end(), is) - actions.begin();
  };
  EXPECT_LT(position([](const auto& a) { return std::holds_alternative<StageStep::AnnounceDone>(a); }),
            position([](const auto& a) { return std::holds_alternative<StageStep::EndRound>(a); }))
      << "Done goes out before the exchange";
  EXPECT_TRUE(b.stage_step.between_steps());
  EXPECT_TRUE(has<StageStep::StepBegan>(b.on(StageStep::RoundFinished{})));
  EXPECT_EQ(b.stage_step.round(), 2);
}

TEST(StepClock, BetweenStepsBackwardAndEvaluationGoOnAndForwardWaits) {
  MiddleBench b({.local_steps = 1});
  b.arrive(b.header(microbatch(1, 2, 1)));
  b.arrive(b.header(microbatch(1, 2, 2)));
  b.done(1, 1);
  EXPECT_TRUE(has<StageStep::EndRound>(b.done(2, 1)));
  EXPECT_EQ(b.stage_step.next_work(), std::nullopt) << "first the exchange";
  b.arrive(b.header(microbatch(1, 2, 8), Direction::forward, Purpose::eval));
  const auto eval = b.stage_step.next_work();
  ASSERT_TRUE(eval.has_value());
  EXPECT_EQ(eval->header.purpose, Purpose::eval);
  b.done(1, 2);
  EXPECT_FALSE(closed(b.done(2, 2))) << "no step closes before the exchange is over";
  b.on(StageStep::RoundFinished{});
  EXPECT_TRUE(b.stage_step.next_work().has_value());
}

// ---------------------------------------------------------------- rule 14: the end

TEST(StepClock, TheLastStepEndsALastRoundAndTraining) {
  MiddleBench b({.local_steps = 5, .last_step = 2});
  b.done(1, 1);
  b.done(2, 1);
  b.done(1, 2);
  const auto round = first<StageStep::EndRound>(b.done(2, 2));
  ASSERT_TRUE(round.has_value());
  EXPECT_TRUE(round->last) << "though the round has five steps";
  EXPECT_TRUE(has<StageStep::TrainingEnded>(b.on(StageStep::RoundFinished{})));
  EXPECT_TRUE(b.stage_step.ended());
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 3, 0))), net::RefuseCode::stale);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 3, 9), Direction::forward, Purpose::eval)), std::nullopt)
      << "the last evaluation is served";
}

TEST(StepClock, ALastStepThatIsBroughtForwardBelowThisOneEndsTheRoundAtOnce) {
  MiddleBench b = in_step(5);
  const auto round = first<StageStep::EndRound>(b.on(StageStep::LastStepSet{3}));
  ASSERT_TRUE(round.has_value());
  EXPECT_TRUE(round->last);
  EXPECT_EQ(round->step, 4);
  EXPECT_FALSE(has<StageStep::EndRound>(b.on(StageStep::LastStepSet{3}))) << "once";
}

TEST(StepClock, ALastStepAheadWaitsForItsTurn) {
  MiddleBench b = in_step(5);
  EXPECT_FALSE(has<StageStep::EndRound>(b.on(StageStep::LastStepSet{5})));
  b.done(1, 5);
  EXPECT_TRUE(first<StageStep::EndRound>(b.done(2, 5))->last);
}

// ---------------------------------------------------------------- copies, stops, late wakes

TEST(StepClock, AStopDropsEverythingAndHoldsTheClock) {
  MiddleBench b = in_step(3);
  b.arrive(b.header(microbatch(1, 3, 0)));
  const auto actions = b.on(StageStep::Stopped{});
  EXPECT_EQ(first<StageStep::Drop>(actions)->why, StageStep::Drop::Why::stopped);
  EXPECT_EQ(b.stage_step.kept(), 0U);
  b.done(1, 3);
  EXPECT_FALSE(closed(b.done(2, 3)));
}

TEST(StepClock, AdoptedStateBringsStepTauStageAndAnEmptySum) {
  MiddleBench b = in_step(3);
  b.pass_through(microbatch(1, 3, 0));
  b.on(StageStep::Stopped{});
  b.on(StageStep::Adopted{.step = 8, .tau = 4s, .stage = 1, .kept_bytes = 7});
  EXPECT_EQ(b.stage_step.tau(), 4s);
  b.swarm.peers[id_of(1)].done = 8;
  EXPECT_EQ(closed(b.done(2, 8))->apply, Apply::nothing) << "the old sum belonged to the old weights";
}

TEST(StepClock, ALateWakeShiftsTheStepAndDropsWhatWasInFlight) {
  MiddleBench b = in_step(3);
  b.arrive(b.header(microbatch(1, 3, 0)));
  const TimePoint began = b.stage_step.step_began();
  b.now += 20s;
  const auto actions = b.on(StageStep::WokeLate{20s});
  EXPECT_EQ(first<StageStep::Drop>(actions)->why, StageStep::Drop::Why::given_up);
  EXPECT_EQ(b.stage_step.step_began(), began + 20s);
}

}  // namespace
}  // namespace starling::pipeline
