// One Exchange against a partner that the test plays word by word: kind, lossy, late, restarted, hostile.
#include "gossip/outer/exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "gossip/base/random.h"

namespace starling::outer {
namespace {

using membership::ExchangeOutcome;
using membership::PeerState;
using std::chrono::milliseconds;
using std::chrono::seconds;
using DeclineCode = net::Decline::Code;
using SoloCause = Exchange::SoloCause;

constexpr Round round = 5;
constexpr Stage stage = 1;
constexpr std::uint64_t part_bytes = 64;
constexpr Duration tau = milliseconds(500);

NodeId node(std::uint8_t first) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(first);
  return id;
}

Buffer part_bytes_of(std::uint8_t fill) { return std::make_shared<const Bytes>(part_bytes, std::byte{fill}); }

template <typename T>
std::vector<T> only(const std::vector<Exchange::Action>& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* a = std::get_if<T>(&action)) out.push_back(*a);
  }
  return out;
}

// The messages of one kind to one peer.
template <typename T>
std::vector<T> said(const std::vector<Exchange::Action>& actions, const NodeId& to) {
  std::vector<T> out;
  for (const Exchange::Send& send : only<Exchange::Send>(actions)) {
    if (const auto* m = std::get_if<T>(&send.message); m != nullptr && send.to == to) out.push_back(*m);
  }
  return out;
}

// Self is the exchange under test; `peers` are live replicas of its stage in the same round.
class ExchangeTest : public ::testing::Test {
 protected:
  ExchangeTest() { start(Algorithm::noloco, 1); }

  void start(Algorithm algorithm, std::size_t peers) {
    Exchange::Config config;
    config.outer.algorithm = algorithm;
    config.seed = 11;
    exchange_ = std::make_unique<Exchange>(config, self_, 3);
    swarm_ = {};
    swarm_.self = self_;
    add(self_);
    for (std::size_t i = 0; i < peers; ++i) add(node(static_cast<std::uint8_t>(20 + 10 * i)));
  }

  void add(const NodeId& id) {
    membership::Peer peer;
    peer.record.id = id;
    peer.record.stage = stage;
    peer.record.round = round;
    peer.state = PeerState::active;
    swarm_.peers[id] = peer;
  }

  std::vector<Exchange::Action> on(const Exchange::Event& event) {
    return exchange_->on(event, swarm_, round_now_, now_);
  }
  std::vector<Exchange::Action> hear(const NodeId& from, const net::Message& message) {
    return on(Exchange::MessageCame{from, message});
  }
  std::vector<Exchange::Action> end_round(Round which = round) { return on(Exchange::RoundEnded{which, stage, tau}); }
  // Lets time pass, with every timer that falls due.
  std::vector<Exchange::Action> pass(Duration time) {
    std::vector<Exchange::Action> all;
    const TimePoint end = now_ + time;
    while (exchange_->next_deadline() <= end) {
      now_ = std::max(now_, exchange_->next_deadline());
      const auto actions = on(Exchange::Tick{});
      all.insert(all.end(), actions.begin(), actions.end());
    }
    now_ = end;
    return all;
  }

  net::Propose proposal_of(const NodeId& peer, Round which = round, std::uint64_t counter = 77) const {
    return {{peer, 1, counter}, which, stage};
  }
  net::Offer offer_of(const NodeId& peer, const ExchangeId& id, std::uint64_t counter = 1) const {
    return {.transfer = {peer, 1, counter},
            .about = net::ExchangePart{id, round, stage},
            .bytes = part_bytes,
            .hash = {},
            .follows = 0};
  }
  std::vector<Exchange::Action> offer(const NodeId& peer, const ExchangeId& id, std::uint64_t counter = 1) {
    return on(Exchange::PartOffered{peer, offer_of(peer, id, counter), part_bytes});
  }
  std::vector<Exchange::Action> deliver(const NodeId& peer, const ExchangeId& id) {
    return on(Exchange::PartCame{peer, {id, round, stage}, part_bytes_of(9)});
  }
  std::vector<Exchange::Action> snapshot() { return on(Exchange::SnapshotMade{round, part_bytes_of(1)}); }

  // My round ends and the peer accepts my proposal; both parts travel now. Result: the id.
  ExchangeId agree(const NodeId& peer) {
    const auto proposals = said<net::Propose>(end_round(), peer);
    EXPECT_EQ(proposals.size(), 1U);
    const ExchangeId id = proposals.at(0).exchange;
    EXPECT_EQ(only<Exchange::MakeSnapshot>(hear(peer, net::Accept{id, round})).size(), 1U);
    EXPECT_EQ(only<Exchange::OfferPart>(snapshot()).size(), 1U);
    return id;
  }
  Exchange::RoundFinished finished(const std::vector<Exchange::Action>& actions) {
    const auto all = only<Exchange::RoundFinished>(actions);
    EXPECT_EQ(all.size(), 1U);
    EXPECT_FALSE(exchange_->busy());
    return all.empty() ? Exchange::RoundFinished{} : all[0];
  }

  const NodeId self_ = node(10);
  const NodeId larger_ = node(20);  // the one peer of most tests
  const NodeId smaller_ = node(5);
  std::unique_ptr<Exchange> exchange_;
  membership::Swarm swarm_;
  Round round_now_ = round;
  TimePoint now_{std::chrono::hours(5)};
};

TEST_F(ExchangeTest, ProposerAveragesOnceBothPartsAreConfirmed) {
  const ExchangeId id = agree(larger_);
  EXPECT_EQ(id, (ExchangeId{self_, 3, 1}));
  EXPECT_EQ(only<Exchange::TakeOffer>(offer(larger_, id)).size(), 1U);
  const auto came = deliver(larger_, id);
  EXPECT_EQ(said<net::Got>(came, larger_).size(), 1U);
  EXPECT_TRUE(only<Exchange::Average>(came).empty());
  const auto average = only<Exchange::Average>(hear(larger_, net::Got{id}));
  ASSERT_EQ(average.size(), 1U);
  EXPECT_EQ(average[0].exchange, id);
  ASSERT_EQ(average[0].others.size(), 1U);
  EXPECT_EQ((*average[0].others[0])[0], std::byte{9});
  EXPECT_EQ(exchange_->next_deadline(), never);
  const auto how = finished(on(Exchange::Applied{round, 1}));
  EXPECT_TRUE(how.averaged);
  EXPECT_EQ(how.partner, larger_);
  EXPECT_EQ(how.outcome, (ExchangeOutcome{id, ExchangeOutcome::Result::averaged}));
}

TEST_F(ExchangeTest, AcceptorWaitsToBeTakenBeforeItOffers) {
  end_round();
  const net::Propose propose = proposal_of(larger_);
  // Crossed: self is the smaller one, so its own proposal counts and is repeated instead.
  const auto reminder = hear(larger_, propose);
  EXPECT_TRUE(said<net::Accept>(reminder, larger_).empty());
  ASSERT_EQ(said<net::Propose>(reminder, larger_).size(), 1U);

  start(Algorithm::noloco, 0);
  add(smaller_);
  end_round();
  const net::Propose counts = proposal_of(smaller_);
  const auto accepted = hear(smaller_, counts);
  ASSERT_EQ(said<net::Accept>(accepted, smaller_).size(), 1U);
  EXPECT_EQ(said<net::Accept>(accepted, smaller_)[0].exchange, counts.exchange);
  EXPECT_TRUE(only<Exchange::OfferPart>(snapshot()).empty());
  EXPECT_EQ(only<Exchange::OfferPart>(hear(smaller_, net::Accept{counts.exchange, round})).size(), 1U);
}

TEST_F(ExchangeTest, GotOfThePartnerIsNeeded) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  deliver(larger_, id);
  // The partner lives, but never confirms: a hostile one, or one that my part does not reach.
  std::vector<Exchange::Action> all;
  for (int i = 0; i < 150; ++i) {
    for (const auto& actions : {pass(milliseconds(100)), hear(larger_, net::Accept{id, round})}) {
      all.insert(all.end(), actions.begin(), actions.end());
    }
  }
  EXPECT_TRUE(only<Exchange::Average>(all).empty());
  ASSERT_EQ(only<Exchange::Solo>(all).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(all)[0].cause, SoloCause::transfer_failed);
  EXPECT_FALSE(said<net::Decline>(all, larger_).empty());
  EXPECT_TRUE(only<Exchange::Average>(hear(larger_, net::Got{id})).empty());
  const auto how = finished(on(Exchange::Applied{round, 0}));
  EXPECT_EQ(how.outcome, (ExchangeOutcome{id, ExchangeOutcome::Result::solo}));
}

TEST_F(ExchangeTest, PartOfThePartnerIsNeeded) {
  const ExchangeId id = agree(larger_);
  EXPECT_TRUE(only<Exchange::Average>(hear(larger_, net::Got{id})).empty());
  offer(larger_, id);
  EXPECT_EQ(only<Exchange::Average>(deliver(larger_, id)).size(), 1U);
}

TEST_F(ExchangeTest, RepeatedWordsChangeNothing) {
  const ExchangeId id = agree(larger_);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(only<Exchange::MakeSnapshot>(hear(larger_, net::Accept{id, round})).empty());
    EXPECT_TRUE(only<Exchange::OfferPart>(snapshot()).empty());
    EXPECT_EQ(only<Exchange::TakeOffer>(offer(larger_, id)).size(), 1U);
    // A second transfer of the same part would only cost memory.
    EXPECT_EQ(only<Exchange::RefuseOffer>(offer(larger_, id, 2)).size(), 1U);
  }
  deliver(larger_, id);
  EXPECT_TRUE(said<net::Got>(deliver(larger_, id), larger_).empty());
  EXPECT_EQ(only<Exchange::Average>(hear(larger_, net::Got{id})).size(), 1U);
  EXPECT_TRUE(only<Exchange::Average>(hear(larger_, net::Got{id})).empty());
  EXPECT_TRUE(only<Exchange::Average>(deliver(larger_, id)).empty());
  finished(on(Exchange::Applied{round, 1}));
  EXPECT_TRUE(on(Exchange::Applied{round, 1}).empty());
  round_now_ = round + 1;
  EXPECT_TRUE(hear(larger_, net::Got{id}).empty());
  const auto late = offer(larger_, id);
  ASSERT_EQ(only<Exchange::RefuseOffer>(late).size(), 1U);
  EXPECT_EQ(only<Exchange::RefuseOffer>(late)[0].code, net::RefuseCode::duplicate);
}

TEST_F(ExchangeTest, FinishedIdsAreAnsweredByTheirOutcome) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  deliver(larger_, id);
  hear(larger_, net::Got{id});
  // The partner lacks my Got and asks, while I apply and afterwards.
  EXPECT_EQ(said<net::Got>(hear(larger_, net::Accept{id, round}), larger_).size(), 1U);
  finished(on(Exchange::Applied{round, 1}));
  round_now_ = round + 1;
  EXPECT_EQ(said<net::Got>(hear(larger_, net::Accept{id, round}), larger_).size(), 1U);
  EXPECT_TRUE(hear(node(99), net::Accept{id, round}).empty());  // nobody else's business
}

TEST_F(ExchangeTest, SoloEndIsSaidToWhoAsks) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  deliver(larger_, id);
  ASSERT_EQ(only<Exchange::Solo>(on(Exchange::PartFailed{larger_, {id, round, stage}})).size(), 1U);
  const auto answer = hear(larger_, net::Accept{id, round});
  EXPECT_TRUE(said<net::Got>(answer, larger_).empty());
  ASSERT_EQ(said<net::Decline>(answer, larger_).size(), 1U);
  EXPECT_EQ(said<net::Decline>(answer, larger_)[0].code, DeclineCode::finished);
}

TEST_F(ExchangeTest, OfferStandsForALostAccept) {
  const ExchangeId id = said<net::Propose>(end_round(), larger_).at(0).exchange;
  const auto offered = offer(larger_, id);
  EXPECT_EQ(only<Exchange::TakeOffer>(offered).size(), 1U);
  EXPECT_EQ(only<Exchange::MakeSnapshot>(offered).size(), 1U);
}

TEST_F(ExchangeTest, ProposalIsRepeatedUntilTheWaitEnds) {
  std::vector<Exchange::Action> all = end_round();
  const auto later = pass(seconds(60));
  all.insert(all.end(), later.begin(), later.end());
  const auto proposals = said<net::Propose>(all, larger_);
  EXPECT_GE(proposals.size(), 15U);
  for (const net::Propose& p : proposals) EXPECT_EQ(p.exchange, proposals[0].exchange);
  ASSERT_EQ(only<Exchange::Solo>(all).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(all)[0].cause, SoloCause::nobody_answered);
  EXPECT_EQ(finished(on(Exchange::Applied{round, 0})).outcome.exchange, ExchangeId{});
}

// Four step times while its record shows the partner inside the round, one otherwise; both at least a second.
TEST_F(ExchangeTest, WaitsLongerForAPartnerInsideTheRound) {
  const auto waited = [&](Round record_round, Duration step) {
    start(Algorithm::noloco, 1);
    swarm_.peers[larger_].record.round = record_round;
    const TimePoint begin = now_;
    on(Exchange::RoundEnded{round, stage, step});
    for (;;) {
      now_ = exchange_->next_deadline();
      if (!only<Exchange::Solo>(on(Exchange::Tick{})).empty()) return now_ - begin;
    }
  };
  EXPECT_EQ(waited(round, seconds(2)), seconds(8) + milliseconds(200));
  EXPECT_EQ(waited(round + 1, seconds(2)), seconds(2));
  EXPECT_EQ(waited(round, milliseconds(10)), seconds(1) + milliseconds(200));
  EXPECT_EQ(waited(round + 1, milliseconds(10)), seconds(1));
}

TEST_F(ExchangeTest, EarlyProposalWaitsForMyRound) {
  start(Algorithm::noloco, 0);
  add(smaller_);
  round_now_ = round;
  const net::Propose early = proposal_of(smaller_, round);
  EXPECT_TRUE(hear(smaller_, early).empty());
  EXPECT_EQ(exchange_->next_deadline(), never);
  const auto ended = end_round();
  ASSERT_EQ(said<net::Accept>(ended, smaller_).size(), 1U);
  EXPECT_EQ(said<net::Accept>(ended, smaller_)[0].exchange, early.exchange);
}

TEST_F(ExchangeTest, ProposalOfTheComingRoundWaitsForTheEndOfThisOne) {
  start(Algorithm::noloco, 0);
  add(smaller_);
  end_round();
  const net::Propose next = proposal_of(smaller_, round + 1, 90);
  EXPECT_TRUE(said<net::Decline>(hear(smaller_, next), smaller_).empty());
  ASSERT_FALSE(only<Exchange::Solo>(pass(seconds(10))).empty());
  finished(on(Exchange::Applied{round, 0}));
  round_now_ = round + 1;
  const auto ended = end_round(round + 1);
  ASSERT_EQ(said<net::Accept>(ended, smaller_).size(), 1U);
  EXPECT_EQ(said<net::Accept>(ended, smaller_)[0].exchange, next.exchange);
}

TEST_F(ExchangeTest, StaleRoundsAreDeclined) {
  const auto code_for = [&](Round which) {
    const auto declines = said<net::Decline>(hear(larger_, proposal_of(larger_, which)), larger_);
    EXPECT_EQ(declines.size(), 1U);
    return declines.empty() ? DeclineCode::busy : declines[0].code;
  };
  end_round();
  EXPECT_EQ(code_for(round - 1), DeclineCode::stale);
  EXPECT_EQ(code_for(1), DeclineCode::stale);
  ASSERT_FALSE(only<Exchange::Solo>(pass(seconds(10))).empty());
  EXPECT_EQ(code_for(round), DeclineCode::finished);  // while it is applied
  finished(on(Exchange::Applied{round, 0}));
  round_now_ = round + 1;
  EXPECT_EQ(code_for(round), DeclineCode::finished);
  EXPECT_EQ(code_for(round - 1), DeclineCode::stale);
}

TEST_F(ExchangeTest, PartOfAnotherRoundOrSizeEndsTheExchange) {
  for (const int wrong : {0, 1, 2}) {
    start(Algorithm::noloco, 1);
    const ExchangeId id = agree(larger_);
    net::Offer offer = offer_of(larger_, id);
    auto& part = std::get<net::ExchangePart>(offer.about);
    if (wrong == 0) part.round = round - 1;
    if (wrong == 1) part.stage = stage + 1;
    if (wrong == 2) offer.bytes = part_bytes + 1;
    const auto actions = on(Exchange::PartOffered{larger_, offer, part_bytes});
    EXPECT_TRUE(only<Exchange::TakeOffer>(actions).empty());
    ASSERT_EQ(only<Exchange::RefuseOffer>(actions).size(), 1U);
    EXPECT_EQ(only<Exchange::RefuseOffer>(actions)[0].code, net::RefuseCode::malformed);
    ASSERT_EQ(only<Exchange::Solo>(actions).size(), 1U);
    EXPECT_EQ(only<Exchange::Solo>(actions)[0].cause, SoloCause::rejected);
  }
}

TEST_F(ExchangeTest, MoreThanARoundBehindIsSaid) {
  const auto from_proposal = hear(larger_, proposal_of(larger_, round + 2));
  ASSERT_EQ(only<Exchange::BehindBy>(from_proposal).size(), 1U);
  EXPECT_EQ(only<Exchange::BehindBy>(from_proposal)[0].round, round + 2);
  EXPECT_TRUE(only<Exchange::BehindBy>(hear(larger_, proposal_of(larger_, round + 1))).empty());
  const ExchangeId id = said<net::Propose>(end_round(), larger_).at(0).exchange;
  const auto from_decline = hear(larger_, net::Decline{DeclineCode::stale, id, round + 4});
  ASSERT_EQ(only<Exchange::BehindBy>(from_decline).size(), 1U);
  EXPECT_EQ(only<Exchange::BehindBy>(from_decline)[0].round, round + 4);
  // Nobody is left to meet.
  ASSERT_EQ(only<Exchange::Solo>(from_decline).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(from_decline)[0].cause, SoloCause::declined);
}

TEST_F(ExchangeTest, RefusedByThePartnerAsksTheOthersAtOnce) {
  start(Algorithm::noloco, 3);
  const auto begin = end_round();
  ASSERT_EQ(only<Exchange::Send>(begin).size(), 1U);
  const NodeId partner = only<Exchange::Send>(begin)[0].to;
  const ExchangeId id = said<net::Propose>(begin, partner).at(0).exchange;
  const auto next = only<Exchange::Send>(hear(partner, net::Decline{DeclineCode::finished, id, round + 1}));
  ASSERT_EQ(next.size(), 1U);
  EXPECT_NE(next[0].to, partner);
}

// The partner ranks before all others, so in the first half of the wait nobody else is taken, in the second somebody is.
TEST_F(ExchangeTest, DeclinesWorseEdgesUntilHalfOfTheWait) {
  start(Algorithm::noloco, 3);
  const NodeId partner = only<Exchange::Send>(end_round()).at(0).to;
  std::vector<NodeId> others;
  for (const auto& [id, peer] : swarm_.peers) {
    if (id != self_ && id != partner) others.push_back(id);
  }
  const auto refused = hear(others[0], proposal_of(others[0]));
  ASSERT_EQ(said<net::Decline>(refused, others[0]).size(), 1U);
  EXPECT_EQ(said<net::Decline>(refused, others[0])[0].code, DeclineCode::better);
  // At two step times (half of the wait) the one that is remembered is taken; it need not ask again.
  EXPECT_TRUE(said<net::Accept>(pass(2 * tau - milliseconds(1)), others[0]).empty());
  const auto second_half = pass(milliseconds(300));
  EXPECT_GE(said<net::Accept>(second_half, others[0]).size() + said<net::Propose>(second_half, others[0]).size(), 1U);
}

TEST_F(ExchangeTest, PartnerThatIsGoneIsReplacedBeforeMyGotOnly) {
  start(Algorithm::noloco, 3);
  const NodeId partner = only<Exchange::Send>(end_round()).at(0).to;
  const ExchangeId id{self_, 3, 1};
  hear(partner, net::Accept{id, round});
  snapshot();
  swarm_.peers[partner].state = PeerState::dead;
  const auto gone = on(Exchange::PeerGone{partner});
  EXPECT_TRUE(only<Exchange::Solo>(gone).empty());
  EXPECT_FALSE(only<Exchange::Send>(gone).empty());  // the next one is asked

  start(Algorithm::noloco, 3);
  end_round();
  hear(partner, net::Accept{id, round});
  snapshot();
  offer(partner, id);
  deliver(partner, id);  // my Got is out: the partner may have averaged
  swarm_.peers[partner].state = PeerState::dead;
  const auto after = on(Exchange::PeerGone{partner});
  ASSERT_EQ(only<Exchange::Solo>(after).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(after)[0].cause, SoloCause::partner_gone);
}

TEST_F(ExchangeTest, SilentPartnerIsGivenUp) {
  agree(larger_);
  const auto silence = pass(seconds(3));
  ASSERT_EQ(only<Exchange::Solo>(silence).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(silence)[0].cause, SoloCause::partner_gone);
  EXPECT_GE(said<net::Propose>(silence, larger_).size(), 4U);  // it was asked how things stand
}

// The partner restarts: it knows nothing of our id, says so, and proposes anew under its new boot.
TEST_F(ExchangeTest, RestartedPartnerIsMetUnderItsNewBoot) {
  const ExchangeId id = agree(larger_);
  EXPECT_TRUE(only<Exchange::Solo>(hear(larger_, net::Propose{{larger_, 2, 1}, round, stage})).empty());
  const auto forgotten = hear(larger_, net::Decline{DeclineCode::finished, id, round});
  ASSERT_EQ(only<Exchange::Solo>(forgotten).size(), 1U);
  const ExchangeId again{larger_, 2, 1};
  finished(on(Exchange::Applied{round, 0}));
  EXPECT_TRUE(only<Exchange::Average>(hear(larger_, net::Got{again})).empty());
}

TEST_F(ExchangeTest, StrangersAndLiarsGetNothing) {
  end_round();
  const NodeId stranger = node(200);
  // Not in the view; a proposal in somebody else's name; an Accept of what was never proposed; a Got out of nowhere.
  EXPECT_EQ(said<net::Decline>(hear(stranger, proposal_of(stranger)), stranger).size(), 1U);
  EXPECT_TRUE(hear(stranger, proposal_of(larger_)).empty());
  const ExchangeId mine{self_, 3, 1};
  const auto accept = hear(stranger, net::Accept{mine, round});
  EXPECT_TRUE(only<Exchange::MakeSnapshot>(accept).empty());
  EXPECT_EQ(said<net::Decline>(accept, stranger).size(), 1U);
  EXPECT_TRUE(only<Exchange::Average>(hear(stranger, net::Got{mine})).empty());
  EXPECT_EQ(only<Exchange::RefuseOffer>(offer(stranger, mine)).size(), 1U);
  EXPECT_TRUE(only<Exchange::Solo>(hear(stranger, net::Decline{DeclineCode::finished, mine, round})).empty());
  // And they do not disturb the exchange that goes on.
  hear(larger_, net::Accept{mine, round});
  snapshot();
  EXPECT_TRUE(only<Exchange::Solo>(hear(stranger, net::Decline{DeclineCode::finished, mine, round})).empty());
  EXPECT_TRUE(only<Exchange::Solo>(on(Exchange::PartFailed{stranger, {mine, round, stage}})).empty());
  EXPECT_EQ(only<Exchange::RefuseOffer>(offer(stranger, mine)).size(), 1U);
  EXPECT_TRUE(said<net::Got>(deliver(larger_, mine), larger_).empty());  // never offered
}

TEST_F(ExchangeTest, PartThatTheScreensRefuseCountsAsSolo) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  deliver(larger_, id);
  hear(larger_, net::Got{id});
  const auto how = finished(on(Exchange::Applied{round, 0}));
  EXPECT_FALSE(how.averaged);
  EXPECT_EQ(how.cause, SoloCause::rejected);
  EXPECT_EQ(how.outcome, (ExchangeOutcome{id, ExchangeOutcome::Result::solo}));
}

TEST_F(ExchangeTest, OneSidedOutcomesAreReportedOnce) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  deliver(larger_, id);
  hear(larger_, net::Got{id});
  finished(on(Exchange::Applied{round, 1}));
  membership::Record record;
  record.id = larger_;
  record.outcomes = {{id, ExchangeOutcome::Result::averaged}};
  EXPECT_TRUE(exchange_->compare_outcomes(record).empty());
  record.outcomes = {{{larger_, 9, 9}, ExchangeOutcome::Result::solo}, {id, ExchangeOutcome::Result::solo}};
  const auto actions = exchange_->compare_outcomes(record);
  ASSERT_EQ(only<Exchange::OneSided>(actions).size(), 1U);
  EXPECT_EQ(only<Exchange::OneSided>(actions)[0].exchange, id);
  EXPECT_TRUE(exchange_->compare_outcomes(record).empty());
  record.id = node(99);
  EXPECT_TRUE(exchange_->compare_outcomes(record).empty());
}

TEST_F(ExchangeTest, CancelledRoundEndsWithoutAWordToTheWorker) {
  const ExchangeId id = agree(larger_);
  offer(larger_, id);
  const auto actions = on(Exchange::Cancelled{});
  EXPECT_FALSE(exchange_->busy());
  EXPECT_TRUE(only<Exchange::Solo>(actions).empty());
  EXPECT_TRUE(only<Exchange::RoundFinished>(actions).empty());
  EXPECT_EQ(said<net::Decline>(actions, larger_).size(), 1U);  // the partner need not wait
  EXPECT_EQ(only<Exchange::RefuseOffer>(actions).size(), 1U);  // nor go on sending
  EXPECT_TRUE(on(Exchange::Applied{round, 1}).empty());
  EXPECT_TRUE(snapshot().empty());
}

TEST_F(ExchangeTest, SnapshotThatCannotBeMadeEndsTheRound) {
  const ExchangeId id = said<net::Propose>(end_round(), larger_).at(0).exchange;
  hear(larger_, net::Accept{id, round});
  const auto actions = on(Exchange::SnapshotMade{round, nullptr});
  EXPECT_EQ(said<net::Decline>(actions, larger_).size(), 1U);
  ASSERT_EQ(only<Exchange::Solo>(actions).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(actions)[0].cause, SoloCause::transfer_failed);
}

TEST_F(ExchangeTest, OddOneOutWaitsOnlyWhileTheViewIsUnsettled) {
  start(Algorithm::noloco, 2);
  // Find a round in which self is left over.
  Round odd = round;
  const std::vector<NodeId> live{self_, node(20), node(30)};
  while (pair_up(11, odd, self_, live).partner) ++odd;
  for (const NodeId& id : live) swarm_.peers[id].record.round = odd;
  round_now_ = odd;
  const auto settled = end_round(odd);
  ASSERT_EQ(only<Exchange::Solo>(settled).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(settled)[0].cause, SoloCause::odd_one_out);

  start(Algorithm::noloco, 2);
  for (const NodeId& id : live) swarm_.peers[id].record.round = odd;
  add(node(40));
  swarm_.peers[node(40)].state = PeerState::suspect;
  const auto unsettled = end_round(odd);
  EXPECT_TRUE(only<Exchange::Solo>(unsettled).empty());
  EXPECT_EQ(only<Exchange::Solo>(pass(seconds(2))).size(), 1U);
}

// 64 members that propose fill the memory: the partner's own early proposal finds no place, but a word of it is enough
// once my round has ended.
TEST_F(ExchangeTest, EarlyProposalsAreBounded) {
  start(Algorithm::noloco, 0);
  add(smaller_);
  for (std::uint8_t i = 0; i < 64; ++i) {
    add(node(static_cast<std::uint8_t>(100 + i)));
    swarm_.peers[node(static_cast<std::uint8_t>(100 + i))].state = PeerState::suspect;
    hear(node(static_cast<std::uint8_t>(100 + i)), proposal_of(node(static_cast<std::uint8_t>(100 + i))));
  }
  hear(smaller_, proposal_of(smaller_));
  EXPECT_TRUE(said<net::Accept>(end_round(), smaller_).empty());
  EXPECT_EQ(said<net::Accept>(hear(smaller_, proposal_of(smaller_)), smaller_).size(), 1U);
}

class GroupTest : public ExchangeTest {
 protected:
  GroupTest() { start(Algorithm::diloco, 2); }
  const NodeId a_ = node(20);
  const NodeId b_ = node(30);
};

TEST_F(GroupTest, KeepsPartsThatComeBeforeMyRoundEnds) {
  const ExchangeId id{a_, 1, 4};
  EXPECT_EQ(only<Exchange::TakeOffer>(offer(a_, id)).size(), 1U);
  EXPECT_TRUE(deliver(a_, id).empty());
  EXPECT_EQ(only<Exchange::MakeSnapshot>(end_round()).size(), 1U);
  const auto offers = only<Exchange::OfferPart>(snapshot());
  ASSERT_EQ(offers.size(), 2U);
  EXPECT_EQ(offers[0].part.exchange.proposer, self_);
  const ExchangeId other{b_, 1, 4};
  offer(b_, other);
  const auto average = only<Exchange::Average>(deliver(b_, other));
  ASSERT_EQ(average.size(), 1U);
  EXPECT_EQ(average[0].others.size(), 2U);
  const auto how = finished(on(Exchange::Applied{round, 2}));
  EXPECT_TRUE(how.averaged);
}

TEST_F(GroupTest, AveragesWithThoseThatArrived) {
  end_round();
  snapshot();
  const ExchangeId id{a_, 1, 4};
  offer(a_, id);
  EXPECT_TRUE(only<Exchange::Average>(deliver(a_, id)).empty());
  const auto average = only<Exchange::Average>(pass(4 * tau + seconds(1)));
  ASSERT_EQ(average.size(), 1U);
  EXPECT_EQ(average[0].others.size(), 1U);
  // Too late.
  EXPECT_EQ(only<Exchange::RefuseOffer>(offer(b_, {b_, 1, 4})).size(), 1U);
}

TEST_F(GroupTest, FailedAndGoneAreNotWaitedFor) {
  end_round();
  snapshot();
  const ExchangeId id{a_, 1, 4};
  offer(a_, id);
  EXPECT_TRUE(on(Exchange::PartFailed{a_, {id, round, stage}}).empty());
  swarm_.peers[b_].state = PeerState::dead;
  const auto actions = on(Exchange::PeerGone{b_});
  ASSERT_EQ(only<Exchange::Solo>(actions).size(), 1U);
  EXPECT_EQ(only<Exchange::Solo>(actions)[0].cause, SoloCause::nobody_answered);
}

TEST_F(GroupTest, RefusesWhatDoesNotBelong) {
  end_round();
  snapshot();
  const auto code = [&](const NodeId& from, net::ExchangePart part, std::uint64_t bytes) {
    net::Offer offer = offer_of(from, part.exchange);
    offer.about = part;
    offer.bytes = bytes;
    const auto refusals = only<Exchange::RefuseOffer>(on(Exchange::PartOffered{from, offer, part_bytes}));
    return refusals.empty() ? std::optional<net::RefuseCode>() : refusals[0].code;
  };
  const ExchangeId id{a_, 1, 4};
  EXPECT_EQ(code(a_, {id, round - 1, stage}, part_bytes), net::RefuseCode::stale);
  EXPECT_EQ(code(a_, {id, round + 2, stage}, part_bytes), net::RefuseCode::stale);
  EXPECT_EQ(code(a_, {id, round, stage + 1}, part_bytes), net::RefuseCode::wrong_stage);
  EXPECT_EQ(code(a_, {id, round, stage}, part_bytes + 4), net::RefuseCode::malformed);
  EXPECT_EQ(code(b_, {id, round, stage}, part_bytes), net::RefuseCode::malformed);
  EXPECT_EQ(code(a_, {id, round, stage}, part_bytes), std::nullopt);
  EXPECT_EQ(code(a_, {{a_, 1, 5}, round, stage}, part_bytes), net::RefuseCode::duplicate);
}

}  // namespace
}  // namespace starling::outer
