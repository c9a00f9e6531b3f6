// Copying a stage's state from one donor: a newcomer, a worker more than a round behind, a taker of a lost stage.
//
//   from       event                                           to         action
//   idle       Start                                           asking     StateRequest to the best donor
//   asking     StateInfo, and a part of it offered             receiving  TakeOffer
//   receiving  every part here                                 loading    Load
//   receiving  the same, but the donor's round ended meanwhile asking     StateRequest for these again, once
//   loading    Loaded, good                                    idle       Finished; or again, as above
//   any        refusal, silence, failure, bad state, gone      asking     StateRequest to the next donor
//   any        the same with nobody left                       idle       Exhausted; or Load of a copy one round old
//
// Donors: live replicas of the stage, the one with the largest round first, ties in an order drawn from self's id (so that
// eight joiners at once do not choose one donor). For a taker: holders of backups, newest first. A request is repeated
// within its wait, as messages are lost; each repeat is a request of its own, so that parts and numbers of one answer are
// never mixed with those of another, or of a life before this boot. Nobody left: Exhausted, and the caller decides (draw,
// CheckFree).
//
// What is copied: phi, theta, Adam's state and the outer momentum, so that a newcomer goes on as its donor would; what an
// exchange changes, phi, theta and momentum, is what is copied again. With theta = phi in the middle of a round its first
// delta would be short, and without momentum it would move less: either way it and its partner would trail the others.
//
// A donor's numbers (step, round, tau) are its word; only sizes can be checked here and finiteness by the Load.
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
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
    std::size_t max_donors = 8;                       // tried in one Start
    int requests = 3;                                 // to one donor within answer_wait
  };

  enum class From : std::uint8_t { replica, backup };
  // ---- what happens
  struct Start {
    Stage stage = 0;
    From from = From::replica;
    std::uint8_t parts = 31;            // as in StateRequest; of a backup only phi
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

  CatchUp(Config config, NodeId self, Boot boot) : config_(config), self_(self), counter_(boot << 32) {}
  // Start while busy begins anew.
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, TimePoint now);
  // `never` only when idle or while compute owes Loaded.
  TimePoint next_deadline() const;
  bool busy() const { return current_.has_value(); }

 private:
  enum class Phase { asking, receiving, loading };
  // A part that is under way or here.
  struct Incoming {
    TransferId transfer;
    std::uint8_t encoding = 0;
    Buffer buffer;  // null while it moves
  };
  // A complete state.
  struct Copy {
    NodeId donor;
    net::StateInfo info;
    std::map<std::uint8_t, Incoming> parts;
  };
  struct Current {
    Start start;
    std::vector<NodeId> donors;        // best first; those tried are taken away from the front
    Phase phase = Phase::asking;
    NodeId donor;
    std::uint64_t first_request = 0;   // those of [first, last] went to this donor
    std::uint64_t last_request = 0;
    std::uint64_t heard = 0;           // the one whose answer counts; 0: nothing came yet
    std::uint8_t wanted = 0;           // parts asked for
    std::optional<net::StateInfo> info;
    std::map<std::uint8_t, Incoming> parts;
    TimePoint asked_at{};
    TimePoint ask_again{};
    TimePoint moved_at{};              // something of this request came
    std::optional<Copy> older;         // whole, but the donor's round ended while it travelled
    bool refreshed = false;            // the outer parts were asked for a second time
  };
  struct Turn {
    const membership::Swarm& swarm;
    TimePoint now;
    std::vector<Action>& out;
  };

  void handle(Turn& turn, const Start& event);
  void handle(Turn& turn, const InfoCame& event);
  void handle(Turn& turn, const PartOffered& event);
  void handle(Turn& turn, const PartCame& event);
  void handle(Turn& turn, const PartFailed& event);
  void handle(Turn& turn, const PeerGone& event);
  void handle(Turn& turn, const Loaded& event);
  void handle(Turn& turn, const Cancelled& event);
  void handle(Turn& turn, const Tick& event);

  std::vector<NodeId> order_donors(const Start& start, const membership::Swarm& swarm) const;
  void next_donor(Turn& turn);
  void ask(Turn& turn, std::uint8_t parts);
  void send_request(Turn& turn);
  void load_when_complete(Turn& turn);
  void refresh(Turn& turn);
  void load(Turn& turn);
  bool donor_went_on(const Turn& turn) const;
  bool counts(Turn& turn, std::uint64_t request);
  void refuse_moving(Turn& turn);
  TimePoint patience_ends() const;

  Config config_;
  NodeId self_;
  std::uint64_t counter_;
  std::optional<Current> current_;
};

}  // namespace starling::outer
