// Outputs of ours that somebody else must take over: waiting for their acceptance, then for word that they went on.
//
// A sender keeps its output and stays responsible for a microbatch until its next hop has passed it on; after that only
// the originator watches. Two deadlines: no acceptance in the ack deadline: re-route. Accepted, but no `Passed` by
// 1.5 x eta + one ack deadline: Ask. A new eta: ask again at twice that; "given back", "unknown" or silence: re-route.
// A deadline on "computed" instead re-routes a healthy run to death; trusting the receipt alone loses what dies after it.
// Forward and backward obey the same rules, but backward waits three times as long for an acceptance; the caller re-routes
// forward to another replica, or around the stage, and backward to the hop before. Deadlines are looked at on Tick alone.
//
//   sent -> accepted -> (asked -> accepted)* -> passed;   sent | accepted | asked -> rerouted (sent again) | freed
//
// Backward: a hop whose gradient was accepted by the hop before it tells the hop that the gradient came from.
// Pure: no I/O, no clock; buffers stay with the caller.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/ack_deadline.h"
#include "gossip/net/wire.h"
#include "pipeline/microbatch.h"

namespace starling::pipeline {

class InFlight {
 public:
  enum class Deadlines { on, off };  // off with pipeline.skip: never
  struct Key {
    MicrobatchId microbatch;
    Direction direction = Direction::forward;
    auto operator<=>(const Key&) const = default;
  };

  struct Sent {
    Key key;
    TransferId transfer;
    NodeId to;
    bool ends_here = false;           // the receiver is the originator: acceptance is the end
  };
  struct AcceptedCame {
    NodeId from;
    net::Accepted accepted;
  };
  struct RefuseCame {
    NodeId from;
    TransferId transfer;
    net::RefuseCode code;
  };
  struct TransferEnded {              // bulk dropped it: expired or the peer is gone
    TransferId transfer;
  };
  struct PassedCame {
    NodeId from;
    net::Passed passed;
  };
  struct AnswerCame {
    NodeId from;
    net::AskAnswer answer;
  };
  struct PeerGone {
    NodeId peer;
  };
  struct Freed {                      // abandoned or given up: forget both directions
    MicrobatchId microbatch;
  };
  struct WokeLate {
    Duration gap;
  };
  struct Tick {};
  using Event = std::variant<Sent, AcceptedCame, RefuseCame, TransferEnded, PassedCame, AnswerCame, PeerGone, Freed,
                             WokeLate, Tick>;

  struct Reroute {                    // send it to somebody not in `tried`, or around
    Key key;
    std::set<NodeId> tried;
    NodeId failed;
    SkipReason reason = SkipReason::timeout;
    std::optional<TransferId> cancel;
  };
  struct TellPassed {                 // our output was accepted by its next hop: tell who gave us the input
    Key key;
  };
  struct Settled {                    // passed on or ended: the output need not be kept
    Key key;
  };
  struct SendAsk {
    NodeId to;
    Key key;
  };
  struct FreeGraph {                  // the receiver has it already, or it is too late: our copy is of no use
    Key key;
    net::RefuseCode code;
  };
  struct TimedOut {                   // for the router's memory
    NodeId peer;
  };
  struct Answered {
    NodeId peer;
    Duration took;
  };
  using Action = std::variant<Reroute, TellPassed, Settled, SendAsk, FreeGraph, TimedOut, Answered>;

  explicit InFlight(Deadlines deadlines) : deadlines_(deadlines) {}
  std::vector<Action> on(const Event& event, TimePoint now);
  TimePoint next_deadline() const;

  // True when our output of this pass was accepted by its next hop, or nothing of it is kept any more.
  bool passed(const Key& key) const;
  // The caller found nobody to send it to.
  void forget(const Key& key);
  std::size_t size() const { return entries_.size(); }

 private:
  enum class State : std::uint8_t { sent, accepted, asked };
  struct Entry {
    State state = State::sent;
    TransferId transfer;
    NodeId to;
    bool ends_here = false;
    bool told_passed = false;
    std::set<NodeId> tried;
    TimePoint since{};
    TimePoint at = never;             // its deadline
  };
  using Entries = std::map<Key, Entry>;

  Entries::iterator find(const TransferId& transfer, const NodeId& from);
  net::AckDeadline& deadline_of(const NodeId& peer) { return deadlines_of_[peer]; }
  void accepted(Entries::iterator it, const net::Accepted& accepted, TimePoint now, std::vector<Action>& out);
  void refused(Entries::iterator it, const RefuseCame& event, std::vector<Action>& out);
  void answered(const AnswerCame& event, TimePoint now, std::vector<Action>& out);
  void reroute(Entries::iterator it, SkipReason reason, std::vector<Action>& out);
  void expire(TimePoint now, std::vector<Action>& out);

  Deadlines deadlines_;
  Entries entries_;
  std::map<TransferId, Key> by_transfer_;
  std::map<NodeId, net::AckDeadline> deadlines_of_;
  // Transfers that were given up on: a late acceptance is a sample too, or deadlines would learn from successes only.
  struct Late {
    NodeId to;
    TimePoint since{};
  };
  std::map<TransferId, Late> late_;  // at most 256; the oldest gives way
};

}  // namespace starling::pipeline
