// This node's table of peers, and how it learns of their coming, going and silence: SWIM with Lifeguard's self-doubt.
//
// Every heartbeat_interval one peer, in a shuffled round robin, is probed; no ack in its deadline: three others are asked
// to probe it; nothing by the end of the interval: a signed suspicion goes out with the next packets. `dead` is never
// gossiped: each node decides when its own suspicion timer ends, so a liar cannot kill. Who sees itself suspected raises
// its incarnation; a record with a higher (boot, incarnation) brings a dead id back. Updates ride on every packet, each
// about 3 log2(n + 1) times. A loop that wakes more than 1 s late accuses nobody for one suspicion period.
//
// Sources: SWIM (Das, Gupta, Motivala, 2002); Lifeguard (arXiv 1707.00788): local health multiplier, suspicion time-outs
// that shrink with independent confirmations from max to min, buddy system (a suspected peer is told first).
//
// Pure: no I/O, no clock; chance from one stream. Verdicts are for this node alone and cheap to take back; skipping a
// slow hop does not wait for them.
//
//   joining -> active <-> paused;  active|paused|joining -> suspect -> dead;  suspect -> as before (refuted);
//   any -> left (said by itself);  dead|left -> as its record says, when (boot, incarnation) is higher
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/random.h"
#include "gossip/base/time.h"
#include "gossip/membership/membership_config.h"
#include "gossip/membership/record.h"
#include "gossip/net/ack_deadline.h"
#include "gossip/net/wire.h"

namespace starling::membership {

enum class PeerState : std::uint8_t { joining, active, paused, suspect, dead, left };
std::string_view to_string(PeerState state);

struct Peer {
  Record record;
  PeerState state = PeerState::joining;
  TimePoint record_at{};       // when its record came, by our clock: load is aged from here
  Step done = -1;              // the largest D known for (id, boot), from its record, probes or Done
  TimePoint dead_since{};      // with state dead or left
};

// What every other decider may know of the swarm: this node itself is in it. Ordered by id.
struct Swarm {
  NodeId self;
  std::map<NodeId, Peer> peers;

  const Peer* find(const NodeId& id) const;
  bool is_live(const NodeId& id) const;                 // active, neither suspect nor dead
  std::vector<NodeId> live_replicas(Stage stage) const; // workers, sorted by id
  std::vector<NodeId> live_originators() const { return live_replicas(0); }
  std::vector<NodeId> live_workers() const;
  Step largest_done() const;                            // over all ids ever seen; 0 when none
};

class View {
 public:
  struct Config {
    MembershipConfig membership;
    std::size_t max_peers = 4096;             // beyond: dead and left ones give way, else the newcomer is ignored
    int indirect_probes = 3;
    int max_health = 8;                       // Lifeguard's local health multiplier
    double suspicion_min_factor = 4.0;        // x log10(max(10, n)) x heartbeat_interval
    double suspicion_max_factor = 3.0;        // max = this x min
    Duration forget_dead = std::chrono::minutes(10);
    Duration late_wake = std::chrono::seconds(1);
  };

  // ---- what happens
  struct MessageCame {                        // Ping, Ack, PingRequest, ViewRequest, ViewPage; others are ignored
    NodeId from;
    net::Message message;
  };
  struct UpdateCame {                         // a record or suspicion from elsewhere (admission answer, Introduce)
    net::Update update;
  };
  struct DoneCame {                           // Done of the step clock, or our own
    NodeId originator;
    net::DoneMark done;
  };
  struct SelfChanged {                        // id, boot, incarnation, version are ours to fill in
    Record record;
    enum class Kind { important, routine } kind = Kind::routine;  // important: new incarnation, gossiped at once
  };
  struct HeardFrom {                          // any authenticated frame: proof of life, cheaper than a probe
    NodeId peer;
  };
  struct Tick {};
  using Event = std::variant<MessageCame, UpdateCame, DoneCame, SelfChanged, HeardFrom, Tick>;

  // ---- what to do
  struct Send {
    NodeId to;
    net::Message message;
  };
  struct PeerChanged {                        // state, stage or endpoints differ; the new values are in swarm()
    NodeId peer;
    std::optional<PeerState> before;          // unset: first seen
    PeerState now;
    bool endpoints_changed = false;
  };
  struct SelfIsElsewhere {};                  // our own id with a higher boot: this identity runs elsewhere, exit 4
  struct WokeLate {                           // by how much; every deadline of this node shifts
    Duration gap;
  };
  struct RoundTrip {                          // a direct probe was answered
    NodeId peer;
    Duration took;
  };
  using Action = std::variant<Send, PeerChanged, SelfIsElsewhere, WokeLate, RoundTrip>;

  // Checks a newcomer's certificate once per id: true lets its records in. Injected: real ones check the owner's
  // signature (gossip/net/certificate), the simulated world knows its members.
  using CertificateCheck = std::function<bool(const Record&)>;

  View(Config config, Record self, const Signatures& signatures, CertificateCheck check, Stream random, TimePoint now);

  std::vector<Action> on(const Event& event, TimePoint now);
  TimePoint next_deadline() const;

  const Swarm& swarm() const { return swarm_; }
  const Record& self() const { return self_; }
  // This node's newest signed record, for admission answers.
  Bytes signed_self() const;
  // Up to `limit` signed records of active peers, the most recently heard first.
  std::vector<Bytes> signed_active(std::size_t limit) const;
  // Counts for metrics: frames whose content was refused, by reason.
  std::uint64_t rejected_records() const { return rejected_records_; }

 private:
  Config config_;
  Record self_;
  const Signatures& signatures_;
  CertificateCheck check_;
  Stream random_;
  Swarm swarm_;
  std::uint64_t rejected_records_ = 0;
  // The implementation's own tables follow; keep them here, ordered and bounded.
};

}  // namespace starling::membership
