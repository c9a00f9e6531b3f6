#include "pipeline/router.h"

#include <algorithm>
#include <array>
#include <numeric>

namespace starling::pipeline {
namespace {

constexpr double ewma_weight = 1.0 / 8.0;
constexpr double avoid_forwards = 20.0;
constexpr Step remembered_steps = 8;
constexpr double least_avoid_seconds = 1.0;
// Of a peer that has not reported yet: small, so that it is tried and measured.
constexpr double unknown_microbatch_seconds = 1e-3;

double microbatch_seconds(const membership::Peer& peer) {
  return peer.record.microbatch_seconds > 0.0 ? peer.record.microbatch_seconds : unknown_microbatch_seconds;
}

}  // namespace

bool Router::avoided(const NodeId& peer, TimePoint now) const {
  const auto it = costs_.find(peer);
  return it != costs_.end() && it->second.avoid_until > now;
}

Duration Router::expected(const NodeId& peer, const membership::Swarm& swarm) const {
  const membership::Peer* known = swarm.find(peer);
  if (known == nullptr) return Duration::max();
  const double own = microbatch_seconds(*known);
  double queue = 0.0;
  double link = 0.0;
  if (const auto it = costs_.find(peer); it != costs_.end()) {
    queue = own * static_cast<double>(it->second.open);
    link = it->second.link_seconds;
  }
  return from_seconds(queue + own + link);
}

std::optional<Duration> Router::best_alternative(Stage stage, const membership::Swarm& swarm, std::size_t queued) const {
  std::optional<Duration> best;
  for (const NodeId& id : swarm.live_replicas(stage)) {
    if (id == config_.self) continue;
    const membership::Peer& peer = *swarm.find(id);
    const auto cost = costs_.find(id);
    const double link = cost == costs_.end() ? 0.0 : cost->second.link_seconds;
    const double own = microbatch_seconds(peer);
    const double queue = std::max(peer.record.load_seconds, own * static_cast<double>(queued));
    const Duration time = from_seconds(queue + own + link);
    if (!best || time < *best) best = time;
  }
  return best;
}

std::optional<NodeId> Router::choose(Stage stage, const membership::Swarm& swarm, const std::set<NodeId>& tried,
                                     TimePoint now) {
  std::vector<NodeId> candidates;
  std::vector<NodeId> last_resort;
  for (const NodeId& id : swarm.live_replicas(stage)) {
    if (tried.contains(id) || id == config_.self) continue;
    (avoided(id, now) ? last_resort : candidates).push_back(id);
  }
  if (candidates.empty()) candidates = std::move(last_resort);
  if (candidates.empty()) return std::nullopt;
  const std::size_t first = random_.below(candidates.size());
  if (candidates.size() == 1) return candidates[first];
  std::size_t second = random_.below(candidates.size() - 1);
  if (second >= first) ++second;
  const NodeId& a = candidates[first];
  const NodeId& b = candidates[second];
  return expected(b, swarm) < expected(a, swarm) ? b : a;
}

std::size_t Router::permuted(const MicrobatchId& id, Stage stage, std::size_t position, std::size_t replicas) const {
  const std::array<std::uint64_t, 3> parts = {static_cast<std::uint64_t>(id.step), id.index,
                                              static_cast<std::uint64_t>(stage)};
  Stream stream(mix_seed(config_.seed, parts));
  std::vector<std::size_t> permutation(replicas);
  std::iota(permutation.begin(), permutation.end(), std::size_t{0});
  stream.shuffle(permutation);
  return permutation[position % replicas];
}

std::vector<Hop> Router::plan(const MicrobatchId& id, const membership::Swarm& swarm, TimePoint now) {
  std::vector<Hop> hops;
  const std::vector<NodeId> originators = swarm.live_replicas(0);
  std::size_t position =
      static_cast<std::size_t>(std::lower_bound(originators.begin(), originators.end(), config_.self) - originators.begin());
  for (Stage stage = 1; stage < static_cast<Stage>(config_.stages); ++stage) {
    const std::vector<NodeId> replicas = swarm.live_replicas(stage);
    if (replicas.empty()) continue;
    if (config_.routing == Routing::permutation) {
      position = permuted(id, stage, position, replicas.size());
      if (!avoided(replicas[position], now)) {
        hops.push_back({stage, replicas[position]});
        continue;
      }
    }
    if (const auto peer = choose(stage, swarm, {}, now)) hops.push_back({stage, *peer});
  }
  return hops;
}

void Router::opened(const MicrobatchId& id, std::vector<Hop> hops) {
  while (!open_.empty() && open_.begin()->first.step + remembered_steps <= id.step) ended(open_.begin()->first);
  for (const Hop& hop : hops) ++costs_[hop.peer].open;
  open_[id] = std::move(hops);
}

void Router::ended(const MicrobatchId& id) {
  const auto node = open_.extract(id);
  if (node.empty()) return;
  for (const Hop& hop : node.mapped()) {
    if (const auto it = costs_.find(hop.peer); it != costs_.end() && it->second.open > 0) --it->second.open;
  }
}

std::vector<Hop> Router::way_of(const MicrobatchId& id) const {
  const auto it = open_.find(id);
  return it == open_.end() ? std::vector<Hop>{} : it->second;
}

void Router::answered(const NodeId& peer, Duration took) {
  Cost& cost = costs_[peer];
  cost.avoid_until = TimePoint{};
  cost.link_seconds += ewma_weight * (seconds(took) - cost.link_seconds);
}

void Router::timed_out(const NodeId& peer, const membership::Swarm& swarm, TimePoint now) {
  const membership::Peer* known = swarm.find(peer);
  const double forward = known == nullptr ? 0.0 : microbatch_seconds(*known) / 3.0;
  costs_[peer].avoid_until = now + from_seconds(std::max(least_avoid_seconds, avoid_forwards * forward));
}

}  // namespace starling::pipeline
