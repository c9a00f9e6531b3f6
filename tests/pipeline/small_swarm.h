// A swarm as the deciders of pipeline read it, made by hand: ids 1, 2, 3, ... in the order of their numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <variant>
#include <vector>

#include "gossip/membership/swarm.h"
#include "pipeline/microbatch.h"

namespace starling::pipeline {

inline NodeId id_of(int number) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(number);
  return id;
}

inline TimePoint at(Duration since_start) { return TimePoint{} + since_start; }

// Adds an active worker; `done` is an originator's D.
inline membership::Peer& add_worker(membership::Swarm& swarm, int number, Stage stage, Step done = -1) {
  membership::Peer& peer = swarm.peers[id_of(number)];
  peer.record.id = id_of(number);
  peer.record.stage = stage;
  peer.record.slot = stage == 0 ? static_cast<Slot>(number) : no_slot;
  peer.record.standing = membership::Standing::active;
  peer.record.has_data = true;
  peer.record.host = static_cast<std::uint64_t>(number);
  peer.state = membership::PeerState::active;
  peer.done = done;
  return peer;
}

inline void set_state(membership::Swarm& swarm, int number, membership::PeerState state) {
  swarm.peers[id_of(number)].state = state;
}

template <typename T, typename Actions>
std::vector<T> only(const Actions& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* found = std::get_if<T>(&action)) out.push_back(*found);
  }
  return out;
}

template <typename T, typename Actions>
bool has(const Actions& actions) {
  return std::any_of(actions.begin(), actions.end(), [](const auto& a) { return std::holds_alternative<T>(a); });
}

template <typename T, typename Actions>
std::optional<T> first(const Actions& actions) {
  const auto found = only<T>(actions);
  return found.empty() ? std::nullopt : std::optional<T>(found.front());
}

inline MicrobatchId microbatch(int originator, Step step, std::uint32_t index) { return {id_of(originator), 1, step, index}; }

}  // namespace starling::pipeline
