#include "pipeline/placement.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "gossip/base/random.h"

namespace starling::pipeline {
namespace {

constexpr std::size_t copies = 2;

std::uint64_t hash_rank(std::uint64_t seed, std::uint64_t a, std::uint64_t b, const NodeId& id) {
  const std::array<std::uint64_t, 2> parts = {a, b};
  return xxh3_64(id.key, mix_seed(seed, parts));
}

void sort_by_rank(std::vector<NodeId>& ids, std::uint64_t seed, std::uint64_t a, std::uint64_t b) {
  std::sort(ids.begin(), ids.end(), [&](const NodeId& x, const NodeId& y) {
    return std::pair(hash_rank(seed, a, b, x), x) < std::pair(hash_rank(seed, a, b, y), y);
  });
}

}  // namespace

BackupPlan plan_backup(std::uint64_t seed, Round round, Stage stage, const membership::Swarm& swarm) {
  BackupPlan plan;
  const auto r = static_cast<std::uint64_t>(round);
  const auto s = static_cast<std::uint64_t>(stage);
  std::vector<NodeId> replicas = swarm.live_replicas(stage);
  if (replicas.empty()) return plan;
  sort_by_rank(replicas, seed, r, s);
  plan.sender = replicas.front();
  std::vector<NodeId> others;
  for (const NodeId& id : swarm.live_workers()) {
    if (swarm.find(id)->record.stage != stage) others.push_back(id);
  }
  if (others.empty()) others.assign(replicas.begin() + 1, replicas.end());
  sort_by_rank(others, seed, r, s);
  std::set<std::uint64_t> hosts;
  for (const NodeId& id : others) {
    if (plan.holders.size() < copies && hosts.insert(swarm.find(id)->record.host).second) plan.holders.push_back(id);
  }
  for (const NodeId& id : others) {
    if (plan.holders.size() >= copies) break;
    if (std::find(plan.holders.begin(), plan.holders.end(), id) == plan.holders.end()) plan.holders.push_back(id);
  }
  return plan;
}

std::vector<NodeId> backup_holders(const membership::Swarm& swarm, Stage stage) {
  std::vector<std::pair<Step, NodeId>> found;
  for (const NodeId& id : swarm.live_workers()) {
    std::optional<Step> newest;
    for (const membership::BackupHeld& held : swarm.find(id)->record.backups) {
      if (held.stage == stage) newest = std::max(newest.value_or(held.step), held.step);
    }
    if (newest) found.emplace_back(-*newest, id);
  }
  std::sort(found.begin(), found.end());
  std::vector<NodeId> out;
  for (const auto& [age, id] : found) out.push_back(id);
  return out;
}

std::uint64_t Placement::rank(Stage stage, const NodeId& id) const {
  return hash_rank(config_.seed, static_cast<std::uint64_t>(stage), ~0ULL, id);
}

bool Placement::taken_care_of(Stage stage, const membership::Swarm& swarm) const {
  return std::any_of(swarm.peers.begin(), swarm.peers.end(), [&](const auto& entry) {
    const membership::Peer& peer = entry.second;
    if (peer.record.role != membership::Role::worker || peer.record.stage != stage) return false;
    return peer.state == membership::PeerState::active || peer.state == membership::PeerState::suspect ||
           peer.state == membership::PeerState::joining || peer.state == membership::PeerState::paused;
  });
}

bool Placement::lost_to_other(Stage stage, const membership::Swarm& swarm) const {
  const auto own = std::pair(rank(stage, config_.self), config_.self);
  return std::any_of(swarm.peers.begin(), swarm.peers.end(), [&](const auto& entry) {
    const auto& [id, peer] = entry;
    return id != config_.self && swarm.is_live(id) && peer.record.claim == stage && std::pair(rank(stage, id), id) < own;
  });
}

std::vector<NodeId> Placement::candidates(Stage stage, const membership::Swarm& swarm) const {
  Stage best = no_stage;
  std::vector<NodeId> out;
  for (Stage from = 0; from < static_cast<Stage>(config_.stages); ++from) {
    if (from == stage) continue;
    std::vector<NodeId> replicas = swarm.live_replicas(from);
    const bool may_give_last = stage == 0;
    if (replicas.size() < (may_give_last ? 1U : 2U)) continue;
    if (stage == 0) std::erase_if(replicas, [&](const NodeId& id) { return !swarm.find(id)->record.has_data; });
    if (replicas.empty()) continue;
    if (best == no_stage || replicas.size() > out.size()) {
      best = from;
      out = std::move(replicas);
    }
  }
  std::sort(out.begin(), out.end(), [&](const NodeId& a, const NodeId& b) {
    return std::pair(rank(stage, a), a) < std::pair(rank(stage, b), b);
  });
  return out;
}

std::vector<Placement::Action> Placement::on(const Event& event, const membership::Swarm& swarm, Stage own,
                                             MayMove may_move, TimePoint now) {
  std::vector<Action> out;
  next_ = never;
  if (std::holds_alternative<Loaded>(event) || std::holds_alternative<LoadFailed>(event)) {
    claimed_.reset();
    empty_since_.clear();
    out.emplace_back(Claim{no_stage});
    return out;
  }
  if (std::holds_alternative<WokeLate>(event)) empty_since_.clear();
  for (Stage stage = 0; stage < static_cast<Stage>(config_.stages); ++stage) {
    if (taken_care_of(stage, swarm)) {
      empty_since_.erase(stage);
    } else {
      empty_since_.try_emplace(stage, now);
    }
  }
  if (claimed_) {
    const bool back = !empty_since_.contains(*claimed_);
    if (back || lost_to_other(*claimed_, swarm)) {
      claimed_.reset();
      out.emplace_back(CancelLoad{});
      out.emplace_back(Claim{no_stage});
    }
    return out;
  }
  if (may_move == MayMove::no) return out;
  for (const auto& [stage, since] : empty_since_) {
    if (stage == own || lost_to_other(stage, swarm)) continue;
    const bool somebody_claims = std::any_of(swarm.peers.begin(), swarm.peers.end(), [&](const auto& entry) {
      return entry.first != config_.self && swarm.is_live(entry.first) && entry.second.record.claim == stage;
    });
    if (somebody_claims) continue;
    const std::vector<NodeId> order = candidates(stage, swarm);
    const auto place = std::find(order.begin(), order.end(), config_.self);
    if (place == order.end()) continue;
    const TimePoint due = since + config_.dead_for + config_.stagger * (place - order.begin());
    if (due > now) {
      next_ = earliest(next_, due);
      continue;
    }
    claimed_ = stage;
    out.emplace_back(Claim{stage});
    out.emplace_back(Load{stage});
    break;
  }
  return out;
}

}  // namespace starling::pipeline
