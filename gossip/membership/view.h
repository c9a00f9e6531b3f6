// This node's table of peers, and how it learns of their coming, going and silence: SWIM with Lifeguard's self-doubt.
//
// Every heartbeat_interval one peer, in a shuffled round robin, is probed (detector.h); a frame of any kind proves its
// sender alive, so that busy peers cost few probes. Who does not answer is accused by a signed suspicion. `dead` is never
// gossiped: each node decides when its own suspicion timer ends, so a liar cannot kill. Who sees itself suspected raises
// its incarnation; a record with a higher (boot, incarnation) brings a dead id back. News ride on every packet and, while
// urgent, on packets of their own (dissemination.h). A loop that wakes more than 1 s late accuses nobody for one suspicion
// period, takes a new incarnation, and reads the tables of two peers again.
//
// Gossip reaches nearly everybody; three slow habits reach the rest. Every second interval one page of a random peer's
// table is read, accusations of the dead included, so that tables become equal. Every sixth interval somebody dead is
// told so: a healed partition needs one such knock. And whoever is heard of although accused is told at once.
//
// What a member can do to us is bounded: one forged item ends the reading of its packet and of that sender's news for
// one interval; records cost an allowance per id
// (new lives and new versions apart: 16 and 4 at once, then one a second; nothing is lost by it, as the newest record
// stays on the pages of others), accusations one per accuser (16, then one per heartbeat_interval); at most four accusers
// of one peer are kept; a table that is full forgets the dead, or does not take the newcomer.
//
// Sources: SWIM (Das, Gupta, Motivala, 2002); Lifeguard (arXiv 1707.00788): local health multiplier, suspicion time-outs
// that shrink with independent confirmations from max to min, buddy system (a suspected peer is told first).
//
// Pure: no I/O, no clock; chance from one stream. Verdicts are for this node alone and cheap to take back; skipping a
// slow hop does not wait for them.
//
//   joining -> active <-> paused;  active|paused|joining -> suspect -> dead;  suspect -> as before (refuted);
//   any -> left (said by itself);  dead|left -> as its record says, when (boot, incarnation) is higher
//   dead|left for forget_dead -> not in the table; a record of that life is not taken again
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
#include "gossip/membership/allowance.h"
#include "gossip/membership/detector.h"
#include "gossip/membership/dissemination.h"
#include "gossip/membership/membership_config.h"
#include "gossip/membership/record.h"
#include "gossip/membership/swarm.h"
#include "gossip/net/wire.h"

namespace starling::membership {

class View {
 public:
  struct Config {
    MembershipConfig membership;
    std::size_t max_peers = 4096;             // beyond: dead and left ones give way, else the newcomer is ignored
    int indirect_probes = 3;
    int max_health = 8;                       // Lifeguard's local health multiplier
    double suspicion_min_factor = 3.0;        // x log10(max(10, n)) x heartbeat_interval
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
    // Important: new incarnation, gossiped at once. A change of standing, role, name, stage, slot, claim, endpoints,
    // certificate, finished or last_step is important whatever this says.
    enum class Kind { important, routine } kind = Kind::routine;
  };
  struct HeardFrom {                          // any authenticated frame: proof of life, cheaper than a probe
    NodeId peer;
  };
  struct Tick {};
  using Event = std::variant<MessageCame, UpdateCame, DoneCame, SelfChanged, HeardFrom, Tick>;

  // ---- what to do; all PeerChanged of an event stand before its Sends, so that addresses are known
  struct Send {
    NodeId to;
    net::Message message;
  };
  struct PeerChanged {                        // a new life, state, stage or address; the new values are in swarm()
    NodeId peer;
    std::optional<PeerState> before;          // unset: first seen
    PeerState now;
    bool endpoints_changed = false;
  };
  struct PeerForgotten {                      // dead or gone for long: not in swarm() any more, its addresses may go
    NodeId peer;
  };
  struct DoneRose {                           // a larger D of this peer is in swarm()
    NodeId originator;
  };
  struct SelfIsElsewhere {};                  // our own id with a higher boot: this identity runs elsewhere, exit 4
  struct WokeLate {                           // by how much; every deadline of this node shifts
    Duration gap;
  };
  struct RoundTrip {                          // a direct probe was answered
    NodeId peer;
    Duration took;
  };
  using Action = std::variant<Send, PeerChanged, PeerForgotten, DoneRose, SelfIsElsewhere, WokeLate, RoundTrip>;

  // Checks a newcomer's certificate once per id, and again when its certificate, name or role differ: true lets its
  // records in. Injected: real ones check the owner's signature (gossip/net/certificate) and that subject, name and role
  // are those of the record; the simulated world knows its members. A record without a certificate belongs to a newcomer
  // whose Introduce brings it: the check may know that one.
  using CertificateCheck = std::function<bool(const Record&)>;

  // What was refused, by reason.
  struct Rejected {
    std::uint64_t malformed = 0;
    std::uint64_t bad_signature = 0;
    std::uint64_t bad_certificate = 0;
    std::uint64_t too_often = 0;              // an allowance was used up: it will come again
    std::uint64_t table_full = 0;
  };

  // REQUIRES: `self` has its id and boot and no defect; `signatures` signs for it and outlives the view.
  View(Config config, Record self, const Signatures& signatures, CertificateCheck check, Stream random, TimePoint now);

  std::vector<Action> on(const Event& event, TimePoint now);
  TimePoint next_deadline() const { return deadline_; }

  const Swarm& swarm() const { return swarm_; }
  // As it stands, published or not.
  const Record& self() const { return self_; }
  // This node's newest signed record, for join requests and admission answers.
  const Bytes& signed_self() const { return signed_self_; }
  // Up to `limit` signed records of other active peers, the most recently heard first.
  std::vector<Bytes> signed_active(std::size_t limit) const;
  // Counts for metrics: items whose content was refused.
  const Rejected& rejected() const { return rejected_; }
  std::uint64_t rejected_records() const;

 private:
  // What only we need to know of a peer; for each id of the table but our own.
  struct Entry {
    explicit Entry(Duration heartbeat_interval);
    Bytes record;                             // as it was signed
    std::map<NodeId, Bytes> accusations;      // by accuser, against its present life; at most max_accusers; kept when dead
    Allowance lives;                          // new (boot, incarnation) taken from it
    Allowance versions;
    Allowance accusing;                       // accusations by it
    Allowance pages;                          // pages it may read
    Allowance news;                           // acks to it that carry news
    Allowance told;                           // unasked words to it that it is accused
    Allowance forging;                        // packets of it with a forged item; spent: its news are not read
  };
  struct Forgotten {                          // of a life that left the table
    RecordOrder order;
    std::int64_t tokens = 0;
    std::uint64_t turn = 0;
  };
  struct Relay {                              // a probe for somebody else
    NodeId asker;
    NodeId target;
    std::uint64_t sequence = 0;
  };
  struct Reading {                            // of a whole table, page by page
    NodeId peer;
    std::uint32_t page = 0;
    TimePoint give_up_at{};
    int tries = 0;
  };
  struct Turn;                                // one call of on(): its time, its actions, whom it touched
  enum class Item { fine, forged };

  void handle(const MessageCame& event, Turn& turn);
  void handle(const UpdateCame& event, Turn& turn);
  void handle(const DoneCame& event, Turn& turn);
  void handle(const SelfChanged& event, Turn& turn);
  void handle(const HeardFrom& event, Turn& turn);
  void handle(const Tick& event, Turn& turn);

  void answer(const NodeId& from, const net::Ping& ping, Turn& turn);
  void answer(const NodeId& from, const net::Ack& ack, Turn& turn);
  void answer(const NodeId& from, const net::PingRequest& request, Turn& turn);
  void answer(const NodeId& from, const net::ViewRequest& request, Turn& turn);
  void answer(const NodeId& from, const net::ViewPage& page, Turn& turn);
  template <typename Other>
  void answer(const NodeId&, const Other&, Turn&) {}

  // Reading what others say.
  void absorb(const std::vector<net::Update>& updates, const std::optional<NodeId>& from, Turn& turn);
  Item absorb_record(const Bytes& bytes, Turn& turn);
  Item absorb_own_record(const Bytes& bytes, const RecordOrder& order, Turn& turn);
  Item absorb_suspicion(const Bytes& bytes, const std::optional<NodeId>& from, Turn& turn);
  Item count_forged(const Error& error);
  void refute(Turn& turn);
  bool is_news(const RecordLabel& label, const Bytes& bytes) const;
  bool make_room(Turn& turn);
  void take_record(Record record, const Bytes& bytes, Turn& turn);
  void remember_past(const Record& record, const Peer* before);
  void raise_done(const NodeId& id, const net::DoneMark& done, Turn& turn);
  void say_who_we_are(const NodeId& id, Turn& turn);
  void tell_if_accused(const NodeId& id, Turn& turn);

  // Saying what we know.
  void ping(const NodeId& to, std::uint64_t sequence, Turn& turn);
  void ack(const NodeId& to, std::uint64_t sequence, std::vector<net::Update> updates, Turn& turn);
  std::vector<net::Update> news_for(const NodeId& to);
  std::optional<net::Update> accusation_of(const NodeId& id) const;
  net::DoneMark own_done() const;
  void publish(SelfChanged::Kind kind, Turn& turn);
  void publish_if_due(Turn& turn);
  void say_farewell(Turn& turn);
  net::ViewPage page_of_table(std::uint32_t page) const;

  // Time.
  void notice_late_wake(Turn& turn);
  void run_detector(Turn& turn);
  void accuse(const NodeId& peer, Turn& turn);
  void add_accusation(const NodeId& peer, const NodeId& accuser, const Bytes& bytes, Turn& turn);
  void set_state(const NodeId& id, PeerState state, Turn& turn);
  void spread_urgent(Turn& turn);
  void keep_reading(Turn& turn);
  void upkeep(Turn& turn);
  void knock_on_a_dead_one(Turn& turn);
  void forget(NodeId id, Turn& turn);
  Duration routine_interval() const;
  std::vector<Action> finish(Turn& turn);
  void find_deadline(TimePoint now);

  Config config_;
  Record self_;
  const Signatures& signatures_;
  CertificateCheck check_;
  Stream random_;
  Swarm swarm_;
  Rejected rejected_;

  Detector detector_;
  Dissemination news_;
  std::map<NodeId, Entry> entries_;
  std::map<NodeId, Forgotten> forgotten_;     // at most max_peers; the first forgotten gives way
  std::uint64_t forgotten_count_ = 0;
  std::map<std::uint64_t, Relay> relays_;     // by our sequence; at most max_relays, one an asker; the oldest gives way
  std::vector<Reading> readings_;             // at most two
  int readings_wanted_ = 2;
  std::uint32_t habit_page_ = 0;              // the next one to read of a random peer
  std::uint64_t upkeeps_ = 0;

  Bytes signed_self_;
  Allowance own_lives_;                       // stricter than what others grant us
  std::optional<SelfChanged::Kind> unpublished_;
  bool elsewhere_ = false;

  TimePoint deadline_{};
  TimePoint spread_at_{};                     // earliest next packet for urgent news only
  TimePoint routine_at_{};                    // earliest next version
  TimePoint upkeep_at_{};
};

}  // namespace starling::membership
