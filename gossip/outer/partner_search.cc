#include "gossip/outer/partner_search.h"

#include <algorithm>

namespace starling::outer {

using membership::Peer;
using membership::PeerState;
using SoloCause = Exchange::SoloCause;

PartnerSearch::PartnerSearch(const Exchange::Config& config, const NodeId& self, const Exchange::RoundEnded& ended,
                             TimePoint now)
    : config_(config),
      self_(self),
      round_(ended.round),
      stage_(ended.stage),
      tau_(ended.tau),
      began_(now),
      paired_at_(now) {}

void PartnerSearch::look(const membership::Swarm& swarm, TimePoint now) {
  std::vector<NodeId> live = swarm.live_replicas(stage_);
  // Our own record may say "joining" for a moment longer than we do.
  const auto place = std::lower_bound(live.begin(), live.end(), self_);
  if (place == live.end() || *place != self_) live.insert(place, self_);
  if (live != live_) {
    live_ = std::move(live);
    pairing_ = pair_up(config_.seed, round_, self_, live_);
    paired_at_ = now;
    target_.reset();
  }
  for (const NodeId& peer : pairing_.candidates) known_[peer].inside = swarm.find(peer)->record.round <= round_;
  settled_ = std::none_of(swarm.peers.begin(), swarm.peers.end(), [&](const auto& entry) {
    const Peer& peer = entry.second;
    const bool died_lately = peer.state == PeerState::dead && now - peer.dead_since < config_.unsettled;
    return peer.record.stage == stage_ && (peer.state == PeerState::suspect || died_lately);
  });
}

PartnerSearch::Answer PartnerSearch::answer_of(const NodeId& peer) const {
  const auto it = known_.find(peer);
  return it == known_.end() ? Answer::none : it->second.answer;
}

bool PartnerSearch::has_hope(const NodeId& peer) const {
  const Answer answer = answer_of(peer);
  return answer == Answer::none || answer == Answer::better;
}

bool PartnerSearch::awaits_target(TimePoint now) const {
  return target_ && now < target_until_ && answer_of(*target_) == Answer::none;
}

// A peer that we do not count as live may speak all the same; it ranks last.
std::size_t PartnerSearch::rank(const NodeId& peer) const {
  const auto& order = pairing_.candidates;
  return static_cast<std::size_t>(std::find(order.begin(), order.end(), peer) - order.begin());
}

bool PartnerSearch::prefers(const NodeId& a, const NodeId& b) const { return rank(a) < rank(b); }

bool PartnerSearch::takes(const NodeId& peer, TimePoint now) const {
  if (is_out(peer)) return false;
  if (!is_open(now)) return peer == pairing_.partner;
  return !awaits_target(now) || rank(peer) <= rank(*target_);
}

std::optional<NodeId> PartnerSearch::ask(TimePoint now) {
  if (awaits_target(now)) return std::nullopt;
  const auto& order = pairing_.candidates;
  const std::size_t count = is_open(now) ? order.size() : 1;
  const std::size_t first = target_ ? rank(*target_) + 1 : 0;
  for (std::size_t i = 0; i < count; ++i) {
    const NodeId& peer = order[(first + i) % count];
    Known& known = known_[peer];
    if (!has_hope(peer) || now < known.ask_again) continue;
    known.ask_again = now + config_.repeat;
    target_ = peer;
    target_until_ = now + config_.repeat;
    return peer;
  }
  return std::nullopt;
}

void PartnerSearch::spoke(const NodeId& peer) {
  Known& known = known_[peer];
  if (known.answer == Answer::busy) known.answer = Answer::better;
}

Duration PartnerSearch::short_wait() const { return std::max(tau_, config_.min_wait); }
Duration PartnerSearch::long_wait() const { return std::max(4 * tau_, config_.min_wait); }

TimePoint PartnerSearch::opens_at() const {
  if (!pairing_.partner || answer_of(*pairing_.partner) != Answer::none) return began_;
  return began_ + (known_.at(*pairing_.partner).inside ? long_wait() : short_wait()) / 2;
}

TimePoint PartnerSearch::ends_at() const {
  // Whoever was paired anew has some time to find the new partner, but deaths one after the other do not add up.
  const TimePoint again = std::min(paired_at_ + short_wait() / 2, began_ + long_wait() + short_wait());
  if (!pairing_.partner) return std::max(began_ + short_wait() / 2, again);
  // Two repeats for the way of the messages: who comes at the very end of the long wait is still met.
  const bool someone_inside = std::any_of(pairing_.candidates.begin(), pairing_.candidates.end(),
                                          [&](const NodeId& peer) { return has_hope(peer) && known_.at(peer).inside; });
  const TimePoint end = began_ + (someone_inside ? long_wait() + 2 * config_.repeat : short_wait());
  return std::max(end, again);
}

std::optional<SoloCause> PartnerSearch::hopeless(TimePoint now) const {
  const auto& order = pairing_.candidates;
  if (order.empty()) return SoloCause::alone;
  const bool refused_by_all =
      std::none_of(order.begin(), order.end(), [&](const NodeId& peer) { return has_hope(peer); });
  if (!pairing_.partner) {
    if (settled_ || refused_by_all || now >= ends_at()) return SoloCause::odd_one_out;
    return std::nullopt;
  }
  if (refused_by_all) return SoloCause::declined;
  if (now >= ends_at()) return SoloCause::nobody_answered;
  return std::nullopt;
}

TimePoint PartnerSearch::next_deadline(TimePoint now) const {
  TimePoint next = ends_at();
  if (!is_open(now)) next = earliest(next, opens_at());
  if (awaits_target(now)) return earliest(next, target_until_);
  const auto& order = pairing_.candidates;
  const std::size_t count = is_open(now) ? order.size() : 1;
  for (std::size_t i = 0; i < count; ++i) {
    if (has_hope(order[i])) next = earliest(next, known_.at(order[i]).ask_again);
  }
  return next;
}

}  // namespace starling::outer
