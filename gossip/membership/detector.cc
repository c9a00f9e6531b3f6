#include "gossip/membership/detector.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "gossip/base/error.h"

namespace starling::membership {
namespace {

constexpr std::size_t max_in_flight = 64;
// How many of those who hear of an accusation look for themselves, on average: twice the confirmations that count.
constexpr double confirming_probes = 6.0;

}  // namespace

Detector::Detector(Config config, Stream random, TimePoint now)
    : config_(config), random_(random), next_round_at_(now + scale(config.heartbeat_interval, random_.uniform())) {}

void Detector::watch(const NodeId& peer) {
  STARLING_CHECK(peer != config_.self, "a node does not watch itself");
  if (!watched_.emplace(peer, Watched{}).second) return;
  // Anywhere in what is left of this round (SWIM 4.3): a newcomer waits half a round on average, as everybody does.
  const std::size_t at = next_ + random_.below(round_.size() - next_ + 1);
  round_.insert(round_.begin() + static_cast<std::ptrdiff_t>(at), peer);
}

void Detector::unwatch(const NodeId& peer) {
  if (watched_.erase(peer) == 0) return;
  const auto it = std::find(round_.begin(), round_.end(), peer);
  if (static_cast<std::size_t>(it - round_.begin()) < next_) --next_;
  round_.erase(it);
  doubts_.erase(peer);
  to_confirm_.erase(peer);
  std::erase_if(in_flight_, [&](const auto& item) { return item.second.target == peer; });
}

void Detector::heard(const NodeId& peer, TimePoint now) {
  const auto it = watched_.find(peer);
  if (it != watched_.end()) it->second.heard_at = now;
}

std::optional<TimePoint> Detector::heard_at(const NodeId& peer) const {
  const auto it = watched_.find(peer);
  return it == watched_.end() ? std::nullopt : it->second.heard_at;
}

std::optional<Duration> Detector::acked(const NodeId& from, std::uint64_t sequence, const NodeId& about, TimePoint now) {
  const auto flight = in_flight_.find(sequence);
  if (flight != in_flight_.end() && from != flight->second.target) {
    if (!flight->second.helpers.contains(from)) return std::nullopt;
    flight->second.helper_answered = true;
    if (about == flight->second.target) in_flight_.erase(flight);
    return std::nullopt;
  }
  if (about != from) return std::nullopt;
  if (flight != in_flight_.end()) {
    if (flight->second.kind == InFlight::Kind::round) health_ = std::max(0, health_ - 1);
    in_flight_.erase(flight);
  }
  const auto it = watched_.find(from);
  if (it == watched_.end() || sequence == 0 || it->second.last_sequence != sequence) return std::nullopt;
  it->second.last_sequence = 0;
  const Duration took = now - it->second.last_sent;
  it->second.acks.answered(took);
  return took;
}

void Detector::accused(const NodeId& peer, std::size_t accusers, TimePoint now) {
  STARLING_CHECK(accusers >= 1, "an accusation has an accuser");
  if (!watched_.contains(peer)) return;
  const auto [it, first] = doubts_.try_emplace(peer, Doubt{now, 0, false});
  it->second.accusers = std::max(it->second.accusers, accusers);
  if (first && random_.uniform() * static_cast<double>(size()) < confirming_probes) to_confirm_.insert(peer);
}

void Detector::cleared(const NodeId& peer) {
  doubts_.erase(peer);
  to_confirm_.erase(peer);
}

void Detector::doubt_self() { health_ = std::min(config_.max_health, health_ + 1); }

void Detector::woke_late(Duration gap, TimePoint now) {
  in_flight_.clear();  // their answers lie in our own buffers, or were sent to a sleeper and are lost
  to_confirm_.clear();
  next_round_at_ += gap;
  for (auto& [peer, doubt] : doubts_) doubt.since += gap;
  for (auto& [peer, watched] : watched_) {
    if (watched.heard_at) *watched.heard_at += gap;
    watched.last_sequence = 0;
  }
  amnesty_until_ = now + suspicion_least();
}

std::vector<NodeId> Detector::pick(std::size_t count, const NodeId& except) {
  std::vector<NodeId> out;
  if (round_.empty()) return out;
  // A walk from a random place with random strides would favour neighbours of the accused; drawing and rejecting does not.
  // A swarm in which most are accused gives fewer than asked, now and then: the next packet tries again.
  for (std::size_t draws = 0; draws < 8 * count && out.size() < count; ++draws) {
    const NodeId& peer = round_[random_.below(round_.size())];
    if (peer == except || doubts_.contains(peer) || std::find(out.begin(), out.end(), peer) != out.end()) continue;
    out.push_back(peer);
  }
  return out;
}

std::vector<Detector::Action> Detector::advance(TimePoint now) {
  std::vector<Action> out;
  std::vector<NodeId> condemned;
  for (auto& [peer, doubt] : doubts_) {
    if (due(peer, doubt) > now) continue;
    if (doubt.believed) {
      condemned.push_back(peer);
      out.emplace_back(Condemn{peer});
    } else {
      doubt.believed = true;
      out.emplace_back(Believe{peer});
    }
  }
  for (const NodeId& peer : condemned) unwatch(peer);
  std::vector<InFlight> ended;
  for (auto it = in_flight_.begin(); it != in_flight_.end();) {
    if (it->second.end_at <= now) {
      ended.push_back(it->second);
      it = in_flight_.erase(it);
      continue;
    }
    if (it->second.repeat_at <= now) repeat_with_help(it->first, it->second, out);
    ++it;
  }
  for (const InFlight& flight : ended) end(flight, now, out);
  for (const NodeId& peer : std::exchange(to_confirm_, {})) {
    if (in_flight_.size() < max_in_flight) probe(peer, InFlight::Kind::confirm, now, out);
  }
  if (next_round_at_ <= now) {
    next_round_at_ = now + interval();
    if (const auto target = next_in_round(now)) probe(*target, InFlight::Kind::round, now, out);
  }
  return out;
}

TimePoint Detector::next_deadline() const {
  TimePoint at = to_confirm_.empty() ? next_round_at_ : TimePoint{};
  for (const auto& [sequence, flight] : in_flight_) at = std::min({at, flight.repeat_at, flight.end_at});
  for (const auto& [peer, doubt] : doubts_) at = earliest(at, due(peer, doubt));
  return at;
}

void Detector::probe(const NodeId& target, InFlight::Kind kind, TimePoint now, std::vector<Action>& out) {
  Watched& watched = watched_.at(target);
  const std::uint64_t sequence = fresh_sequence();
  watched.last_sequence = sequence;
  watched.last_sent = now;
  InFlight flight;
  flight.kind = kind;
  flight.target = target;
  flight.sent = now;
  // Half of the interval is left to the helpers, however slow the peer used to be.
  flight.repeat_at = now + std::min(watched.acks.deadline(), interval() / 2);
  flight.end_at = now + interval();
  in_flight_.emplace(sequence, std::move(flight));
  out.emplace_back(Probe{target, sequence});
}

// The Ping again, as a lost packet is likelier than a dead peer, and for a probe of the round a way around our own link.
void Detector::repeat_with_help(std::uint64_t sequence, InFlight& flight, std::vector<Action>& out) {
  flight.repeat_at = never;
  watched_.at(flight.target).acks.timed_out();
  out.emplace_back(Probe{flight.target, sequence});
  if (flight.kind == InFlight::Kind::confirm) return;
  for (const NodeId& helper : pick(static_cast<std::size_t>(config_.indirect_probes), flight.target)) {
    flight.helpers.insert(helper);
    out.emplace_back(AskHelp{helper, sequence, flight.target});
  }
}

void Detector::end(const InFlight& flight, TimePoint now, std::vector<Action>& out) {
  const Watched& watched = watched_.at(flight.target);
  if (watched.heard_at && *watched.heard_at > flight.sent) return;  // it spoke, if not to our question
  const bool helpers_silent = std::none_of(flight.helpers.begin(), flight.helpers.end(), [&](const NodeId& helper) {
    const auto it = watched_.find(helper);
    return it != watched_.end() && it->second.heard_at && *it->second.heard_at > flight.sent;
  });
  if (flight.kind == InFlight::Kind::round && !flight.helper_answered && helpers_silent) doubt_self();
  if (now >= amnesty_until_) out.emplace_back(Accuse{flight.target});
}

// The next of the round that was silent of late; if all spoke, the next of all: its packet carries news all the same.
std::optional<NodeId> Detector::next_in_round(TimePoint now) {
  if (round_.empty()) return std::nullopt;
  std::optional<NodeId> first;
  for (std::size_t looked = 0; looked < round_.size(); ++looked) {
    if (next_ >= round_.size()) {
      random_.shuffle(round_);
      next_ = 0;
    }
    const NodeId& peer = round_[next_++];
    if (!first) first = peer;
    const Watched& watched = watched_.at(peer);
    if (!watched.heard_at || now - *watched.heard_at >= config_.heartbeat_interval) return peer;
  }
  return first;
}

TimePoint Detector::due(const NodeId& peer, const Doubt& doubt) const {
  const auto& heard = watched_.at(peer).heard_at;
  if (!doubt.believed) return heard ? std::max(doubt.since, *heard + config_.heartbeat_interval) : doubt.since;
  TimePoint at = std::max(doubt.since + suspicion_timeout(doubt.accusers), amnesty_until_);
  if (heard) at = std::max(at, *heard + suspicion_least());
  return at;
}

Duration Detector::suspicion_least() const {
  return scale(config_.heartbeat_interval,
               config_.suspicion_min_factor * std::log10(std::max(10.0, static_cast<double>(size()))));
}

Duration Detector::suspicion_timeout(std::size_t accusers) const {
  const Duration least = suspicion_least();
  if (size() <= 2) return least;  // nobody else could confirm
  const auto others = static_cast<double>(std::min(max_accusers - 1, size() - 2));
  const auto confirmed = std::min(others, static_cast<double>(accusers) - 1.0);
  const double share = std::log(confirmed + 1.0) / std::log(others + 1.0);
  return scale(least, config_.suspicion_max_factor - (config_.suspicion_max_factor - 1.0) * share);
}

}  // namespace starling::membership
