// Which microbatches come in, which wait, what runs next, and what is freed when.
#include <gtest/gtest.h>

#include "tests/pipeline/stage_step_bench.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using net::RefuseCode;
using Where = StageStep::Where;
using Why = StageStep::Drop::Why;

// ---------------------------------------------------------------- what is refused, and how

TEST(StageStep, TakesAnswersAndComputesAForward) {
  MiddleBench b;
  const auto id = microbatch(1, 1, 0);
  const auto taken = b.offer(b.header(id));
  ASSERT_TRUE(has<StageStep::Take>(taken));
  EXPECT_EQ(first<StageStep::Take>(taken)->from, id_of(1));
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::arriving);
  const auto arrived = b.on(StageStep::Arrived{id_of(1), b.transfer_, b.header(id)});
  EXPECT_EQ(first<StageStep::Acknowledge>(arrived)->eta, 1s) << "before the first measurement";
  EXPECT_TRUE(has<StageStep::Run>(arrived));
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::ready);
  const auto next = b.stage_step.next_work();
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::computing);
  EXPECT_EQ(b.stage_step.next_work(), std::nullopt);
  b.computed(*next, Work::forward);
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::open);
}

TEST(StageStep, RefusesWhatIsForAnotherStage) {
  MiddleBench b;
  auto header = b.header(microbatch(1, 1, 0));
  header.stage = 2;
  EXPECT_EQ(b.refusal(header), RefuseCode::wrong_stage);
}

TEST(StageStep, AnOriginatorTakesNoForwardOfOthers) {
  OriginatorBench b;
  EXPECT_EQ(b.refusal(b.header(microbatch(2, 1, 0)), 2), RefuseCode::wrong_stage);
}

TEST(StageStep, RefusesASecondCopyWhileTheFirstIsHere) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0)), 2), RefuseCode::duplicate);
  b.compute(Work::forward);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0)), 2), RefuseCode::duplicate);
  b.arrive(b.header(microbatch(1, 1, 9), Direction::forward, Purpose::eval));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 9), Direction::forward, Purpose::eval)), RefuseCode::duplicate);
}

TEST(StageStep, RefusesWhatWasAdded) {
  MiddleBench b;
  b.pass_through(microbatch(1, 1, 0));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0))), RefuseCode::done);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0), Direction::backward)), RefuseCode::done);
  EXPECT_EQ(b.stage_step.where(microbatch(1, 1, 0), Direction::backward), Where::finished);
  auto next_boot = microbatch(1, 1, 0);
  next_boot.boot = 2;
  EXPECT_EQ(b.refusal(b.header(next_boot)), std::nullopt) << "another life, another numbering";
}

TEST(StageStep, WhatIsOlderThanTheLastEightStepsCountsAsAdded) {
  MiddleBench b({.deadlines = StageStep::Deadlines::off});
  for (Step k = 1; k <= 9; ++k) {
    b.pass_through(microbatch(1, k, 0));
    b.done(1, k);
    b.done(2, k);
  }
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 5))), RefuseCode::done) << "step 1 is remembered no more";
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 2, 5))), RefuseCode::stale) << "step 2 is remembered, and too old";
}

TEST(StageStep, RefusesAForwardMoreThanTwoStepsOld) {
  MiddleBench b;
  for (Step k = 1; k <= 3; ++k) {
    b.done(1, k);
    b.done(2, k);
  }
  ASSERT_EQ(b.stage_step.step(), 4);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0))), RefuseCode::stale);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 2, 0))), std::nullopt);
}

TEST(StageStep, RefusesABackwardWithoutAGraph) {
  MiddleBench b;
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0), Direction::backward)), RefuseCode::unknown);
  b.arrive(b.header(microbatch(1, 1, 0)));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0), Direction::backward)), RefuseCode::unknown) << "not computed yet";
}

TEST(StageStep, RefusesASecondBackward) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0), Direction::backward)), RefuseCode::duplicate);
}

TEST(StageStep, DropsAGradientOfWeightsMoreThanTwoStepsOld) {
  MiddleBench b;
  b.steps_of_a_second(3);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.compute(Work::forward);
  const auto step_by_deadline = [&](Step k) {
    b.done(1, k);
    b.done(2, k);
    b.now += 250ms;
    b.on();
  };
  for (Step k = 3; k <= 5; ++k) step_by_deadline(k);
  ASSERT_EQ(b.stage_step.step(), 6);
  const auto actions = b.offer(b.header(microbatch(1, 3, 0), Direction::backward));
  EXPECT_EQ(first<StageStep::Refuse>(actions)->code, RefuseCode::stale);
  EXPECT_EQ(first<StageStep::Drop>(actions)->why, Why::stale);
  EXPECT_EQ(b.stage_step.kept(), 0U) << "its graph is freed at once";
}

TEST(StageStep, TakesAGradientOfWeightsTwoStepsOld) {
  MiddleBench b;
  b.steps_of_a_second(3);
  b.arrive(b.header(microbatch(1, 3, 0)));
  b.compute(Work::forward);
  for (Step k = 3; k <= 4; ++k) {
    b.done(1, k);
    b.done(2, k);
    b.now += 250ms;
    b.on();
  }
  ASSERT_EQ(b.stage_step.step(), 5);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 3, 0), Direction::backward)), std::nullopt);
}

// ---------------------------------------------------------------- at home

TEST(StageStep, TheFirstBranchHomeWins) {
  OriginatorBench b;
  const auto id = microbatch(1, 1, 0);
  b.on(StageStep::Started{b.header(id)});
  b.compute(Work::begin);
  b.arrive(b.header(id), 11);
  EXPECT_EQ(b.refusal(b.header(id), 12), RefuseCode::done) << "while the first is arriving, computing or beyond";
  b.compute(Work::loss);
  EXPECT_EQ(b.refusal(b.header(id), 12), RefuseCode::done);
}

TEST(StageStep, ABranchWhoseTransferFailsLeavesTheWayHomeOpen) {
  OriginatorBench b;
  const auto id = microbatch(1, 1, 0);
  b.on(StageStep::Started{b.header(id)});
  b.compute(Work::begin);
  EXPECT_TRUE(has<StageStep::Take>(b.offer(b.header(id), 11)));
  b.on(StageStep::ArrivalFailed{b.header(id)});
  b.arrive(b.header(id), 12);
  b.compute(Work::loss);
}

TEST(StageStep, HomeOfOneThatIsGoneIsDone) {
  OriginatorBench b;
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0)), 11), RefuseCode::done);
}

TEST(StageStep, WithNobodyOnTheWayLossAndBackwardFollowAtOnce) {
  OriginatorBench b;
  const auto id = microbatch(1, 1, 0);
  b.own_round_trip(id);
  EXPECT_EQ(b.stage_step.kept(), 0U);
  EXPECT_TRUE(b.on(StageStep::HereAlready{id, Direction::backward}).empty()) << "it is over";
}

TEST(StageStep, HereAlreadyIsOfNoEffectWhenABranchCameHomeMeanwhile) {
  OriginatorBench b;
  const auto id = microbatch(1, 1, 0);
  b.on(StageStep::Started{b.header(id)});
  b.compute(Work::begin);
  b.arrive(b.header(id), 11);
  EXPECT_FALSE(has<StageStep::Run>(b.on(StageStep::HereAlready{id, Direction::forward})));
}

// ---------------------------------------------------------------- held, displaced, full

TEST(StageStep, AMicrobatchOfALaterStepIsHeldUntilItsStepBegins) {
  MiddleBench b;
  const auto id = microbatch(1, 2, 0);
  b.arrive(b.header(id));
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::held);
  EXPECT_EQ(b.stage_step.next_work(), std::nullopt);
  b.done(1, 1);
  EXPECT_TRUE(has<StageStep::Run>(b.done(2, 1)));
  b.compute(Work::forward);
}

TEST(StageStep, EvaluationIsNeverHeld) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 5, 9), Direction::forward, Purpose::eval));
  b.compute(Work::forward);
  EXPECT_EQ(b.stage_step.kept_bytes(), 0) << "and takes no activation memory";
}

TEST(StageStep, AtTheMemoryLimitANewcomerIsRefusedAsFull) {
  MiddleBench b({.memory_bytes = 2 * StageBench::kept_bytes});
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.arrive(b.header(microbatch(1, 1, 1)));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 2))), RefuseCode::full);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 9), Direction::forward, Purpose::eval)), std::nullopt);
  EXPECT_LE(b.stage_step.kept_bytes(), 2 * StageBench::kept_bytes);
}

TEST(StageStep, HeldOnesTakeAtMostHalf) {
  MiddleBench b({.memory_bytes = 4 * StageBench::kept_bytes});
  b.arrive(b.header(microbatch(1, 2, 0)));
  b.arrive(b.header(microbatch(1, 2, 1)));
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 2, 2))), RefuseCode::full);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0))), std::nullopt);
}

TEST(StageStep, OneOfThisStepDisplacesTheYoungestHeldOneOfTheLatestStep) {
  MiddleBench b({.memory_bytes = 4 * StageBench::kept_bytes});
  b.arrive(b.header(microbatch(1, 3, 0)), 1);
  b.arrive(b.header(microbatch(2, 2, 1)), 2);
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.arrive(b.header(microbatch(1, 1, 1)));
  const auto actions = b.offer(b.header(microbatch(1, 1, 2)));
  const auto drop = first<StageStep::Drop>(actions);
  ASSERT_TRUE(drop.has_value());
  EXPECT_EQ(drop->why, Why::displaced);
  EXPECT_EQ(drop->microbatch, microbatch(1, 3, 0));
  ASSERT_TRUE(drop->give_back.has_value());
  EXPECT_EQ(drop->give_back->to, id_of(1));
  EXPECT_EQ(drop->give_back->direction, Direction::forward);
  EXPECT_TRUE(has<StageStep::Take>(actions));
  EXPECT_EQ(b.refusal(b.header(microbatch(2, 2, 5))), RefuseCode::full) << "a later one displaces nobody";
}

// A worker that takes another stage over, or copies: a gradient that it has accepted is lost unless its sender hears of it, as
// the device may have added it to a sum that nobody will use, which looks like "finished" when asked.
TEST(StageStep, WhoeverStopsGivesBackWhatItWasTrustedWith) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 1, 1)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 1, 1), Direction::backward), 2);
  ASSERT_TRUE(b.stage_step.next_work().has_value());
  b.arrive(b.header(microbatch(1, 2, 2)), 1);
  const auto drops = only<StageStep::Drop>(b.on(StageStep::Stopped{}));
  ASSERT_EQ(drops.size(), 3U);
  EXPECT_FALSE(drops[0].give_back.has_value()) << "open: it has been passed on";
  ASSERT_TRUE(drops[1].give_back.has_value());
  EXPECT_EQ(drops[1].give_back->to, id_of(2));
  EXPECT_EQ(drops[1].give_back->direction, Direction::backward);
  ASSERT_TRUE(drops[2].give_back.has_value());
  EXPECT_EQ(drops[2].give_back->to, id_of(1));
  EXPECT_EQ(drops[2].give_back->direction, Direction::forward);
}

TEST(StageStep, AnOriginatorThatStopsGivesNothingBack) {
  OriginatorBench b;
  b.on(StageStep::Started{b.header(microbatch(1, 1, 0))});
  b.compute(Work::begin);
  b.arrive(b.header(microbatch(1, 1, 0)), 11);
  const auto drops = only<StageStep::Drop>(b.on(StageStep::Stopped{}));
  ASSERT_EQ(drops.size(), 1U);
  EXPECT_FALSE(drops[0].give_back.has_value()) << "its last hop has nothing left to do";
}

// ---------------------------------------------------------------- order of work

TEST(StageStep, BackwardBeforeEvaluationBeforeForwardAndOldStepsFirst) {
  MiddleBench b;
  b.done(1, 1);
  b.done(2, 1);
  b.arrive(b.header(microbatch(1, 2, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 2, 1)));
  b.arrive(b.header(microbatch(1, 1, 2)));
  b.arrive(b.header(microbatch(1, 2, 9), Direction::forward, Purpose::eval));
  b.arrive(b.header(microbatch(1, 2, 0), Direction::backward));
  std::vector<std::uint32_t> order;
  while (const auto next = b.stage_step.next_work()) order.push_back(next->header.id.index);
  EXPECT_EQ(order, (std::vector<std::uint32_t>{0, 9, 2, 1}));
  EXPECT_FALSE(b.stage_step.has_work());
}

TEST(StageStep, AnOriginatorsLossGoesBeforeNewWorkAndAfterBackward) {
  OriginatorBench b;
  for (std::uint32_t i = 0; i < 2; ++i) {
    b.on(StageStep::Started{b.header(microbatch(1, 1, i))});
    b.compute(Work::begin);
  }
  b.on(StageStep::Started{b.header(microbatch(1, 1, 2))});
  b.arrive(b.header(microbatch(1, 1, 0)), 11);
  b.compute(Work::loss);
  b.arrive(b.header(microbatch(1, 1, 1)), 11);
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward), 11);
  b.compute(Work::backward);
  b.compute(Work::loss);
  b.compute(Work::begin);
}

// ---------------------------------------------------------------- freed

TEST(StageStep, FreesAtTheGiveUpAgeThatTravelsInTheHeader) {
  MiddleBench b;
  auto header = b.header(microbatch(1, 1, 0));
  header.age = 3s;
  header.give_up_age = 10s;
  b.arrive(header);
  b.compute(Work::forward);
  EXPECT_EQ(b.stage_step.next_deadline(), b.now + 7s);
  b.now += 6999ms;
  EXPECT_TRUE(b.on().empty());
  b.now += 1ms;
  EXPECT_EQ(first<StageStep::Drop>(b.on())->why, Why::given_up);
  EXPECT_EQ(b.stage_step.kept(), 0U);
}

TEST(StageStep, ItsAgeNeverTakesWorkFromTheDevice) {
  MiddleBench b;
  auto header = b.header(microbatch(1, 1, 0));
  header.give_up_age = 1s;
  b.arrive(header);
  const auto job = b.stage_step.next_work();
  b.now += 2s;
  EXPECT_FALSE(has<StageStep::Drop>(b.on()));
  EXPECT_TRUE(has<StageStep::Drop>(b.computed(*job, Work::forward))) << "but right after";
}

TEST(StageStep, AllOfADeadOriginatorIsFreedAtOnce) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.arrive(b.header(microbatch(1, 2, 1)));
  b.arrive(b.header(microbatch(2, 1, 0)), 2);
  const auto drops = only<StageStep::Drop>(b.on(StageStep::OriginatorGone{id_of(1)}));
  ASSERT_EQ(drops.size(), 2U);
  for (const auto& drop : drops) EXPECT_EQ(drop.why, Why::originator_gone);
  EXPECT_EQ(b.stage_step.kept(), 1U);
  b.compute(Work::forward);
  EXPECT_EQ(b.stage_step.next_work(), std::nullopt) << "nor does the queue know of them";
}

TEST(StageStep, WhatIsFreedOnTheDeviceIsForgottenWhenItAnswers) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  const auto job = b.stage_step.next_work();
  b.on(StageStep::Freed{microbatch(1, 1, 0)});
  EXPECT_TRUE(b.computed(*job, Work::forward).empty());
  EXPECT_EQ(b.stage_step.kept(), 0U);
}

TEST(StageStep, WhatComesAgainWhileTheDeviceWorksOnItIsAnotherVisit) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  const auto first = b.stage_step.next_work();
  b.on(StageStep::Freed{microbatch(1, 1, 0)});
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.computed(*first, Work::forward);
  EXPECT_FALSE(b.stage_step.keeps(microbatch(1, 1, 0), first->visit));
  const auto second = b.stage_step.next_work();
  ASSERT_TRUE(second.has_value()) << "the answer to the first visit is none to the second";
  EXPECT_TRUE(b.stage_step.keeps(microbatch(1, 1, 0), second->visit));
  b.computed(*second, Work::forward);
  b.on(StageStep::Freed{microbatch(1, 1, 0)});
  EXPECT_EQ(b.stage_step.next_work(), std::nullopt);
}

TEST(StageStep, BytesThatComeForOneThatIsFreedAreAcknowledgedAndForgotten) {
  MiddleBench b;
  b.offer(b.header(microbatch(1, 1, 0)));
  b.on(StageStep::Freed{microbatch(1, 1, 0)});
  const auto actions = b.on(StageStep::Arrived{id_of(1), b.transfer_, b.header(microbatch(1, 1, 0))});
  EXPECT_EQ(first<StageStep::Acknowledge>(actions)->eta, 0s);
  EXPECT_FALSE(has<StageStep::Run>(actions));
}

TEST(StageStep, AForwardThatDoesNotArriveIsForgottenAndMayComeAgain) {
  MiddleBench b;
  b.offer(b.header(microbatch(1, 1, 0)));
  b.on(StageStep::ArrivalFailed{b.header(microbatch(1, 1, 0))});
  EXPECT_EQ(b.stage_step.kept(), 0U);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0))), std::nullopt);
}

TEST(StageStep, AGradientThatDoesNotArriveMayComeAgain) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.offer(b.header(microbatch(1, 1, 0), Direction::backward));
  b.on(StageStep::ArrivalFailed{b.header(microbatch(1, 1, 0), Direction::backward)});
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  b.compute(Work::backward);
}

TEST(StageStep, AnArrivalThatFailsTwiceOrLateChangesNothing) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.on(StageStep::ArrivalFailed{b.header(microbatch(1, 1, 0))});
  b.on(StageStep::ArrivalFailed{b.header(microbatch(1, 1, 1))});
  b.compute(Work::forward);
}

TEST(StageStep, BadInputIsFreedAndItsTokensDoNotCount) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward);
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  const auto job = b.stage_step.next_work();
  const auto actions = b.computed(*job, Work::backward, 0.1, false);
  EXPECT_EQ(first<StageStep::Drop>(actions)->why, Why::bad_input);
  b.done(1, 1);
  EXPECT_EQ(first<StageStep::CloseStep>(b.done(2, 1))->body_tokens, 0);
  EXPECT_EQ(b.refusal(b.header(microbatch(1, 1, 0))), std::nullopt) << "it was not added";
}

TEST(StageStepDeathTest, AnOriginatorNeverStartsAMicrobatchTwice) {
  OriginatorBench b;
  b.on(StageStep::Started{b.header(microbatch(1, 1, 0))});
  EXPECT_DEATH(b.on(StageStep::Started{b.header(microbatch(1, 1, 0))}), "never starts a microbatch twice");
}

// ---------------------------------------------------------------- load, speed, eta, where

TEST(StageStep, LoadIsTheQueueAndTheBackwardPassesToCome) {
  MiddleBench b;
  b.arrive(b.header(microbatch(1, 1, 0)));
  b.compute(Work::forward, 0.1);
  EXPECT_EQ(b.stage_step.load_seconds(), 0.0) << "no backward was measured yet";
  b.arrive(b.header(microbatch(1, 1, 0), Direction::backward));
  b.compute(Work::backward, 0.2);
  EXPECT_DOUBLE_EQ(b.stage_step.microbatch_seconds(), 0.3);
  EXPECT_DOUBLE_EQ(b.stage_step.forward_seconds(), 0.1);
  b.arrive(b.header(microbatch(1, 1, 1)));
  EXPECT_DOUBLE_EQ(b.stage_step.load_seconds(), 0.1);
  b.compute(Work::forward, 0.1);
  EXPECT_DOUBLE_EQ(b.stage_step.load_seconds(), 0.2) << "the backward of its open graph";
  b.arrive(b.header(microbatch(1, 2, 2)));
  EXPECT_DOUBLE_EQ(b.stage_step.load_seconds(), 0.3) << "held ones, too";
}

TEST(StageStep, SpeedsAreLearnedWithAnEighth) {
  MiddleBench b;
  for (std::uint32_t i = 0; i < 2; ++i) {
    b.arrive(b.header(microbatch(1, 1, i)));
    b.compute(Work::forward, i == 0 ? 0.1 : 0.9);
  }
  EXPECT_DOUBLE_EQ(b.stage_step.forward_seconds(), 0.2);
}

TEST(StageStep, TheEtaIsTheQueueTheWorkAndTheHold) {
  MiddleBench b;
  b.pass_through(microbatch(1, 1, 0));  // forward and backward of 0.1 s each
  b.steps_of_a_second(3);
  EXPECT_EQ(b.stage_step.eta(Direction::forward, 3, b.now), 100ms);
  b.arrive(b.header(microbatch(1, 3, 0)));
  EXPECT_EQ(b.stage_step.eta(Direction::forward, 3, b.now), 200ms) << "one is before it";
  b.now += 300ms;
  EXPECT_EQ(b.stage_step.eta(Direction::forward, 4, b.now), 900ms) << "what is left of tau = 1 s";
  EXPECT_EQ(b.stage_step.eta(Direction::backward, 3, b.now), 200ms) << "a gradient is never held";
  b.now += 5s;
  EXPECT_EQ(b.stage_step.eta(Direction::forward, 4, b.now), 200ms);
}

TEST(StageStep, TheEtaHoldsAPendingExchange) {
  MiddleBench b({.local_steps = 2});
  b.pass_through(microbatch(1, 1, 0));
  b.steps_of_a_second(3);
  ASSERT_TRUE(b.stage_step.between_steps());
  ASSERT_EQ(b.stage_step.tau(), 1s);
  EXPECT_GE(b.stage_step.eta(Direction::forward, 3, b.now), 1s + 100ms) << "a tau for the exchange";
}

TEST(StageStep, SaysWhereAPassStands) {
  MiddleBench b;
  const auto id = microbatch(1, 1, 0);
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::unknown);
  b.arrive(b.header(id));
  EXPECT_EQ(b.stage_step.where(id, Direction::backward), Where::unknown) << "that pass has not come";
  b.compute(Work::forward);
  EXPECT_EQ(b.stage_step.where(id, Direction::backward), Where::unknown);
  b.arrive(b.header(id, Direction::backward));
  EXPECT_EQ(b.stage_step.where(id, Direction::backward), Where::ready);
  EXPECT_EQ(b.stage_step.where(id, Direction::forward), Where::open) << "the forward pass is long done";
  b.stage_step.next_work();
  EXPECT_EQ(b.stage_step.where(id, Direction::backward), Where::computing);
  ASSERT_NE(b.stage_step.header(id), nullptr);
  EXPECT_EQ(b.stage_step.header(microbatch(1, 1, 5)), nullptr);
}

}  // namespace
}  // namespace starling::pipeline
