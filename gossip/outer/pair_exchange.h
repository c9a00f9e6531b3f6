// The pair's machine behind Exchange (noloco): exchange.h says the rules, partner_search.h whom to meet.
//
//   from      event                                        to         action
//   -         RoundEnded                                   proposed   Propose, soon
//   proposed  Propose that is taken                        accepted   Accept, MakeSnapshot
//   proposed  Accept of mine, or the offer of its part     accepted   Accept (taken), MakeSnapshot
//   proposed  no hope or no time                           applying   Solo
//   accepted  snapshot here and confirmed                  moving     OfferPart
//   accepted, moving   part delivered                      same       Got
//   accepted, moving   part and Got here                   applying   Average
//   accepted, moving   Decline, silence, failure, gone     proposed   Decline; after my Got: applying, Solo
//   applying  Applied                                      -          RoundFinished
//
// An acceptor is confirmed by the first word of the proposer on this id; until then the proposer may have taken another.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "gossip/outer/exchange.h"
#include "gossip/outer/partner_search.h"

namespace starling::outer {

class PairExchange {
 public:
  PairExchange(Exchange::Config config, NodeId self, Boot boot) : config_(config), self_(self), boot_(boot) {}

  std::vector<Exchange::Action> on(const Exchange::Event& event, const membership::Swarm& swarm, Round round,
                                   TimePoint now);
  TimePoint next_deadline() const { return next_deadline_; }
  bool busy() const { return current_.has_value(); }
  std::vector<Exchange::Action> compare_outcomes(const membership::Record& record);

 private:
  enum class Phase { proposed, accepted, moving, applying };
  enum class Confirmed { no, yes };
  enum class Tell { no, yes };
  // A partner and an id that both know.
  struct Agreement {
    NodeId partner;
    ExchangeId id;
    Confirmed confirmed = Confirmed::no;
    TimePoint agreed_at{};
    TimePoint heard_at{};
    TimePoint speak_at{};                // our word is repeated then
    std::optional<TransferId> incoming;  // the transfer of its part
    Buffer theirs;
    bool got = false;                    // its Got for mine
  };
  struct Current {
    Round round = 0;
    Stage stage = 0;
    Duration tau{};
    PartnerSearch search;
    Phase phase = Phase::proposed;
    std::map<NodeId, ExchangeId> mine;   // what I have proposed: one id per peer and round
    std::optional<Agreement> agreement;  // while accepted or moving
    enum class Snapshot { none, asked, made } snapshot_state = Snapshot::none;
    Buffer snapshot;
    bool sent_got = false;
    std::optional<Exchange::SoloCause> lost;  // why the last partner was given up
    // For RoundFinished.
    std::optional<NodeId> met;
    ExchangeId met_as;
    std::optional<Exchange::SoloCause> solo;  // unset: averaging
  };
  // What a peer proposed last, for the round that ends or the coming one.
  struct Proposal {
    Round round = 0;
    ExchangeId id;
  };
  struct Finished {
    ExchangeId id;
    NodeId partner;
    membership::ExchangeOutcome::Result result = membership::ExchangeOutcome::Result::solo;
    bool compared = false;               // a mismatch has been reported
  };
  // What one event is handled with.
  struct Turn {
    const membership::Swarm& swarm;
    Round round;
    TimePoint now;
    std::vector<Exchange::Action>& out;
  };

  void handle(Turn& turn, const Exchange::RoundEnded& event);
  void handle(Turn& turn, const Exchange::MessageCame& event);
  void handle(Turn& turn, const Exchange::PartOffered& event);
  void handle(Turn& turn, const Exchange::PartCame& event);
  void handle(Turn& turn, const Exchange::PartFailed& event);
  void handle(Turn& turn, const Exchange::SnapshotMade& event);
  void handle(Turn& turn, const Exchange::Applied& event);
  void handle(Turn& turn, const Exchange::PeerGone& event);
  void handle(Turn& turn, const Exchange::Cancelled& event);
  void handle(Turn&, const Exchange::Tick&) {}

  void proposed(Turn& turn, const NodeId& from, const net::Propose& propose);
  void accepted(Turn& turn, const NodeId& from, const net::Accept& accept);
  void declined(Turn& turn, const NodeId& from, const net::Decline& decline);
  void got(Turn& turn, const NodeId& from, const net::Got& got);

  void advance(Turn& turn);
  void seek(Turn& turn);
  void keep_going(Turn& turn);
  bool take_proposal(Turn& turn, const NodeId& from, Proposal proposal);
  void agree(Turn& turn, const NodeId& partner, const ExchangeId& id, Confirmed confirmed);
  void heard(Turn& turn, Confirmed confirmed);
  void say_where_i_am(Turn& turn);
  void offer_when_ready(Turn& turn);
  void average_when_ready(Turn& turn);
  void lose(Turn& turn, Exchange::SoloCause cause, PartnerSearch::Answer answer, Tell tell);
  void drop_agreement(Turn& turn, Tell tell);
  void go_solo(Turn& turn, Exchange::SoloCause cause);

  bool agreed_with(const NodeId& peer, const ExchangeId& id) const;
  bool is_acceptable(const NodeId& peer, const Proposal& proposal, TimePoint now) const;
  net::Decline::Code reason_to_decline() const;
  TimePoint silence_ends() const;
  TimePoint transfer_ends() const;
  TimePoint deadline(TimePoint now) const;
  Finished* find_finished(const ExchangeId& id);
  void remember(const NodeId& partner, const ExchangeId& id, membership::ExchangeOutcome::Result result);
  void answer_finished(Turn& turn, const NodeId& from, const Finished& finished);
  void propose(Turn& turn, const NodeId& to);
  void decline(Turn& turn, const NodeId& to, const ExchangeId& id, net::Decline::Code code);

  Exchange::Config config_;
  NodeId self_;
  Boot boot_;
  std::uint64_t counter_ = 0;
  std::optional<Current> current_;
  std::map<NodeId, Proposal> proposals_;  // at most max_early
  std::deque<Finished> finished_;         // oldest first, at most `remember`
  TimePoint next_deadline_ = never;
};

}  // namespace starling::outer
