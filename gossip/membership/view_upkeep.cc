// The view's own initiative: what it says of itself, what time brings, and what keeps tables equal.
#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "gossip/membership/view_turn.h"

namespace starling::membership {
namespace {

constexpr std::size_t max_readings = 2;
constexpr int max_page_tries = 3;
constexpr std::size_t spread_width = 3;    // peers that get urgent news at once, five times per interval
constexpr int spreads_per_interval = 5;
constexpr std::uint64_t upkeeps_per_knock = 3;
constexpr Duration routine_least = std::chrono::seconds(1);
constexpr int members_per_interval = 16;

}  // namespace

// ---------------------------------------------------------------- saying what we know

net::DoneMark View::own_done() const { return {self_.boot, self_.done}; }

void View::ping(const NodeId& to, std::uint64_t sequence, Turn& turn) {
  turn.send(to, net::Ping{sequence, own_done(), news_for(to)});
}

void View::ack(const NodeId& to, std::uint64_t sequence, std::vector<net::Update> updates, Turn& turn) {
  turn.send(to, net::Ack{sequence, self_.id, own_done(), std::move(updates)});
}

// Lifeguard's buddy system: who is accused hears it first, so that it can answer.
std::vector<net::Update> View::news_for(const NodeId& to) {
  std::vector<net::Update> out;
  if (auto accusation = accusation_of(to)) out.push_back(std::move(*accusation));
  auto news = news_.take(net::max_updates - out.size(), Dissemination::Share::all, detector_.size());
  std::move(news.begin(), news.end(), std::back_inserter(out));
  return out;
}

std::optional<net::Update> View::accusation_of(const NodeId& id) const {
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.accusations.empty()) return std::nullopt;
  return net::Update{net::Update::Kind::suspicion, it->second.accusations.begin()->second};
}

void View::publish(SelfChanged::Kind kind, Turn& turn) {
  turn.touch(self_.id, swarm_);
  const bool important = kind == SelfChanged::Kind::important;
  if (important) {
    ++self_.incarnation;
    self_.version = 0;
    own_lives_.take(turn.now);
  } else {
    ++self_.version;
  }
  unpublished_.reset();
  routine_at_ = turn.now + routine_interval();
  signed_self_ = encode_record(self_, signatures_);
  news_.add_record(self_.id, signed_self_,
                   important ? Dissemination::Urgency::urgent : Dissemination::Urgency::routine);
  Peer& own = *swarm_.peers.quietly(self_.id);
  own.record = self_;
  own.record_at = turn.now;
}

// Who leaves has no later chance to say so: at once, and to as many as urgent news would reach.
void View::say_farewell(Turn& turn) {
  publish(SelfChanged::Kind::important, turn);
  for (const NodeId& peer : detector_.pick(Dissemination::urgent_copies(detector_.size()), self_.id)) {
    ack(peer, 0, {{net::Update::Kind::record, signed_self_}}, turn);
  }
}

void View::publish_if_due(Turn& turn) {
  if (!unpublished_) return;
  const bool due = *unpublished_ == SelfChanged::Kind::important ? own_lives_.has(turn.now) : routine_at_ <= turn.now;
  if (due) publish(*unpublished_, turn);
}

// Every new version travels to every node, so a large swarm sends them less often: the load on each stays the same.
Duration View::routine_interval() const {
  const auto scaled = config_.membership.heartbeat_interval * static_cast<int>(detector_.size()) / members_per_interval;
  return std::max<Duration>(routine_least, scaled);
}

// Whose record and accusations share a page stay together: a reader never sees somebody dead as alive in between.
net::ViewPage View::page_of_table(std::uint32_t page) const {
  net::ViewPage out;
  out.page = page;
  out.pages = 1;
  std::size_t filled = 0;
  for (const auto& [id, peer] : swarm_.peers) {
    const Entry* entry = id == self_.id ? nullptr : &entries_.at(id);
    const std::size_t size = 1 + (entry == nullptr ? 0 : entry->accusations.size());
    if (filled + size > net::max_updates) {
      ++out.pages;
      filled = 0;
    }
    filled += size;
    if (out.pages != page + 1) continue;
    out.updates.push_back({net::Update::Kind::record, entry == nullptr ? signed_self_ : entry->record});
    if (entry == nullptr) continue;
    for (const auto& [accuser, bytes] : entry->accusations) {
      out.updates.push_back({net::Update::Kind::suspicion, bytes});
    }
  }
  return out;
}

std::vector<Bytes> View::signed_active(std::size_t limit) const {
  std::vector<std::pair<TimePoint, NodeId>> active;
  for (const auto& [id, peer] : swarm_.peers) {
    if (id == self_.id || peer.state != PeerState::active) continue;
    active.emplace_back(detector_.heard_at(id).value_or(TimePoint::min()), id);
  }
  std::sort(active.begin(), active.end(), std::greater<>());
  std::vector<Bytes> out;
  for (const auto& [heard, id] : active) {
    if (out.size() == limit) break;
    out.push_back(entries_.at(id).record);
  }
  return out;
}

std::uint64_t View::rejected_records() const {
  return rejected_.malformed + rejected_.bad_signature + rejected_.bad_certificate + rejected_.too_often +
         rejected_.table_full;
}

// ---------------------------------------------------------------- time

void View::notice_late_wake(Turn& turn) {
  const Duration gap = turn.now - deadline_;
  if (gap <= config_.late_wake) return;
  detector_.woke_late(gap, turn.now);
  spread_at_ += gap;
  upkeep_at_ += gap;
  readings_.clear();
  readings_wanted_ = static_cast<int>(max_readings);
  // The others suspect us, or will have buried us: a new life answers both.
  unpublished_ = SelfChanged::Kind::important;
  turn.actions.emplace_back(WokeLate{gap});
}

void View::run_detector(Turn& turn) {
  for (auto due = detector_.advance(turn.now); !due.empty(); due = detector_.advance(turn.now)) {
    for (const Detector::Action& action : due) {
      if (const auto* probe = std::get_if<Detector::Probe>(&action)) {
        ping(probe->to, probe->sequence, turn);
      } else if (const auto* help = std::get_if<Detector::AskHelp>(&action)) {
        turn.send(help->helper, net::PingRequest{help->sequence, help->target});
      } else if (const auto* accusation = std::get_if<Detector::Accuse>(&action)) {
        accuse(accusation->peer, turn);
      } else if (const auto* belief = std::get_if<Detector::Believe>(&action)) {
        set_state(belief->peer, PeerState::suspect, turn);
      } else if (const auto* verdict = std::get_if<Detector::Condemn>(&action)) {
        set_state(verdict->peer, PeerState::dead, turn);
      }
    }
  }
}

void View::accuse(const NodeId& peer, Turn& turn) {
  const Peer* accused = swarm_.find(peer);
  if (accused == nullptr || !detector_.watches(peer)) return;
  const auto& known = entries_.at(peer).accusations;
  if (known.size() >= max_accusers || known.contains(self_.id)) return;
  const Suspicion suspicion{self_.id, peer, accused->record.boot, accused->record.incarnation};
  add_accusation(peer, self_.id, encode_suspicion(suspicion, signatures_), turn);
}

void View::add_accusation(const NodeId& peer, const NodeId& accuser, const Bytes& bytes, Turn& turn) {
  auto& known = entries_.at(peer).accusations;
  known[accuser] = bytes;
  news_.add_accusation(peer, accuser, bytes);
  detector_.accused(peer, known.size(), turn.now);
}

void View::set_state(const NodeId& id, PeerState state, Turn& turn) {
  if (swarm_.find(id)->state == state) return;
  turn.touch(id, swarm_);
  Peer& peer = swarm_.peers[id];
  peer.state = state;
  if (state == PeerState::dead || state == PeerState::left) peer.dead_since = turn.now;
}

void View::spread_urgent(Turn& turn) {
  if (spread_at_ > turn.now || !news_.has_urgent()) return;
  spread_at_ = turn.now + config_.membership.heartbeat_interval / spreads_per_interval;
  for (const NodeId& peer : detector_.pick(spread_width, self_.id)) {
    auto updates = news_.take(net::max_updates, Dissemination::Share::urgent_only, detector_.size());
    if (updates.empty()) return;
    ack(peer, 0, std::move(updates), turn);  // an answer to nothing: it asks for none
  }
}

void View::keep_reading(Turn& turn) {
  const Duration patience = config_.membership.heartbeat_interval * 2;
  for (auto it = readings_.begin(); it != readings_.end();) {
    if (it->give_up_at > turn.now) {
      ++it;
    } else if (++it->tries > max_page_tries) {
      it = readings_.erase(it);
      ++readings_wanted_;
    } else {
      it->give_up_at = turn.now + patience;
      turn.send(it->peer, net::ViewRequest{it->page});
      ++it;
    }
  }
  while (readings_wanted_ > 0 && readings_.size() < max_readings) {
    const NodeId busy = readings_.empty() ? self_.id : readings_.front().peer;
    const auto peer = detector_.pick(1, busy);
    if (peer.empty()) return;  // nobody else is known yet: the next event asks again
    --readings_wanted_;
    readings_.push_back({peer.front(), 0, turn.now + patience, 1});
    turn.send(peer.front(), net::ViewRequest{0});
  }
}

void View::upkeep(Turn& turn) {
  if (upkeep_at_ > turn.now) return;
  upkeep_at_ = turn.now + config_.membership.heartbeat_interval * intervals_per_upkeep;
  std::vector<NodeId> old;
  for (const auto& [id, peer] : swarm_.peers) {
    const bool gone = peer.state == PeerState::dead || peer.state == PeerState::left;
    if (gone && id != self_.id && peer.dead_since + config_.forget_dead <= turn.now) old.push_back(id);
  }
  for (const NodeId& id : old) forget(id, turn);
  for (const NodeId& peer : detector_.pick(1, self_.id)) turn.send(peer, net::ViewRequest{habit_page_});
  if (++upkeeps_ % upkeeps_per_knock == 0) knock_on_a_dead_one(turn);
}

// It may be alive on the other side of a partition that has healed. The Ping says that it is accused; if it is there, it
// takes a new incarnation, and what it thinks of us comes back the same way.
void View::knock_on_a_dead_one(Turn& turn) {
  std::vector<NodeId> dead;
  for (const auto& [id, peer] : swarm_.peers) {
    if (peer.state == PeerState::dead) dead.push_back(id);
  }
  if (!dead.empty()) ping(dead[random_.below(dead.size())], 0, turn);
}

void View::forget(NodeId id, Turn& turn) {
  const Peer& peer = swarm_.peers.at(id);
  if (forgotten_.size() >= config_.max_peers) {
    const auto first = std::min_element(forgotten_.begin(), forgotten_.end(),
                                        [](const auto& a, const auto& b) { return a.second.turn < b.second.turn; });
    forgotten_.erase(first);
  }
  forgotten_[id] = {order_of(peer.record), peer.record.tokens, forgotten_count_++};
  swarm_.past_done = std::max(swarm_.past_done, peer.done);
  swarm_.past_tokens += peer.record.tokens;
  news_.drop_accusations(id);
  news_.drop_record(id);
  detector_.unwatch(id);
  entries_.erase(id);
  swarm_.peers.erase(id);
  turn.actions.emplace_back(PeerForgotten{id});
}

// ---------------------------------------------------------------- the end of every event

std::vector<View::Action> View::finish(Turn& turn) {
  std::vector<Action> out;
  for (const auto& [id, before] : turn.touched) {
    const Peer* peer = swarm_.find(id);
    if (peer == nullptr) continue;
    const bool moved = peer->record.endpoints != before.endpoints;
    if (before.state && *before.state == peer->state && before.stage == peer->record.stage && !moved &&
        !newer_life(order_of(peer->record), before.order)) {
      continue;
    }
    out.emplace_back(PeerChanged{id, before.state, peer->state, moved});
  }
  std::move(turn.actions.begin(), turn.actions.end(), std::back_inserter(out));
  find_deadline(turn.now);
  return out;
}

void View::find_deadline(TimePoint now) {
  deadline_ = earliest(detector_.next_deadline(), upkeep_at_);
  if (news_.has_urgent() && detector_.size() > 1) deadline_ = earliest(deadline_, spread_at_);
  if (unpublished_) {
    deadline_ = earliest(deadline_, *unpublished_ == SelfChanged::Kind::important ? own_lives_.next(now) : routine_at_);
  }
  for (const Reading& reading : readings_) deadline_ = earliest(deadline_, reading.give_up_at);
}

}  // namespace starling::membership
