// Which peer to ask for a sign of life, how long to wait for it, and when silence becomes suspicion and suspicion a
// verdict. SWIM's probes with Lifeguard's doubt in oneself; the view (view.h) turns its actions into messages.
//
// Every interval one peer that was not heard of late is probed, in a shuffled round robin. No answer in its deadline: the
// probe is repeated and others are asked to probe for us. Nothing by the end of the interval: we accuse it.
//   interval  = heartbeat_interval x (1 + health), health in 0 .. max_health: +1 when a probe fails and not even a helper
//               answered, or when we are suspected ourselves; -1 when a probe succeeds. Who hears nobody doubts itself.
// An accusation, ours or another's, is believed once the accused has been silent for one heartbeat_interval. It is dead
// when the accusation has stood for the time-out below and we ourselves have heard nothing for `least`:
//   least     = suspicion_min_factor x log10(max(10, n)) x heartbeat_interval
//   time-out  = most - (most - least) x log(c + 1) / log(K + 1),  most = suspicion_max_factor x least,
//               c accusers beyond the first, K = min(3, n - 2): who else there is to confirm
// Deviation from Lifeguard: whoever hears of an accusation probes the accused at once with chance 6 / n, so that the
// accusers the time-out waits for come within one interval and not after a walk through the whole round robin.
//
// Sources: SWIM (Das, Gupta, Motivala, 2002) 3.1, 4.1, 4.3; Lifeguard (arXiv 1707.00788) IV.
//
// Pure: no I/O, no clock; chance from its own stream.
//
//   unwatched -> quiet <-> accused -> believed -> condemned = unwatched;  accused | believed -> quiet: cleared
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/random.h"
#include "gossip/base/time.h"
#include "gossip/net/ack_deadline.h"

namespace starling::membership {

// Accusers of one peer that make a difference: the first, and K = 3 that confirm it.
inline constexpr std::size_t max_accusers = 4;

class Detector {
 public:
  struct Config {
    NodeId self;
    Duration heartbeat_interval = std::chrono::seconds(1);
    int indirect_probes = 3;
    int max_health = 8;
    double suspicion_min_factor = 3.0;
    double suspicion_max_factor = 3.0;
  };

  // ---- what to do
  struct Probe {                 // send a Ping; its Ack comes back through acked()
    NodeId to;
    std::uint64_t sequence = 0;
  };
  struct AskHelp {               // send a PingRequest
    NodeId helper;
    std::uint64_t sequence = 0;
    NodeId target;
  };
  struct Accuse {                // say so with our signature, then call accused()
    NodeId peer;
  };
  struct Believe {               // it is suspect from now on
    NodeId peer;
  };
  struct Condemn {               // it is dead, and not watched any more
    NodeId peer;
  };
  using Action = std::variant<Probe, AskHelp, Accuse, Believe, Condemn>;

  Detector(Config config, Stream random, TimePoint now);

  // Members that are neither dead nor gone, without this node. Watching again changes nothing.
  void watch(const NodeId& peer);
  void unwatch(const NodeId& peer);
  bool watches(const NodeId& peer) const { return watched_.contains(peer); }
  // Members, this node included.
  std::size_t size() const { return watched_.size() + 1; }

  // A frame that the peer itself sent.
  void heard(const NodeId& peer, TimePoint now);
  std::optional<TimePoint> heard_at(const NodeId& peer) const;
  // An Ack with a sequence that we gave out. Result: how long a direct one took, late ones included.
  std::optional<Duration> acked(const NodeId& from, std::uint64_t sequence, const NodeId& about, TimePoint now);

  // `accusers` of them stand against the peer's present life. REQUIRES: accusers >= 1.
  void accused(const NodeId& peer, std::size_t accusers, TimePoint now);
  // The peer has shown a newer life.
  void cleared(const NodeId& peer);
  // Somebody suspects this node: perhaps it is slow.
  void doubt_self();
  // The loop slept for `gap`: nothing that was due in it counts, and nobody is accused or condemned for one `least`.
  void woke_late(Duration gap, TimePoint now);

  // Up to `count` peers in random order that nobody accuses, without `except`.
  std::vector<NodeId> pick(std::size_t count, const NodeId& except);
  // A sequence for a probe of somebody else's behalf.
  std::uint64_t fresh_sequence() { return ++last_sequence_; }

  // What is due. To be called until it returns nothing, as accused() may make more due.
  std::vector<Action> advance(TimePoint now);
  TimePoint next_deadline() const;

  int health() const { return health_; }
  Duration suspicion_least() const;
  Duration suspicion_timeout(std::size_t accusers) const;

 private:
  struct Watched {
    std::optional<TimePoint> heard_at;
    net::AckDeadline acks;
    std::uint64_t last_sequence = 0;   // of our last probe, so that a late answer is a sample too
    TimePoint last_sent{};
  };
  struct InFlight {
    enum class Kind { round, confirm } kind = Kind::round;
    NodeId target;
    TimePoint sent{};
    TimePoint repeat_at{};             // never: done already
    TimePoint end_at{};
    std::set<NodeId> helpers;
    bool helper_answered = false;
  };
  struct Doubt {                       // about one accused peer
    TimePoint since{};
    std::size_t accusers = 0;
    bool believed = false;
  };

  void probe(const NodeId& target, InFlight::Kind kind, TimePoint now, std::vector<Action>& out);
  void repeat_with_help(std::uint64_t sequence, InFlight& flight, std::vector<Action>& out);
  void end(const InFlight& flight, TimePoint now, std::vector<Action>& out);
  std::optional<NodeId> next_in_round(TimePoint now);
  TimePoint due(const NodeId& peer, const Doubt& doubt) const;
  Duration interval() const { return config_.heartbeat_interval * (1 + health_); }

  Config config_;
  Stream random_;
  std::map<NodeId, Watched> watched_;
  std::vector<NodeId> round_;            // the watched ones, shuffled; those before next_ had their turn
  std::size_t next_ = 0;
  std::map<std::uint64_t, InFlight> in_flight_;
  std::map<NodeId, Doubt> doubts_;
  std::set<NodeId> to_confirm_;
  std::uint64_t last_sequence_ = 0;
  int health_ = 0;
  TimePoint next_round_at_;
  TimePoint amnesty_until_{};
};

}  // namespace starling::membership
