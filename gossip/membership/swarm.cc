#include "gossip/membership/swarm.h"

#include <algorithm>

namespace starling::membership {

std::string_view to_string(PeerState state) {
  switch (state) {
    case PeerState::joining: return "joining";
    case PeerState::active: return "active";
    case PeerState::paused: return "paused";
    case PeerState::suspect: return "suspect";
    case PeerState::dead: return "dead";
    case PeerState::left: return "left";
  }
  return "unknown";
}

Peer* PeerTable::quietly(const NodeId& id) {
  const auto it = map_.find(id);
  return it == map_.end() ? nullptr : &it->second;
}

const std::vector<NodeId>& PeerTable::live_replicas(Stage stage) const {
  static const std::vector<NodeId> none;
  if (!lists_known_) make_lists();
  const auto it = replicas_.find(stage);
  return it == replicas_.end() ? none : it->second;
}

const std::vector<NodeId>& PeerTable::live_workers() const {
  if (!lists_known_) make_lists();
  return workers_;
}

void PeerTable::make_lists() const {
  workers_.clear();
  replicas_.clear();
  for (const auto& [id, peer] : map_) {
    if (peer.state != PeerState::active || peer.record.role != Role::worker) continue;
    workers_.push_back(id);
    if (peer.record.stage != no_stage) replicas_[peer.record.stage].push_back(id);
  }
  lists_known_ = true;
}

const Peer* Swarm::find(const NodeId& id) const {
  const auto it = peers.find(id);
  return it == peers.end() ? nullptr : &it->second;
}

bool Swarm::is_live(const NodeId& id) const {
  const Peer* peer = find(id);
  return peer != nullptr && peer->state == PeerState::active;
}

Step Swarm::largest_done() const {
  Step largest = std::max<Step>(past_done, 0);
  for (const auto& [id, peer] : peers) largest = std::max({largest, peer.done, peer.record.done});
  return largest;
}

std::int64_t Swarm::total_tokens() const {
  std::int64_t total = past_tokens;
  for (const auto& [id, peer] : peers) total += peer.record.tokens;
  return total;
}

}  // namespace starling::membership
