// How a run ends everywhere, and when a lonely worker gives up.
#include "pipeline/run_end.h"

#include <gtest/gtest.h>

#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using membership::PeerState;
using membership::Role;
using membership::Swarm;

struct Bench {
  explicit Bench(int self = 1, std::optional<std::int64_t> max_tokens = std::nullopt)
      : run_end({.self = id_of(self), .max_tokens = max_tokens}) {
    swarm.self = id_of(self);
    for (int i = 1; i <= 3; ++i) add_worker(swarm, i, 0, 0);
    add_worker(swarm, 11, 1);
    swarm.peers[id_of(1)].done = step - 1;
  }
  std::vector<RunEnd::Action> on(const RunEnd::Event& event = RunEnd::Look{}) { return run_end.on(event, swarm, step, now); }

  Step step = 10;
  Swarm swarm;
  TimePoint now = at(1000s);
  RunEnd run_end;
};

TEST(Lead, IsTheLowestLiveOriginator) {
  Bench b;
  EXPECT_EQ(lead_of(b.swarm), id_of(1));
  set_state(b.swarm, 1, PeerState::suspect);
  EXPECT_EQ(lead_of(b.swarm), id_of(2));
  for (int i = 2; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  EXPECT_TRUE(lead_of(b.swarm).is_null());
}

TEST(RunEnd, TheLeadEvaluatesPublishesAndLeavesFiveSecondsLater) {
  Bench b;
  EXPECT_TRUE(b.on().empty());
  EXPECT_TRUE(has<RunEnd::RunLastEval>(b.on(RunEnd::TrainingEnded{})));
  EXPECT_FALSE(has<RunEnd::RunLastEval>(b.on())) << "once";
  b.now += 3s;
  EXPECT_TRUE(has<RunEnd::PublishFinished>(b.on(RunEnd::EvalDone{})));
  EXPECT_TRUE(b.run_end.saw_finished());
  EXPECT_EQ(b.run_end.next_deadline(), b.now + 5s);
  b.now += 4999ms;
  EXPECT_TRUE(b.on().empty());
  b.now += 1ms;
  const auto exit = first<RunEnd::Exit>(b.on());
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->why, RunEnd::Exit::Why::finished);
  EXPECT_TRUE(b.on().empty()) << "an exit is said once";
}

TEST(RunEnd, TheNextOriginatorActsAfterThirtySecondsOfSilence) {
  Bench b(2);
  EXPECT_FALSE(has<RunEnd::RunLastEval>(b.on(RunEnd::TrainingEnded{})));
  EXPECT_EQ(b.run_end.next_deadline(), b.now + 30s);
  b.now += 29999ms;
  EXPECT_FALSE(has<RunEnd::RunLastEval>(b.on()));
  b.now += 1ms;
  EXPECT_TRUE(has<RunEnd::RunLastEval>(b.on()));
}

TEST(RunEnd, TheNextOriginatorActsAtOnceWhenTheLeadIsDead) {
  Bench b(2);
  b.on(RunEnd::TrainingEnded{});
  b.now += 1s;
  set_state(b.swarm, 1, PeerState::dead);
  EXPECT_TRUE(has<RunEnd::RunLastEval>(b.on()));
}

TEST(RunEnd, AMiddleWorkerNeverEvaluates) {
  Bench b(11);
  b.on(RunEnd::TrainingEnded{});
  b.now += 1h;
  EXPECT_FALSE(has<RunEnd::RunLastEval>(b.on()));
}

TEST(RunEnd, WhoSeesFinishedLeavesEvenInTheMiddleOfTraining) {
  Bench b(11);
  b.swarm.peers[id_of(1)].record.finished = true;
  EXPECT_TRUE(b.on().empty());
  b.now += 5s;
  EXPECT_TRUE(has<RunEnd::Exit>(b.on()));
}

TEST(RunEnd, AnEvaluationThatComesAfterFinishedIsNotPublished) {
  Bench b(2);
  b.swarm.peers[id_of(1)].record.finished = true;
  b.on();
  EXPECT_FALSE(has<RunEnd::PublishFinished>(b.on(RunEnd::EvalDone{})));
}

TEST(RunEnd, AtMaxTokensTheLeadPublishesALastStepTwoAhead) {
  Bench b(1, 1000);
  b.swarm.peers[id_of(1)].record.tokens = 400;
  b.swarm.peers[id_of(2)].record.tokens = 599;
  EXPECT_TRUE(b.on().empty());
  b.swarm.peers[id_of(2)].record.tokens = 600;
  const auto actions = b.on();
  ASSERT_TRUE(has<RunEnd::PublishLastStep>(actions));
  EXPECT_EQ(first<RunEnd::PublishLastStep>(actions)->last_step, 12);
  EXPECT_EQ(first<RunEnd::LastStepIs>(actions)->last_step, 12);
  b.step = 11;
  EXPECT_TRUE(b.on().empty()) << "published once";
}

TEST(RunEnd, TokensOfTheDeadAndOfTheForgottenCount) {
  Bench b(1, 1000);
  b.swarm.peers[id_of(2)].record.tokens = 500;
  set_state(b.swarm, 2, PeerState::dead);
  b.swarm.past_tokens = 500;
  EXPECT_TRUE(has<RunEnd::PublishLastStep>(b.on()));
}

TEST(RunEnd, OnlyTheLeadPublishesALastStep) {
  Bench b(2, 1000);
  b.swarm.peers[id_of(1)].record.tokens = 5000;
  EXPECT_TRUE(b.on().empty());
  EXPECT_TRUE(b.on(RunEnd::FinishWished{}).empty());
  set_state(b.swarm, 1, PeerState::dead);
  EXPECT_TRUE(has<RunEnd::PublishLastStep>(b.on())) << "it is the lead now, and remembers the wish";
}

TEST(RunEnd, TheOwnersWishEndsTheRunTwoStepsLater) {
  Bench b;
  const auto actions = b.on(RunEnd::FinishWished{});
  ASSERT_TRUE(has<RunEnd::PublishLastStep>(actions));
  EXPECT_EQ(first<RunEnd::LastStepIs>(actions)->last_step, 12);
}

TEST(RunEnd, TheOwnersWishEndsARunThatNobodyCanTrain) {
  Bench b(11);
  add_worker(b.swarm, 12, 1);
  for (int i = 1; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  EXPECT_TRUE(b.on(RunEnd::FinishWished{}).empty()) << "stage 0 may be taken over";
  EXPECT_EQ(b.run_end.next_deadline(), b.now + 30s);
  b.now += 30s - 1ms;
  EXPECT_FALSE(has<RunEnd::PublishFinished>(b.on()));
  b.now += 1ms;
  EXPECT_TRUE(has<RunEnd::PublishFinished>(b.on()));
}

TEST(RunEnd, OfTwoLastStepsTheSmallerCounts) {
  Bench b(11);
  b.swarm.peers[id_of(1)].record.last_step = 20;
  EXPECT_EQ(first<RunEnd::LastStepIs>(b.on())->last_step, 20);
  b.swarm.peers[id_of(2)].record.last_step = 18;
  EXPECT_EQ(first<RunEnd::LastStepIs>(b.on())->last_step, 18);
  EXPECT_TRUE(b.on().empty());
}

TEST(RunEnd, AWishIsVoidWhenALastStepIsSaidAlready) {
  Bench b;
  b.swarm.peers[id_of(2)].record.last_step = 15;
  const auto actions = b.on(RunEnd::FinishWished{});
  EXPECT_FALSE(has<RunEnd::PublishLastStep>(actions));
  EXPECT_EQ(first<RunEnd::LastStepIs>(actions)->last_step, 15);
}

TEST(RunEnd, ALonelyMiddleWorkerTriesForFiveMinutesThenExits) {
  Bench b(11);
  for (int i = 1; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  EXPECT_TRUE(has<RunEnd::TryPeers>(b.on()));
  EXPECT_EQ(b.run_end.next_deadline(), b.now + 10s);
  EXPECT_FALSE(has<RunEnd::TryPeers>(b.on()));
  int tries = 1;
  for (int i = 0; i < 29; ++i) {
    b.now += 10s;
    const auto actions = b.on();
    tries += has<RunEnd::TryPeers>(actions) ? 1 : 0;
    ASSERT_FALSE(has<RunEnd::Exit>(actions));
  }
  EXPECT_EQ(tries, 30);
  b.now += 10s;
  const auto exit = first<RunEnd::Exit>(b.on());
  ASSERT_TRUE(exit.has_value());
  EXPECT_EQ(exit->why, RunEnd::Exit::Why::alone);
}

TEST(RunEnd, OneLivePeerEndsTheLoneliness) {
  Bench b(11);
  for (int i = 1; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  b.on();
  b.now += 299s;
  set_state(b.swarm, 3, PeerState::active);
  b.on();
  set_state(b.swarm, 3, PeerState::dead);
  b.now += 299s;
  EXPECT_FALSE(has<RunEnd::Exit>(b.on())) << "five minutes count from the last loss";
}

TEST(RunEnd, AnOriginatorAloneTrainsOn) {
  Bench b(1);
  for (const int i : {2, 3, 11}) set_state(b.swarm, i, PeerState::dead);
  EXPECT_TRUE(b.on().empty());
  b.now += 1h;
  EXPECT_TRUE(b.on().empty());
}

TEST(RunEnd, AnObserverAloneStays) {
  Bench b(11);
  b.run_end = RunEnd({.self = id_of(11), .part = RunEnd::Config::Part::observer});
  for (int i = 1; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  b.on();
  b.now += 1h;
  EXPECT_TRUE(b.on().empty());
}

TEST(RunEnd, ALateWakeShiftsEveryWait) {
  Bench b(11);
  for (int i = 1; i <= 3; ++i) set_state(b.swarm, i, PeerState::dead);
  b.on();
  b.now += 1h;
  EXPECT_FALSE(has<RunEnd::Exit>(b.on(RunEnd::WokeLate{1h}))) << "stopped for an hour is not alone for an hour";
  b.now += 5min;
  EXPECT_TRUE(has<RunEnd::Exit>(b.on()));
}

}  // namespace
}  // namespace starling::pipeline
