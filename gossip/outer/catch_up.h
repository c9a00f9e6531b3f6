// Copying a stage's state from one donor: a newcomer, a worker more than a round behind, a taker of a lost stage.
//
//   idle -> asking -> receiving -> loading -> idle;   a refusal, a silent or lost donor -> asking the next one
//
// Donors: live replicas of the stage, the one with the largest round first, ties in an order drawn from self's id (so that
// eight joiners at once do not choose one donor). For a taker: holders of backups, newest first. When the donor's round ended
// while the copy travelled, phi is copied again, once. Nobody left: Exhausted, and the caller decides (draw, CheckFree).
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/swarm.h"
#include "gossip/net/wire.h"

namespace starling::outer {

class CatchUp {
 public:
  struct Config {
    Duration answer_wait = std::chrono::seconds(2);   // StateRequest to StateInfo
    Duration total_wait = std::chrono::seconds(60);   // StateInfo to the last part, while nothing moves
    std::size_t max_donors = 8;
  };

  enum class From : std::uint8_t { replica, backup };
  // ---- what happens
  struct Start {
    Stage stage = 0;
    From from = From::replica;
    std::uint8_t parts = 7;
  };
  struct InfoCame {
    NodeId from;
    net::StateInfo info;
  };
  struct PartOffered {
    NodeId from;
    net::Offer offer;
    std::uint64_t expected_bytes = 0;   // of such a part, from the config
  };
  struct PartCame {
    NodeId from;
    net::StatePart part;
    Buffer buffer;
  };
  struct PartFailed {
    NodeId from;
    net::StatePart part;
  };
  struct PeerGone {
    NodeId peer;
  };
  struct Loaded {                       // the Load asked for has been answered
    bool good = true;
  };
  struct Cancelled {};
  struct Tick {};
  using Event = std::variant<Start, InfoCame, PartOffered, PartCame, PartFailed, PeerGone, Loaded, Cancelled, Tick>;

  // ---- what to do
  struct Send {
    NodeId to;
    net::Message message;
  };
  struct TakeOffer {
    NodeId from;
    net::Offer offer;
  };
  struct RefuseOffer {
    NodeId from;
    TransferId transfer;
    net::RefuseCode code;
  };
  struct Load {                         // everything is here
    Stage stage = 0;
    net::StateInfo info;
    std::map<std::uint8_t, Buffer> parts;          // by part number
    std::map<std::uint8_t, std::uint8_t> encodings;
  };
  struct Finished {                     // loaded: take k, tau, D and round from info (a backup: only weights)
    Stage stage = 0;
    NodeId donor;
    net::StateInfo info;
  };
  struct Exhausted {
    Stage stage = 0;
    From from = From::replica;
  };
  using Action = std::variant<Send, TakeOffer, RefuseOffer, Load, Finished, Exhausted>;

  CatchUp(Config config, NodeId self) : config_(config), self_(self) {}
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, TimePoint now);
  TimePoint next_deadline() const;
  bool busy() const;

 private:
  struct Current;
  Config config_;
  NodeId self_;
  std::uint64_t counter_ = 0;
  std::shared_ptr<Current> current_;
};

}  // namespace starling::outer
