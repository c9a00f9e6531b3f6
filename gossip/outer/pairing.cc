#include "gossip/outer/pairing.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "gossip/base/random.h"

namespace starling::outer {
namespace {

// Keeps the order of nodes and the order of edges apart, though both come from one seed.
enum class Order : std::uint64_t { nodes = 1, edges = 2 };

constexpr std::size_t words_per_id = sizeof(NodeId::key) / sizeof(std::uint64_t);

void copy_words(const NodeId& id, std::uint64_t* words) { std::memcpy(words, id.key.data(), sizeof id.key); }

std::uint64_t node_rank(std::uint64_t seed, Round round, const NodeId& id) {
  std::array<std::uint64_t, 2 + words_per_id> parts{static_cast<std::uint64_t>(Order::nodes),
                                                    static_cast<std::uint64_t>(round)};
  copy_words(id, &parts[2]);
  return mix_seed(seed, parts);
}

}  // namespace

std::uint64_t edge_rank(std::uint64_t seed, Round round, const NodeId& a, const NodeId& b) {
  std::array<std::uint64_t, 2 + 2 * words_per_id> parts{static_cast<std::uint64_t>(Order::edges),
                                                        static_cast<std::uint64_t>(round)};
  copy_words(std::min(a, b), &parts[2]);
  copy_words(std::max(a, b), &parts[2 + words_per_id]);
  return mix_seed(seed, parts);
}

Pairing pair_up(std::uint64_t seed, Round round, const NodeId& self, const std::vector<NodeId>& live) {
  // Equal hashes cannot be excluded, so ids break ties: the order is total and the same everywhere.
  std::vector<std::pair<std::uint64_t, NodeId>> order;
  order.reserve(live.size());
  for (const NodeId& id : live) order.emplace_back(node_rank(seed, round, id), id);
  std::sort(order.begin(), order.end());
  const auto here = std::find_if(order.begin(), order.end(), [&](const auto& entry) { return entry.second == self; });
  STARLING_CHECK(here != order.end(), "self is no live replica");

  Pairing pairing;
  const std::size_t partner = static_cast<std::size_t>(here - order.begin()) ^ 1U;
  if (partner < order.size()) pairing.partner = order[partner].second;

  std::vector<std::pair<std::uint64_t, NodeId>> edges;
  for (const auto& [rank, id] : order) {
    if (id != self && id != pairing.partner) edges.emplace_back(edge_rank(seed, round, self, id), id);
  }
  std::sort(edges.begin(), edges.end());
  if (pairing.partner) pairing.candidates.push_back(*pairing.partner);
  for (const auto& [rank, id] : edges) pairing.candidates.push_back(id);
  return pairing;
}

}  // namespace starling::outer
