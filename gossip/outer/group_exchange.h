// All-to-all behind Exchange (diloco): every replica of the stage sends its part to every other; averaged with those that
// arrived. The baseline to measure pairs against, at n times their traffic.
//
//   from      event                                            to         action
//   -         RoundEnded                                       gathering  MakeSnapshot; with no other replica Solo
//   gathering SnapshotMade                                     gathering  OfferPart to every live replica
//   gathering every other part is here, failed or too late     applying   Average; with no part Solo
//   applying  Applied                                          -          RoundFinished
//
// A part that is offered before my own round has ended is taken and kept for the round it belongs to: this one or the
// next. An exchange id names one sender's part of one round; nothing is agreed, so there is nobody to disappoint.
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "gossip/outer/exchange.h"

namespace starling::outer {

class GroupExchange {
 public:
  GroupExchange(Exchange::Config config, NodeId self, Boot boot) : config_(config), self_(self), boot_(boot) {}

  std::vector<Exchange::Action> on(const Exchange::Event& event, const membership::Swarm& swarm, Round round,
                                   TimePoint now);
  TimePoint next_deadline() const { return next_deadline_; }
  bool busy() const { return current_.has_value(); }

 private:
  enum class Phase { gathering, applying };
  struct Current {
    Round round = 0;
    Stage stage = 0;
    Duration tau{};
    TimePoint began{};
    ExchangeId id;
    Phase phase = Phase::gathering;
    enum class Snapshot { none, asked, offered } snapshot = Snapshot::none;
    std::optional<Exchange::SoloCause> solo;  // unset: averaging
  };
  // What another replica gives for a round.
  struct Part {
    ExchangeId id;
    TransferId transfer;
    TimePoint until{};                        // while it moves
    enum class State { moving, here, failed } state = State::moving;
    Buffer buffer;
  };
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

  void gather(Turn& turn);
  void go_solo(Turn& turn, Exchange::SoloCause cause);
  // Until when this replica's part may still come; unset: it is here, or will not come.
  std::optional<TimePoint> awaited_until(const Turn& turn, const NodeId& peer) const;
  bool anybody_else(const Turn& turn) const;
  Part* find_moving(Round round, const NodeId& peer, const ExchangeId& id);
  void drop_parts_before(Turn& turn, Round round);

  Exchange::Config config_;
  NodeId self_;
  Boot boot_;
  std::uint64_t counter_ = 0;
  std::optional<Current> current_;
  std::map<std::pair<Round, NodeId>, Part> parts_;  // of two rounds, at most max_early each
  TimePoint next_deadline_ = never;
};

}  // namespace starling::outer
