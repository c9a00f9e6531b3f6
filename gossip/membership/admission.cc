#include "gossip/membership/admission.h"

#include <algorithm>
#include <utility>

#include "gossip/base/error.h"

namespace starling::membership {
namespace {

constexpr std::size_t max_name = 32;
constexpr std::size_t recents_per_pending = 4;

bool is_gone(PeerState state) { return state == PeerState::dead || state == PeerState::left; }

// Replicas per stage, live or about to be.
std::vector<std::int64_t> replicas_by_stage(const Swarm& swarm, const NodeId& joiner,
                                            const std::vector<Stage>& recently_assigned, std::int64_t stages) {
  std::vector<std::int64_t> count(static_cast<std::size_t>(stages), 0);
  const auto add = [&](Stage stage) {
    if (stage >= 0 && stage < stages) ++count[static_cast<std::size_t>(stage)];
  };
  for (const auto& [id, peer] : swarm.peers) {
    if (id == joiner || peer.record.role != Role::worker) continue;
    if (peer.state != PeerState::active && peer.state != PeerState::joining) continue;
    add(peer.record.claim != no_stage ? peer.record.claim : peer.record.stage);
  }
  for (const Stage stage : recently_assigned) add(stage);
  return count;
}

}  // namespace

Stage assign_stage(const Swarm& swarm, const NodeId& joiner, const std::vector<Stage>& recently_assigned,
                   std::int64_t stages, bool has_data) {
  const auto count = replicas_by_stage(swarm, joiner, recently_assigned, stages);
  const std::ptrdiff_t first = has_data ? 0 : 1;
  if (first >= std::ssize(count)) return no_stage;
  return static_cast<Stage>(std::min_element(count.begin() + first, count.end()) - count.begin());
}

Slot assign_slot(const Swarm& swarm, const NodeId& joiner, const std::set<Slot>& recently_assigned) {
  std::set<Slot> held = recently_assigned;
  for (const auto& [id, peer] : swarm.peers) {
    if (id != joiner && !is_gone(peer.state)) held.insert(peer.record.slot);
  }
  Slot slot = 0;
  while (held.contains(slot)) ++slot;
  return slot;
}

std::string unique_name(const Swarm& swarm, const NodeId& joiner, const std::set<std::string>& recently_given,
                        const std::string& wanted) {
  STARLING_CHECK(!wanted.empty() && wanted.size() <= max_name, "a join request with a bad name was let through");
  std::set<std::string> taken = recently_given;
  for (const auto& [id, peer] : swarm.peers) {
    if (id != joiner) taken.insert(peer.record.name);
  }
  std::string name = wanted;
  for (std::size_t number = 2; taken.contains(name); ++number) {
    const std::string suffix = "-" + std::to_string(number);
    name = wanted.substr(0, max_name - suffix.size()) + suffix;
  }
  return name;
}

std::vector<Admission::Action> Admission::on(const Event& event, const Swarm& swarm, TimePoint now) {
  std::vector<Action> out;
  std::erase_if(recent_, [&](const auto& item) { return item.second.forget_at <= now; });
  std::visit([&](const auto& e) { handle(e, swarm, now, out); }, event);
  answer_ripe(swarm, now, out);
  return out;
}

TimePoint Admission::next_deadline() const {
  TimePoint at = never;
  for (const auto& [request, pending] : pending_) at = earliest(at, pending.deadline);
  return at;
}

void Admission::handle(const Requested& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  if (pending_.contains(event.request)) return;
  const auto known = recent_.find(event.wish.id);
  const bool full = pending_.size() >= config_.max_pending ||
                    (known == recent_.end() && recent_.size() >= recents_per_pending * config_.max_pending);
  if (full) {
    out.emplace_back(Refuse{event.request, Refuse::Reason::busy, "too many newcomers at once; try again in a few seconds"});
    return;
  }
  const auto grant = known != recent_.end() ? known->second.grant : grant_for(event.wish, swarm);
  if (!grant) {
    out.emplace_back(Refuse{event.request, Refuse::Reason::no_place,
                            "this run has one stage, and every worker of it needs the training data; give this one data"});
    return;
  }
  recent_.insert_or_assign(event.wish.id, Recent{*grant, now + config_.remember, {}, {}});
  pending_.emplace(event.request, Pending{*grant, {}, std::nullopt, now + config_.ack_wait});
  out.emplace_back(Issue{event.request, *grant});
}

void Admission::handle(const Issued& event, const Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  const auto it = pending_.find(event.request);
  if (it == pending_.end() || it->second.waiting) return;
  Pending& pending = it->second;
  pending.certificate = event.certificate;
  pending.deadline = now + config_.ack_wait;
  pending.waiting.emplace();
  if (const auto recent = recent_.find(pending.grant.wish.id); recent != recent_.end()) {
    recent->second.certificate = event.certificate;
    recent->second.record = event.record;
  }
  for (const auto& [id, peer] : swarm.peers) {
    if (id == swarm.self || id == pending.grant.wish.id || is_gone(peer.state)) continue;
    out.emplace_back(Introduce{id, {event.certificate, event.record}});
    if (peer.state == PeerState::active) pending.waiting->insert(id);
  }
}

void Admission::handle(const MemberSeen& event, const Swarm& swarm, TimePoint, std::vector<Action>& out) {
  if (event.peer == swarm.self) return;
  for (const auto& [id, recent] : recent_) {
    if (id == event.peer || recent.certificate.empty()) continue;
    out.emplace_back(Introduce{event.peer, {recent.certificate, recent.record}});
  }
}

void Admission::handle(const AckCame& event, const Swarm&, TimePoint, std::vector<Action>&) {
  for (auto& [request, pending] : pending_) {
    if (pending.grant.wish.id == event.newcomer && pending.waiting) pending.waiting->erase(event.from);
  }
}

std::optional<Admission::Grant> Admission::grant_for(const Wish& wish, const Swarm& swarm) const {
  std::vector<Stage> stages;
  std::set<Slot> slots;
  std::set<std::string> names;
  for (const auto& [id, recent] : recent_) {
    names.insert(recent.grant.wish.name);
    if (!counts(id, swarm)) continue;
    stages.push_back(recent.grant.stage);
    slots.insert(recent.grant.slot);
  }
  Grant grant{wish, no_stage, no_slot};
  if (!wish.certified) grant.wish.name = unique_name(swarm, wish.id, names, wish.name);
  if (wish.role == Role::observer) return grant;

  grant.stage = assign_stage(swarm, wish.id, stages, config_.stages, wish.has_data);
  if (grant.stage == no_stage) return std::nullopt;
  const Stage kept = wish.keep_stage.value_or(no_stage);
  const bool may_keep = kept >= (wish.has_data ? 0 : 1) && kept < config_.stages;
  if (may_keep) {
    // Weights that need not be copied, unless a stage that nobody holds needs this worker more.
    const auto count = replicas_by_stage(swarm, wish.id, stages, config_.stages);
    if (count[static_cast<std::size_t>(grant.stage)] > 0 || count[static_cast<std::size_t>(kept)] == 0) grant.stage = kept;
  }
  if (grant.stage == 0) grant.slot = assign_slot(swarm, wish.id, slots);
  return grant;
}

// Whether an own admission is not in the view yet: once the newcomer says its stage itself, that is what counts.
bool Admission::counts(const NodeId& id, const Swarm& swarm) const {
  const Peer* peer = swarm.find(id);
  return peer == nullptr || is_gone(peer->state) || peer->record.stage == no_stage;
}

// In order of the requests; a deadline passes for a certificate that never came, too: then there is nothing to answer.
void Admission::answer_ripe(const Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  for (auto it = pending_.begin(); it != pending_.end();) {
    Pending& pending = it->second;
    if (pending.waiting) {
      std::erase_if(*pending.waiting, [&](const NodeId& id) { return !swarm.is_live(id); });
    }
    const bool all_acked = pending.waiting && pending.waiting->empty();
    if (!all_acked && pending.deadline > now) {
      ++it;
      continue;
    }
    if (pending.waiting) {
      out.emplace_back(Answer{it->first, pending.grant, std::move(pending.certificate)});
    } else {
      out.emplace_back(Refuse{it->first, Refuse::Reason::busy, "no certificate was issued in time; try again"});
    }
    it = pending_.erase(it);
  }
}

}  // namespace starling::membership
