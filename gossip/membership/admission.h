// Letting newcomers in: which stage and slot a joiner gets, and the small dance that makes it known before it is answered.
//
// The admitting node verifies token and proof (gossip/net/token), assigns stage and slot from its view counting its own
// last admissions (eight joiners at once must not pick one stage), issues a certificate, pushes the newcomer to every
// member it knows and answers once all active ones acked or 2 s have passed: who was not told would refuse the newcomer's
// connections. Whoever comes later hears of the last newcomers, too: those who come at the same moment know each other
// neither from the one answer nor from the other, and would refuse each other until their records get through by chance.
// Names are unique per run: "-2", "-3" are appended. Whoever asks again gets the same again: lobby answers
// are lost like anything else. Nodes that admit at the same moment cannot count each other's; that costs balance only.
//
// Pure: crypto happens outside; `request` is the lobby's handle.
//
//   requested -> introducing -> answered;  requested -> refused
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/record.h"
#include "gossip/membership/swarm.h"
#include "gossip/net/wire.h"

namespace starling::membership {

// In all three, what the swarm says of `joiner` itself (a member that returns) does not count.

// The stage a joiner should hold: the one with the fewest replicas, live, joining or recently assigned; a worker that is
// taking over a stage counts there. Ties to the lowest stage, so an uncovered stage 0 goes first: no other stage can be
// skipped worse. Stage 0 only for those that have data; no_stage when that leaves none.
Stage assign_stage(const Swarm& swarm, const NodeId& joiner, const std::vector<Stage>& recently_assigned,
                   std::int64_t stages, bool has_data);
// Lowest slot that nobody holds who is neither dead nor gone, and that was not given away recently.
Slot assign_slot(const Swarm& swarm, const NodeId& joiner, const std::set<Slot>& recently_assigned);
// `wanted`, or with the lowest "-2", "-3", ... that no known peer, dead or alive, and no recent admission has; at most 32
// characters. REQUIRES: a valid name.
std::string unique_name(const Swarm& swarm, const NodeId& joiner, const std::set<std::string>& recently_given,
                        const std::string& wanted);

class Admission {
 public:
  struct Config {
    std::int64_t stages = 4;
    Duration ack_wait = std::chrono::seconds(2);
    Duration remember = std::chrono::seconds(30);   // own admissions that are not in the view yet
    std::size_t max_pending = 64;                   // beyond: refused as busy
  };
  struct Wish {                     // a verified join request
    NodeId id;
    std::string name;
    Role role = Role::worker;
    bool has_data = false;
    std::optional<Stage> keep_stage;  // a returning member that still holds this stage's weights
    bool certified = false;         // it holds a valid chain under this name already: the name is not changed
  };

  struct Requested {
    std::uint64_t request = 0;
    Wish wish;
  };
  struct Issued {                   // the certificate asked for by Issue
    std::uint64_t request = 0;
    Bytes certificate;
    Bytes record;                   // the newcomer's own signed first record, from its request
  };
  struct AckCame {
    NodeId from;
    NodeId newcomer;
  };
  struct MemberSeen {               // for the first time: it missed the introduction of those who came just before it
    NodeId peer;
  };
  struct Tick {};                   // a deadline, or the swarm has changed
  using Event = std::variant<Requested, Issued, AckCame, MemberSeen, Tick>;

  // What the newcomer was given.
  struct Grant {
    Wish wish;                      // name made unique
    Stage stage = no_stage;
    Slot slot = no_slot;
  };
  struct Issue {                    // make the certificate (or take the one it holds), then feed Issued
    std::uint64_t request = 0;
    Grant grant;
  };
  struct Introduce {
    NodeId to;
    net::Introduce message;
  };
  struct Answer {
    std::uint64_t request = 0;
    Grant grant;
    Bytes certificate;
  };
  struct Refuse {
    std::uint64_t request = 0;
    enum class Reason { busy, no_place } reason = Reason::busy;
    std::string why;
  };
  using Action = std::variant<Issue, Introduce, Answer, Refuse>;

  explicit Admission(Config config) : config_(config) {}
  std::vector<Action> on(const Event& event, const Swarm& swarm, TimePoint now);
  TimePoint next_deadline() const;

 private:
  struct Pending {
    Grant grant;
    Bytes certificate;
    std::optional<std::set<NodeId>> waiting;   // whose acks are missing; unset: no certificate yet
    TimePoint deadline{};
  };
  struct Recent {
    Grant grant;
    TimePoint forget_at{};
    Bytes certificate;                         // empty: not issued yet
    Bytes record;
  };

  void handle(const Requested& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void handle(const Issued& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void handle(const MemberSeen& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void handle(const AckCame& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void handle(const Tick&, const Swarm&, TimePoint, std::vector<Action>&) {}
  std::optional<Grant> grant_for(const Wish& wish, const Swarm& swarm) const;
  bool counts(const NodeId& id, const Swarm& swarm) const;
  void answer_ripe(const Swarm& swarm, TimePoint now, std::vector<Action>& out);

  Config config_;
  std::map<std::uint64_t, Pending> pending_;
  std::map<NodeId, Recent> recent_;            // at most 4 x max_pending: beyond, refused as busy
};

}  // namespace starling::membership
