// Outputs that somebody else must take over: acceptance, the question where they are, and re-routes.
#include "pipeline/in_flight.h"

#include <gtest/gtest.h>

#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using net::RefuseCode;
using State = net::AskAnswer::State;

constexpr Duration first_ack = 2s;  // before there is a sample

TransferId transfer(std::uint64_t counter) { return {id_of(1), 1, counter}; }

struct Bench {
  explicit Bench(InFlight::Deadlines deadlines = InFlight::Deadlines::on) : in_flight(deadlines) {}
  std::vector<InFlight::Action> on(const InFlight::Event& event = InFlight::Tick{}) { return in_flight.on(event, now); }
  void send(int to, std::uint64_t number, bool home = false) {
    EXPECT_TRUE(on(InFlight::Sent{key, transfer(number), id_of(to), home}).empty());
  }
  std::vector<InFlight::Action> accepted(int from, std::uint64_t number, Duration eta = 4s) {
    return on(InFlight::AcceptedCame{id_of(from), {transfer(number), eta}});
  }
  std::vector<InFlight::Action> refused(int from, std::uint64_t number, RefuseCode code) {
    return on(InFlight::RefuseCame{id_of(from), transfer(number), code});
  }
  std::vector<InFlight::Action> answered(int from, State state, Duration eta = {}) {
    return on(InFlight::AnswerCame{id_of(from), {state, key.microbatch, key.direction, eta}});
  }
  std::vector<InFlight::Action> passed(int from) { return on(InFlight::PassedCame{id_of(from), {key.microbatch, key.direction}}); }
  // Nothing happens until just before `duration` has passed, then something does.
  std::vector<InFlight::Action> after(Duration duration) {
    EXPECT_EQ(in_flight.next_deadline(), now + duration);
    now += duration - 1ms;
    EXPECT_TRUE(on().empty());
    now += 1ms;
    return on();
  }

  InFlight::Key key{microbatch(1, 3, 0), Direction::forward};
  TimePoint now = at(100s);
  InFlight in_flight;
};

TEST(InFlight, WhatIsAcceptedAndPassedOnIsSettled) {
  Bench b;
  b.send(11, 1);
  EXPECT_FALSE(b.in_flight.passed(b.key));
  b.now += 100ms;
  const auto actions = b.accepted(11, 1);
  ASSERT_TRUE(has<InFlight::Answered>(actions));
  EXPECT_EQ(first<InFlight::Answered>(actions)->took, 100ms);
  EXPECT_TRUE(has<InFlight::TellPassed>(actions));
  EXPECT_TRUE(b.in_flight.passed(b.key));
  EXPECT_EQ(b.in_flight.size(), 1U) << "still ours until its next hop has passed it on";
  EXPECT_TRUE(has<InFlight::Settled>(b.passed(11)));
  EXPECT_EQ(b.in_flight.size(), 0U);
  EXPECT_EQ(b.in_flight.next_deadline(), never);
}

TEST(InFlight, HomeIsTheEnd) {
  Bench b;
  b.send(1, 1, true);
  const auto actions = b.accepted(1, 1);
  EXPECT_TRUE(has<InFlight::TellPassed>(actions));
  EXPECT_TRUE(has<InFlight::Settled>(actions));
  EXPECT_EQ(b.in_flight.size(), 0U);
}

TEST(InFlight, NoAcceptanceInTheAckDeadlineRoutesItElsewhere) {
  Bench b;
  b.send(11, 1);
  const auto actions = b.after(first_ack);
  EXPECT_EQ(first<InFlight::TimedOut>(actions)->peer, id_of(11));
  const auto reroute = first<InFlight::Reroute>(actions);
  ASSERT_TRUE(reroute.has_value());
  EXPECT_EQ(reroute->failed, id_of(11));
  EXPECT_EQ(reroute->reason, SkipReason::timeout);
  EXPECT_EQ(reroute->cancel, transfer(1)) << "the transfer itself is called off";
  EXPECT_EQ(reroute->tried, std::set{id_of(11)});
  b.send(12, 2);
  const auto again = first<InFlight::Reroute>(b.after(first_ack));
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->tried, (std::set{id_of(11), id_of(12)})) << "nobody who failed is asked twice";
}

TEST(InFlight, TheAckDeadlineIsLearnedPerPeer) {
  Bench b;
  b.send(11, 1);
  b.now += 100ms;
  b.accepted(11, 1);
  b.passed(11);
  b.send(11, 2);
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + 250ms) << "2 x 100 ms + 50 ms";
  b.on(InFlight::Freed{b.key.microbatch});
  b.send(12, 3);
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + first_ack) << "of another peer nothing is known";
}

TEST(InFlight, TheAckDeadlineGrowsWithEachTimeOutAndIsForgivenByAnAnswer) {
  Bench b;
  b.send(11, 1);
  b.after(first_ack);
  b.send(11, 2);
  b.after(scale(first_ack, 1.5));
  b.send(11, 3);
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + scale(first_ack, 2.25));
  b.now += 200ms;
  b.accepted(11, 3, 0s);
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + 450ms) << "2 x 200 ms + 50 ms, no growth left";
}

TEST(InFlight, ALateAcceptanceIsASampleTooAndChangesNothingElse) {
  Bench b;
  b.send(11, 1);
  b.after(first_ack);
  b.send(12, 2);
  b.now += 1s;
  const auto actions = b.accepted(11, 1);
  ASSERT_EQ(actions.size(), 1U);
  EXPECT_EQ(first<InFlight::Answered>(actions)->took, 3s);
  EXPECT_FALSE(b.in_flight.passed(b.key)) << "it is the second one's to accept";
  EXPECT_TRUE(b.accepted(11, 1).empty()) << "counted once";
}

TEST(InFlight, SomebodyElsesWordDoesNotCount) {
  Bench b;
  b.send(11, 1);
  EXPECT_TRUE(b.accepted(12, 1).empty());
  EXPECT_TRUE(b.refused(12, 1, RefuseCode::full).empty());
  EXPECT_TRUE(b.passed(12).empty());
  EXPECT_TRUE(b.answered(12, State::unknown).empty());
  EXPECT_TRUE(b.accepted(11, 9).empty()) << "nor of another transfer";
  EXPECT_EQ(b.in_flight.size(), 1U);
}

TEST(InFlight, AsksAtOneAndAHalfEtasPlusAnAckDeadline) {
  Bench b;
  b.send(11, 1);
  b.now += 100ms;
  b.accepted(11, 1, 4s);
  const auto ask = first<InFlight::SendAsk>(b.after(6250ms));
  ASSERT_TRUE(ask.has_value());
  EXPECT_EQ(ask->to, id_of(11));
}

TEST(InFlight, ANewEtaIsAskedForAgainAtTwiceThat) {
  Bench b;
  b.send(11, 1);
  b.now += 100ms;
  b.accepted(11, 1, 4s);
  b.after(6250ms);
  b.now += 100ms;
  EXPECT_TRUE(b.answered(11, State::working, 3s).empty());
  EXPECT_TRUE(has<InFlight::SendAsk>(b.after(6250ms)));
}

TEST(InFlight, WhoIsAskedAndSaysItPassedItOnIsLetGo) {
  Bench b;
  b.send(11, 1);
  b.accepted(11, 1, 4s);
  b.now += 1h;
  EXPECT_TRUE(has<InFlight::SendAsk>(b.on()));
  EXPECT_TRUE(has<InFlight::Settled>(b.answered(11, State::passed)));
  EXPECT_EQ(b.in_flight.size(), 0U);
}

TEST(InFlight, GivenBackOrUnknownGoesElsewhere) {
  for (const State state : {State::given_back, State::unknown}) {
    Bench b;
    b.send(11, 1);
    b.accepted(11, 1, 4s);
    b.now += 1h;
    EXPECT_TRUE(has<InFlight::SendAsk>(b.on()));
    const auto reroute = first<InFlight::Reroute>(b.answered(11, state));
    ASSERT_TRUE(reroute.has_value());
    EXPECT_EQ(reroute->cancel, std::nullopt) << "its transfer is long over";
    EXPECT_EQ(reroute->reason, SkipReason::timeout);
  }
}

TEST(InFlight, SilenceAfterTheQuestionGoesElsewhere) {
  Bench b;
  b.send(11, 1);
  b.now += 100ms;
  b.accepted(11, 1, 4s);
  b.after(6250ms);
  const auto actions = b.after(250ms);
  EXPECT_TRUE(has<InFlight::TimedOut>(actions));
  EXPECT_TRUE(has<InFlight::Reroute>(actions));
}

TEST(InFlight, GivenBackUnaskedGoesElsewhereOtherAnswersUnaskedSayNothing) {
  Bench b;
  b.send(11, 1);
  b.accepted(11, 1, 4s);
  for (const State state : {State::working, State::passed, State::unknown}) EXPECT_TRUE(b.answered(11, state).empty());
  EXPECT_TRUE(has<InFlight::Reroute>(b.answered(11, State::given_back)));
}

TEST(InFlight, WhoCannotTakeItIsReplacedAtOnce) {
  for (const RefuseCode code : {RefuseCode::full, RefuseCode::starting, RefuseCode::wrong_stage, RefuseCode::malformed}) {
    Bench b;
    b.send(11, 1);
    const auto reroute = first<InFlight::Reroute>(b.refused(11, 1, code));
    ASSERT_TRUE(reroute.has_value()) << static_cast<int>(code);
    EXPECT_EQ(reroute->reason, SkipReason::timeout);
  }
}

TEST(InFlight, AGraphThatIsGoneIsBypassedAsDead) {
  Bench b;
  b.key.direction = Direction::backward;
  b.send(11, 1);
  EXPECT_EQ(first<InFlight::Reroute>(b.refused(11, 1, RefuseCode::unknown))->reason, SkipReason::dead);
}

TEST(InFlight, NobodyElseCanTakeWhatGoesHome) {
  for (const RefuseCode code : {RefuseCode::full, RefuseCode::starting, RefuseCode::wrong_stage, RefuseCode::malformed,
                                RefuseCode::unknown}) {
    Bench b;
    b.send(1, 1, true);
    const auto actions = b.refused(1, 1, code);
    EXPECT_FALSE(has<InFlight::Reroute>(actions));
    EXPECT_EQ(first<InFlight::FreeGraph>(actions)->code, code);
    EXPECT_EQ(b.in_flight.size(), 0U);
  }
}

TEST(InFlight, ADuplicateIsTakenOverAlreadyAndOursIsFreed) {
  Bench b;
  b.send(11, 1);
  const auto actions = b.refused(11, 1, RefuseCode::duplicate);
  EXPECT_TRUE(has<InFlight::TellPassed>(actions)) << "who gave it to us may let go";
  EXPECT_EQ(first<InFlight::FreeGraph>(actions)->code, RefuseCode::duplicate);
}

TEST(InFlight, StaleOrDoneFreesWithoutAWord) {
  for (const RefuseCode code : {RefuseCode::stale, RefuseCode::done}) {
    Bench b;
    b.send(11, 1);
    const auto actions = b.refused(11, 1, code);
    EXPECT_FALSE(has<InFlight::TellPassed>(actions));
    EXPECT_EQ(first<InFlight::FreeGraph>(actions)->code, code);
    EXPECT_EQ(b.in_flight.size(), 0U);
  }
}

TEST(InFlight, ATransferThatEndsUnacceptedGoesElsewhereAndAnAcceptedOneDoesNot) {
  Bench b;
  b.send(11, 1);
  EXPECT_TRUE(has<InFlight::Reroute>(b.on(InFlight::TransferEnded{transfer(1)})));
  b.send(12, 2);
  b.accepted(12, 2);
  EXPECT_TRUE(b.on(InFlight::TransferEnded{transfer(2)}).empty());
  EXPECT_TRUE(b.on(InFlight::TransferEnded{transfer(9)}).empty());
}

TEST(InFlight, AVerdictFiresEveryWaitOnThatPeer) {
  Bench b;
  b.send(11, 1);
  b.accepted(11, 1);
  b.key.microbatch.index = 1;
  b.send(11, 2);
  b.key.microbatch.index = 2;
  b.send(12, 3);
  const auto reroutes = only<InFlight::Reroute>(b.on(InFlight::PeerGone{id_of(11)}));
  ASSERT_EQ(reroutes.size(), 2U);
  for (const auto& reroute : reroutes) EXPECT_EQ(reroute.reason, SkipReason::dead);
}

TEST(InFlight, AfterAVerdictThePeerIsAStrangerAgain) {
  Bench b;
  b.send(11, 1);
  b.now += 100ms;
  b.accepted(11, 1);
  b.on(InFlight::PeerGone{id_of(11)});
  b.send(11, 2);
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + first_ack);
}

TEST(InFlight, WhatIsFreedIsForgottenInBothDirections) {
  Bench b;
  b.send(11, 1);
  b.key.direction = Direction::backward;
  b.send(12, 2);
  EXPECT_TRUE(b.on(InFlight::Freed{b.key.microbatch}).empty());
  EXPECT_EQ(b.in_flight.size(), 0U);
  EXPECT_TRUE(b.accepted(11, 1).empty());
  EXPECT_TRUE(b.in_flight.passed(b.key)) << "nothing of it is kept";
}

// Nobody else has the graph: to give up too early loses that hop's gradient.
TEST(InFlight, AGradientIsWaitedForThreeTimesAsLong) {
  Bench b;
  b.key.direction = Direction::backward;
  b.send(11, 1);
  EXPECT_EQ(first<InFlight::Reroute>(b.after(3 * first_ack))->failed, id_of(11));
}

// After a pause of this process the answers that wait for it are read first.
TEST(InFlight, AnAnswerThatIsReadLateIsNoTimeOut) {
  Bench b;
  b.send(11, 1);
  b.now += 10 * first_ack;
  EXPECT_FALSE(has<InFlight::Reroute>(b.on(InFlight::PassedCame{id_of(12), {b.key.microbatch, b.key.direction}})));
  EXPECT_FALSE(has<InFlight::Reroute>(b.accepted(11, 1)));
  EXPECT_TRUE(b.on().empty());
}

TEST(InFlight, ALateWakeShiftsEveryDeadline) {
  Bench b;
  b.send(11, 1);
  b.now += 1h;
  EXPECT_TRUE(b.on(InFlight::WokeLate{1h}).empty());
  EXPECT_EQ(b.in_flight.next_deadline(), b.now + first_ack);
}

TEST(InFlight, WithoutDeadlinesOneWaits) {
  Bench b(InFlight::Deadlines::off);
  b.send(11, 1);
  EXPECT_EQ(b.in_flight.next_deadline(), never);
  b.accepted(11, 1, 1s);
  EXPECT_EQ(b.in_flight.next_deadline(), never);
  b.now += 24h;
  EXPECT_TRUE(b.on().empty());
}

TEST(InFlight, ASecondSendReplacesTheFirst) {
  Bench b;
  b.send(11, 1);
  b.send(12, 2);
  EXPECT_TRUE(b.accepted(11, 1).empty()) << "the first transfer is nobody's any more";
  EXPECT_TRUE(has<InFlight::TellPassed>(b.accepted(12, 2)));
}

}  // namespace
}  // namespace starling::pipeline
