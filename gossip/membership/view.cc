#include "gossip/membership/view_turn.h"

#include <algorithm>
#include <utility>

#include "gossip/base/error.h"

namespace starling::membership {
namespace {

// One record per id and second is the rule; the bursts are for what comes at once after a delay, and for changes that
// follow each other closely. We allow ourselves fewer, so that no honest record is refused while packets arrive in order
// of seconds, not minutes.
constexpr Duration record_interval = std::chrono::seconds(1);
constexpr int lives_burst = 16;
constexpr int own_lives_burst = 8;
constexpr int versions_burst = 4;
constexpr int accusing_burst = 16;
constexpr Duration page_interval = std::chrono::milliseconds(100);
constexpr int pages_burst = 16;
constexpr int news_burst = 8;

constexpr std::size_t max_relays = 64;

PeerState state_of(Standing standing) {
  switch (standing) {
    case Standing::joining: return PeerState::joining;
    case Standing::active: return PeerState::active;
    case Standing::paused: return PeerState::paused;
    case Standing::left: return PeerState::left;
  }
  return PeerState::joining;
}

bool is_gone(PeerState state) { return state == PeerState::dead || state == PeerState::left; }

// Whether others must know of the difference at once, and of an old verdict that it ends.
bool differ_importantly(const Record& a, const Record& b) {
  return a.standing != b.standing || a.role != b.role || a.name != b.name || a.stage != b.stage || a.slot != b.slot ||
         a.claim != b.claim || a.endpoints != b.endpoints || a.http != b.http || a.certificate != b.certificate ||
         a.finished != b.finished || a.last_step != b.last_step;
}

bool is_record_of(const NodeId& id, const net::Update& update) {
  if (update.kind != net::Update::Kind::record) return false;
  const auto label = peek_record(update.bytes);
  return label && label->id == id;
}

bool same_member(const Record& a, const Record& b) {
  return a.certificate == b.certificate && a.name == b.name && a.role == b.role;
}

}  // namespace

View::Entry::Entry(Duration heartbeat_interval)
    : lives(record_interval, lives_burst),
      versions(record_interval, versions_burst),
      accusing(heartbeat_interval, accusing_burst),
      pages(page_interval, pages_burst),
      news(heartbeat_interval, news_burst),
      told(heartbeat_interval, 1),
      forging(heartbeat_interval, 1) {}

View::View(Config config, Record self, const Signatures& signatures, CertificateCheck check, Stream random, TimePoint now)
    : config_(config),
      self_(std::move(self)),
      signatures_(signatures),
      check_(std::move(check)),
      random_(random),
      detector_({self_.id, config.membership.heartbeat_interval, config.indirect_probes, config.max_health,
                 config.suspicion_min_factor, config.suspicion_max_factor},
                Stream(random_.next()), now),
      news_(4 * config.max_peers),
      own_lives_(record_interval, own_lives_burst),
      spread_at_(now),
      routine_at_(now + record_interval),
      upkeep_at_(now + config.membership.heartbeat_interval * intervals_per_upkeep) {
  swarm_.self = self_.id;
  Peer& own = swarm_.peers[self_.id];
  own.record = self_;
  own.state = state_of(self_.standing);
  own.record_at = now;
  own.done = self_.done;
  signed_self_ = encode_record(self_, signatures_);
  news_.add_record(self_.id, signed_self_, Dissemination::Urgency::urgent);
  find_deadline(now);
}

std::vector<View::Action> View::on(const Event& event, TimePoint now) {
  if (const auto* heard = std::get_if<HeardFrom>(&event); heard != nullptr && now <= deadline_ + config_.late_wake) {
    // Every frame of every kind ends here: no more than two look-ups for those in good standing.
    detector_.heard(heard->peer, now);
    const auto it = entries_.find(heard->peer);
    if (it == entries_.end() || it->second.accusations.empty()) return {};
  }
  Turn turn{now, {}, {}};
  notice_late_wake(turn);
  std::visit([&](const auto& e) { handle(e, turn); }, event);
  publish_if_due(turn);
  run_detector(turn);
  upkeep(turn);
  keep_reading(turn);
  spread_urgent(turn);
  return finish(turn);
}

// ---------------------------------------------------------------- events

void View::handle(const MessageCame& event, Turn& turn) {
  if (event.from == self_.id) return;
  detector_.heard(event.from, turn.now);
  std::visit([&](const auto& message) { answer(event.from, message, turn); }, event.message);
  tell_if_accused(event.from, turn);
}

void View::handle(const UpdateCame& event, Turn& turn) { absorb({event.update}, std::nullopt, turn); }

void View::handle(const DoneCame& event, Turn& turn) { raise_done(event.originator, event.done, turn); }

void View::handle(const HeardFrom& event, Turn& turn) {
  detector_.heard(event.peer, turn.now);
  tell_if_accused(event.peer, turn);
}

void View::handle(const Tick&, Turn&) {}

void View::handle(const SelfChanged& event, Turn& turn) {
  turn.touch(self_.id, swarm_);
  Record next = event.record;
  next.id = self_.id;
  next.boot = self_.boot;
  next.incarnation = self_.incarnation;
  next.version = self_.version;
  next.done = std::max(next.done, self_.done);  // D never falls, whoever filled the record in
  const bool important = event.kind == SelfChanged::Kind::important || differ_importantly(next, self_);
  if (!important && next == self_) return;
  self_ = std::move(next);
  Peer& own = swarm_.peers[self_.id];
  own.record = self_;
  own.state = state_of(self_.standing);
  if (own.state == PeerState::left) own.dead_since = turn.now;
  raise_done(self_.id, {self_.boot, self_.done}, turn);
  if (important || !unpublished_) {
    unpublished_ = important ? SelfChanged::Kind::important : SelfChanged::Kind::routine;
  }
  if (self_.standing == Standing::left && important) say_farewell(turn);
}

void View::answer(const NodeId& from, const net::Ping& ping, Turn& turn) {
  raise_done(from, ping.done, turn);
  absorb(ping.updates, from, turn);
  const auto it = entries_.find(from);
  if (it == entries_.end()) return;  // we have no address of it, and its record was not among its news
  std::vector<net::Update> updates;
  if (it->second.news.has(turn.now)) {
    it->second.news.take(turn.now);
    updates = news_for(from);
  }
  ack(from, ping.sequence, std::move(updates), turn);
}

void View::answer(const NodeId& from, const net::Ack& ack_message, Turn& turn) {
  raise_done(from, ack_message.done, turn);
  if (const auto took = detector_.acked(from, ack_message.sequence, ack_message.about, turn.now)) {
    turn.actions.emplace_back(RoundTrip{from, *took});
  }
  const auto relay = relays_.find(ack_message.sequence);
  if (relay != relays_.end() && relay->second.target == from && ack_message.about == from) {
    turn.send(relay->second.asker, net::Ack{relay->second.sequence, from, own_done(), {}});
    relays_.erase(relay);
  }
  absorb(ack_message.updates, from, turn);
}

void View::answer(const NodeId& from, const net::PingRequest& request, Turn& turn) {
  if (!entries_.contains(from)) return;
  // That we ask is worth knowing too: an asker whom nobody answers doubts itself.
  ack(from, request.sequence, {}, turn);
  if (request.target == self_.id || !entries_.contains(request.target)) return;
  std::erase_if(relays_, [&](const auto& item) { return item.second.asker == from; });
  if (relays_.size() >= max_relays) relays_.erase(relays_.begin());
  const std::uint64_t sequence = detector_.fresh_sequence();
  relays_.emplace(sequence, Relay{from, request.target, request.sequence});
  ping(request.target, sequence, turn);
}

void View::answer(const NodeId& from, const net::ViewRequest& request, Turn& turn) {
  const auto it = entries_.find(from);
  if (it == entries_.end() || !it->second.pages.has(turn.now)) return;
  it->second.pages.take(turn.now);
  turn.send(from, page_of_table(request.page));
}

void View::answer(const NodeId& from, const net::ViewPage& page, Turn& turn) {
  absorb(page.updates, from, turn);
  const std::uint32_t pages = std::clamp(page.pages, std::uint32_t{1}, net::max_view_pages);
  if (page.page == habit_page_) habit_page_ = page.page + 1 < pages ? page.page + 1 : 0;
  const auto it = std::find_if(readings_.begin(), readings_.end(), [&](const Reading& reading) {
    return reading.peer == from && reading.page == page.page;
  });
  if (it == readings_.end()) return;
  if (++it->page >= pages) {
    readings_.erase(it);
    return;
  }
  it->tries = 0;
  it->give_up_at = turn.now;  // keep_reading asks
}

// ---------------------------------------------------------------- reading what others say

void View::absorb(const std::vector<net::Update>& updates, const std::optional<NodeId>& from, Turn& turn) {
  const auto sender = from ? entries_.find(*from) : entries_.end();
  if (sender != entries_.end() && !sender->second.forging.has(turn.now)) return;
  const bool stranger = from && sender == entries_.end();  // it has one thing to say: its own record
  // Records first: an accusation means nothing before accuser and accused are known. One forged item and the rest is not
  // read, nor anything else of this sender for one interval: honest members check before they pass on, and a signature
  // costs us more to refuse than it costs a forger to invent.
  for (const auto kind : {net::Update::Kind::record, net::Update::Kind::suspicion}) {
    for (const net::Update& update : updates) {
      if (update.kind != kind) continue;
      if (stranger && !is_record_of(*from, update)) continue;
      const Item item = kind == net::Update::Kind::record ? absorb_record(update.bytes, turn)
                                                           : absorb_suspicion(update.bytes, from, turn);
      if (item == Item::fine) continue;
      // Looked up again: a newcomer among the records may have taken a dead sender's place.
      const auto forger = from ? entries_.find(*from) : entries_.end();
      if (forger != entries_.end()) forger->second.forging.take(turn.now);
      return;
    }
  }
}

View::Item View::count_forged(const Error& error) {
  ++(error.code == ErrorCode::unauthenticated ? rejected_.bad_signature : rejected_.malformed);
  return Item::forged;
}

View::Item View::absorb_record(const Bytes& bytes, Turn& turn) {
  const auto label = peek_record(bytes);
  if (!label) return count_forged({ErrorCode::bad_input, {}});
  if (label->id == self_.id) return absorb_own_record(bytes, label->order, turn);
  if (!is_news(*label, bytes)) return Item::fine;

  const Peer* known = swarm_.find(label->id);
  if (known != nullptr) {
    const Entry& entry = entries_.at(label->id);
    const bool new_life = newer_life(label->order, order_of(known->record));
    if (!(new_life ? entry.lives : entry.versions).has(turn.now)) {
      ++rejected_.too_often;
      return Item::fine;
    }
  }
  auto record = decode_record(bytes, signatures_);
  if (!record) return count_forged(record.error());
  if ((known == nullptr || !same_member(known->record, *record)) && !check_(*record)) {
    // Without a certificate it is a newcomer whose introduction is on its way: nobody's fault.
    if (!record->certificate.empty()) ++rejected_.bad_certificate;
    return Item::fine;
  }
  if (known == nullptr && !make_room(turn)) {
    ++rejected_.table_full;
    return Item::fine;
  }
  take_record(std::move(*record), bytes, turn);
  return Item::fine;
}

// Only we sign for us, so whatever is ahead of us was said by a second process with our key.
View::Item View::absorb_own_record(const Bytes& bytes, const RecordOrder& order, Turn& turn) {
  if (elsewhere_ || order <= order_of(self_)) return Item::fine;
  const auto record = decode_record(bytes, signatures_);
  if (!record) return count_forged(record.error());
  elsewhere_ = true;
  turn.actions.emplace_back(SelfIsElsewhere{});
  return Item::fine;
}

bool View::is_news(const RecordLabel& label, const Bytes& bytes) const {
  const Peer* known = swarm_.find(label.id);
  if (known == nullptr) {
    const auto it = forgotten_.find(label.id);
    return it == forgotten_.end() || newer_life(label.order, it->second.order);
  }
  const RecordOrder order = order_of(known->record);
  // Two contents of one order: only a liar signs them; everybody keeps the same one.
  return label.order > order || (label.order == order && bytes > entries_.at(label.id).record);
}

bool View::make_room(Turn& turn) {
  if (swarm_.peers.size() < config_.max_peers) return true;
  const Peer* oldest = nullptr;
  for (const auto& [id, peer] : swarm_.peers) {
    if (id == self_.id || !is_gone(peer.state)) continue;
    if (oldest == nullptr || peer.dead_since < oldest->dead_since) oldest = &peer;
  }
  if (oldest == nullptr) return false;
  forget(oldest->record.id, turn);
  return true;
}

void View::take_record(Record record, const Bytes& bytes, Turn& turn) {
  const NodeId id = record.id;
  turn.touch(id, swarm_);
  Entry& entry = entries_.try_emplace(id, config_.membership.heartbeat_interval).first->second;
  const Peer* before = swarm_.find(id);
  const bool new_life = before == nullptr || newer_life(order_of(record), order_of(before->record));
  const bool was_gone = before != nullptr && is_gone(before->state);
  const bool lists_change = new_life || differ_importantly(before->record, record);
  remember_past(record, before);
  (new_life ? entry.lives : entry.versions).take(turn.now);
  entry.record = bytes;
  news_.add_record(id, bytes, new_life ? Dissemination::Urgency::urgent : Dissemination::Urgency::routine);

  Peer& peer = lists_change ? swarm_.peers[id] : *swarm_.peers.quietly(id);
  const bool same_boot = before != nullptr && peer.record.boot == record.boot;
  const net::DoneMark done{record.boot, record.done};
  if (!same_boot) peer.done = -1;
  peer.record = std::move(record);
  peer.record_at = turn.now;
  raise_done(id, done, turn);

  const PeerState said = state_of(peer.record.standing);
  if (new_life) {
    entry.accusations.clear();
    news_.drop_accusations(id);
    detector_.cleared(id);
  } else if (was_gone || peer.state == PeerState::suspect) {
    return;  // a newer version is no newer life: the verdict stands
  }
  set_state(id, said, turn);
  if (is_gone(said)) {
    detector_.unwatch(id);
  } else {
    detector_.watch(id);
    // Back from the dead, perhaps with half of the swarm behind it: hear what that half says of us.
    if (was_gone) readings_wanted_ = std::max(readings_wanted_, 1);
  }
}

// Before a life leaves the table: its D and its tokens still count in the run's largest D and total.
void View::remember_past(const Record& record, const Peer* before) {
  if (before != nullptr) {
    if (before->record.boot == record.boot) return;
    swarm_.past_done = std::max(swarm_.past_done, before->done);
    if (record.tokens < before->record.tokens) swarm_.past_tokens += before->record.tokens;
    return;
  }
  const auto it = forgotten_.find(record.id);
  if (it == forgotten_.end()) return;
  if (record.tokens >= it->second.tokens) swarm_.past_tokens -= it->second.tokens;
  forgotten_.erase(it);
}

void View::raise_done(const NodeId& id, const net::DoneMark& done, Turn& turn) {
  Peer* peer = swarm_.peers.quietly(id);
  if (peer == nullptr || peer->record.boot != done.boot || done.step <= peer->done || done.step > net::max_step) return;
  peer->done = done.step;
  turn.actions.emplace_back(DoneRose{id});
  if (id != self_.id || self_.done >= done.step) return;
  self_.done = done.step;
  peer->record.done = done.step;
  if (!unpublished_) unpublished_ = SelfChanged::Kind::routine;
}

View::Item View::absorb_suspicion(const Bytes& bytes, const std::optional<NodeId>& from, Turn& turn) {
  const auto claim = peek_suspicion(bytes);
  if (!claim) return count_forged({ErrorCode::bad_input, {}});
  const bool about_self = claim->suspect == self_.id;
  const auto accuser = entries_.find(claim->accuser);
  // Strangers accuse nobody; but what the others may believe of us we answer, whoever said it.
  if (claim->accuser == self_.id || (accuser == entries_.end() && !about_self)) return Item::fine;
  const Peer* accused = swarm_.find(claim->suspect);
  const bool of_past_self = about_self && std::pair(claim->boot, claim->incarnation) < std::pair(self_.boot, self_.incarnation);
  if (of_past_self && from) say_who_we_are(*from, turn);
  if (accused == nullptr || is_gone(accused->state) || claim->boot != accused->record.boot ||
      claim->incarnation != accused->record.incarnation) {
    return Item::fine;  // of a life that is over, or of one that we have not seen
  }
  if (!about_self) {
    const auto& known = entries_.at(claim->suspect).accusations;
    if (known.size() >= max_accusers || known.contains(claim->accuser)) return Item::fine;
    if (!accuser->second.accusing.has(turn.now)) {
      ++rejected_.too_often;
      return Item::fine;
    }
  } else if (unpublished_ == SelfChanged::Kind::important) {
    return Item::fine;  // the answer is on its way
  }
  const auto suspicion = decode_suspicion(bytes, signatures_);
  if (!suspicion) return count_forged(suspicion.error());
  if (about_self) {
    refute(turn);
  } else {
    accuser->second.accusing.take(turn.now);
    add_accusation(claim->suspect, claim->accuser, bytes, turn);
  }
  return Item::fine;
}

void View::refute(Turn& turn) {
  detector_.doubt_self();
  unpublished_ = SelfChanged::Kind::important;
  publish_if_due(turn);
}

// To somebody who tells us of a life that we have left behind. All who could have passed our newest record on may refuse
// our connections for want of it, as those do who were let in at the same moment; this one listens.
void View::say_who_we_are(const NodeId& id, Turn& turn) {
  const auto it = entries_.find(id);
  if (it == entries_.end() || !it->second.told.has(turn.now)) return;
  it->second.told.take(turn.now);
  ack(id, 0, {{net::Update::Kind::record, signed_self_}}, turn);
}

void View::tell_if_accused(const NodeId& id, Turn& turn) {
  const auto it = entries_.find(id);
  if (it == entries_.end() || it->second.accusations.empty() || !it->second.told.has(turn.now)) return;
  std::vector<net::Update> updates;
  if (auto accusation = accusation_of(id)) updates.push_back(std::move(*accusation));
  it->second.told.take(turn.now);
  ack(id, 0, std::move(updates), turn);
}

}  // namespace starling::membership
