// Inside of the view: one call of View::on, shared by its two source files.
#pragma once

#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "gossip/membership/view.h"

namespace starling::membership {

inline constexpr int intervals_per_upkeep = 2;

// Its time, its actions, and how those looked whom it touched: an event gives one PeerChanged per peer, however often a
// record and the accusations behind it change it.
struct View::Turn {
  struct Before {
    std::optional<PeerState> state;
    RecordOrder order;
    Stage stage = no_stage;
    net::Endpoints endpoints;
  };
  TimePoint now;
  std::vector<Action> actions;
  std::map<NodeId, Before> touched;

  void touch(const NodeId& id, const Swarm& swarm) {
    const auto [it, first] = touched.try_emplace(id);
    const Peer* peer = swarm.find(id);
    if (first && peer != nullptr) {
      it->second = {peer->state, order_of(peer->record), peer->record.stage, peer->record.endpoints};
    }
  }
  void send(const NodeId& to, net::Message message) { actions.emplace_back(Send{to, std::move(message)}); }
};

}  // namespace starling::membership
