// Letting newcomers in: which stage and slot a joiner gets, and the small dance that makes it known before it is answered.
//
// The admitting node verifies token and proof (gossip/net/token), assigns stage and slot from its view counting its own
// last admissions (eight joiners at once must not pick one stage), issues a certificate, pushes the newcomer to every
// active member and answers once all acked or 2 s have passed. Names are unique per run: "-2", "-3" are appended.
//
// Pure: crypto happens outside; `request` is the lobby's handle.
//
//   requested -> introducing -> answered;  requested -> refused
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"

namespace starling::membership {

// The stage a joiner should hold: the one with the fewest live-or-admitted replicas relative to the target; stage 0 only
// for those that have data; ties to the lowest stage, but an uncovered middle stage before everything.
Stage assign_stage(const Swarm& swarm, const std::vector<Stage>& recently_assigned, std::int64_t stages, bool has_data);
// Lowest slot that no live, suspect or recently admitted originator holds.
Slot assign_slot(const Swarm& swarm, const std::set<Slot>& recently_assigned);
// `wanted`, or with the lowest "-2", "-3", ... that no known peer and no recent admission has; at most 32 characters.
std::string unique_name(const Swarm& swarm, const std::set<std::string>& recently_given, const std::string& wanted);

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
  struct Tick {};
  using Event = std::variant<Requested, Issued, AckCame, Tick>;

  struct Issue {                    // make the certificate, then feed Issued
    std::uint64_t request = 0;
    Wish wish;                      // name made unique
    Stage stage = no_stage;
    Slot slot = no_slot;
  };
  struct Introduce {
    NodeId to;
    net::Introduce message;
  };
  struct Answer {
    std::uint64_t request = 0;
  };
  struct Refuse {
    std::uint64_t request = 0;
    std::string why;
  };
  using Action = std::variant<Issue, Introduce, Answer, Refuse>;

  explicit Admission(Config config) : config_(config) {}
  std::vector<Action> on(const Event& event, const Swarm& swarm, TimePoint now);
  TimePoint next_deadline() const;

 private:
  struct Pending;
  struct Recent;
  Config config_;
  std::map<std::uint64_t, std::shared_ptr<Pending>> pending_;
  std::map<NodeId, std::shared_ptr<Recent>> recent_;
};

}  // namespace starling::membership
