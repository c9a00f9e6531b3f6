// Names of things: nodes, runs, steps, microbatches, exchanges, transfers.
//
// Ids cross threads and wires; pointers never do.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>

#include "gossip/base/bytes.h"

namespace starling {

// A node's Ed25519 public key.
struct NodeId {
  std::array<std::byte, 32> key{};
  auto operator<=>(const NodeId&) const = default;
  bool is_null() const { return *this == NodeId{}; }
  std::string hex() const { return to_hex(key); }
  // The first 8 hex digits: enough for a person, never for a program.
  std::string brief() const { return hex().substr(0, 8); }
};
// Errors: not 64 hex digits.
Result<NodeId> node_id_from_hex(std::string_view text);

// BLAKE2b-256 of the owner key and the run's own random bytes.
struct RunId {
  Hash256 hash{};
  auto operator<=>(const RunId&) const = default;
  std::string hex() const { return to_hex(hash); }
  std::string brief() const { return hex().substr(0, 12); }
};

using Step = std::int64_t;    // the swarm's step clock; the first step is 1
using Round = std::int64_t;   // round r covers steps (r - 1) * local_steps + 1 .. r * local_steps; the first is 1
using Stage = std::int32_t;   // 0 .. stages - 1; -1: none (an observer)
using Slot = std::int32_t;    // an originator's number; -1: none
using Boot = std::uint64_t;   // how often this identity has started

inline constexpr Stage no_stage = -1;
inline constexpr Slot no_slot = -1;

struct MicrobatchId {
  NodeId originator;
  Boot boot = 0;
  Step step = 0;
  std::uint32_t index = 0;
  auto operator<=>(const MicrobatchId&) const = default;
};

struct ExchangeId {
  NodeId proposer;
  Boot boot = 0;
  std::uint64_t counter = 0;
  auto operator<=>(const ExchangeId&) const = default;
};

// One offered buffer: unique per sender and boot.
struct TransferId {
  NodeId sender;
  Boot boot = 0;
  std::uint64_t counter = 0;
  auto operator<=>(const TransferId&) const = default;
};

std::string to_string(const MicrobatchId& id);
std::string to_string(const ExchangeId& id);
std::string to_string(const TransferId& id);

}  // namespace starling
