// Who averages with whom, without a leader.
//
// Live replicas of the stage sorted by hash(seed, round, id): positions 2i and 2i + 1 are partners, and that partner ranks
// before every other candidate, so that with equal views everybody meets somebody and nobody refuses; an odd count leaves
// the last position alone. Views differ or the partner is silent: the other candidates in the order of hash(seed, round,
// smaller id, larger id), so that the best edge is mutual.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gossip/base/ids.h"

namespace starling::outer {

struct Pairing {
  std::optional<NodeId> partner;      // unset: the odd one out
  std::vector<NodeId> candidates;     // partner first, then the rest in rank order; never self
};

// REQUIRES: `live` contains self, no duplicates. Pure; the order of `live` does not matter.
Pairing pair_up(std::uint64_t seed, Round round, const NodeId& self, const std::vector<NodeId>& live);

// Symmetric rank of an edge; smaller is better.
std::uint64_t edge_rank(std::uint64_t seed, Round round, const NodeId& a, const NodeId& b);

}  // namespace starling::outer
