#include "tests/gossip/membership/swarm_of_views.h"

#include <utility>

#include "gossip/base/error.h"

namespace starling::membership {
namespace {

std::string_view name_of(const net::Message& message) {
  static constexpr std::string_view names[] = {"ping", "ack", "ping_request", "view_request", "view_page"};
  return message.index() < 5 ? names[message.index()] : "other";
}

}  // namespace

std::optional<PeerState> SwarmOfViews::state(int observer, int peer) {
  const Peer* found = swarm(observer).find(test_id(peer));
  return found == nullptr ? std::nullopt : std::optional(found->state);
}

int SwarmOfViews::add(const Record& record, std::optional<int> introduced_by) {
  const int i = size();
  nodes_.emplace_back();
  index_[record.id] = i;
  start(i, record, introduced_by);
  return i;
}

void SwarmOfViews::add_workers(int count, int stages) {
  for (int n = 0; n < count; ++n) {
    const int i = size();
    add(test_record(i, Standing::active, i % stages), i == 0 ? std::nullopt : std::optional(0));
  }
}

void SwarmOfViews::start(int i, const Record& record, std::optional<int> introduced_by) {
  Node& n = node(i);
  n.signatures = std::make_unique<HashSignatures>(record.id);
  n.view = std::make_unique<View>(config_.view, record, *n.signatures, [](const Record& r) { return !r.certificate.empty(); },
                                  Stream(random_.next()), now_);
  n.up = true;
  n.paused = false;
  n.inbox.clear();
  ++n.life;
  set_timer(i);
  if (introduced_by) {
    feed(i, View::UpdateCame{{net::Update::Kind::record, view(*introduced_by).signed_self()}});
    feed(*introduced_by, View::UpdateCame{{net::Update::Kind::record, view(i).signed_self()}});
  }
}

void SwarmOfViews::restart(int i, int introduced_by) {
  Record record = view(i).self();
  ++record.boot;
  record.incarnation = record.version = 0;
  start(i, record, introduced_by);
}

void SwarmOfViews::wake(int i) {
  Node& n = node(i);
  n.paused = false;
  for (auto& [from, message] : std::exchange(n.inbox, {})) {
    feed(i, View::MessageCame{test_id(from), std::move(message)});
  }
  set_timer(i);
}

void SwarmOfViews::feed(int i, const View::Event& event) {
  ++events_;
  carry_out(i, view(i).on(event, now_));
  set_timer(i);
}

void SwarmOfViews::change(int i, const std::function<void(Record&)>& edit, View::SelfChanged::Kind kind) {
  Record record = view(i).self();
  edit(record);
  feed(i, View::SelfChanged{record, kind});
}

void SwarmOfViews::send(int from, int to, net::Message message) {
  if (config_.through_wire) {
    const Bytes frame = net::encode(message);
    sent_bytes_ += frame.size();
    auto decoded = net::decode(frame, test_id(from), test_id(to));
    STARLING_CHECK(decoded.has_value(), "a view made a message that does not decode");
    message = std::move(*decoded);
  }
  if (side_ && side_(from) != side_(to)) return;
  if (cut_.contains({std::min(from, to), std::max(from, to)})) return;
  if (random_.uniform() < config_.loss) return;
  const TimePoint at = now_ + config_.latency + scale(config_.jitter, random_.uniform());
  flights_.emplace(std::pair(at, next_flight_++), Flight{from, to, std::move(message)});
}

void SwarmOfViews::carry_out(int i, std::vector<View::Action> actions) {
  const auto note = [&](std::string_view what, const std::string& detail) {
    log_.push_back(std::to_string(now_.time_since_epoch().count()) + " " + std::to_string(i) + " " + std::string(what) +
                   " " + detail);
  };
  bool sent_something = false;
  for (View::Action& action : actions) {
    std::string_view what;
    std::int64_t detail = 0;
    if (auto* out = std::get_if<View::Send>(&action)) {
      sent_something = true;
      ++node(i).sent;
      what = name_of(out->message);
      detail = index_of(out->to);
      send(i, index_of(out->to), std::move(out->message));
    } else if (const auto* changed = std::get_if<View::PeerChanged>(&action)) {
      STARLING_CHECK(!sent_something, "changes come before sends");
      seen_.push_back({now_, i, index_of(changed->peer), changed->now});
      what = to_string(changed->now);
      detail = index_of(changed->peer);
    } else if (std::holds_alternative<View::SelfIsElsewhere>(action)) {
      what = "elsewhere";
    } else if (const auto* late = std::get_if<View::WokeLate>(&action)) {
      what = "woke_late";
      detail = late->gap.count();
    } else if (const auto* trip = std::get_if<View::RoundTrip>(&action)) {
      what = "round_trip";
      detail = trip->took.count();
    } else if (const auto* rose = std::get_if<View::DoneRose>(&action)) {
      what = "done";
      detail = index_of(rose->originator);
    } else if (const auto* forgotten = std::get_if<View::PeerForgotten>(&action)) {
      what = "forgotten";
      detail = index_of(forgotten->peer);
    }
    ++counts_[{i, what}];
    if (config_.keep_log) note(what, std::to_string(detail));
  }
}

void SwarmOfViews::set_timer(int i) {
  const auto old = timer_of_.find(i);
  if (old != timer_of_.end()) timers_.erase({old->second, i});
  timer_of_.erase(i);
  if (!node(i).up || node(i).paused) return;
  const TimePoint at = std::max(now_, view(i).next_deadline());
  timer_of_[i] = at;
  timers_.insert({at, i});
}

void SwarmOfViews::deliver(const Flight& flight) {
  Node& to = node(flight.to);
  if (!to.up) return;
  if (to.paused) {
    if (to.inbox.size() < 1000) to.inbox.emplace_back(flight.from, flight.message);
    return;
  }
  feed(flight.to, View::MessageCame{test_id(flight.from), flight.message});
}

void SwarmOfViews::run(Duration duration) {
  const TimePoint end = now_ + duration;
  for (;;) {
    const TimePoint flight_at = flights_.empty() ? never : flights_.begin()->first.first;
    const TimePoint timer_at = timers_.empty() ? never : timers_.begin()->first;
    if (earliest(flight_at, timer_at) > end) break;
    if (flight_at <= timer_at) {
      now_ = std::max(now_, flight_at);
      const Flight flight = std::move(flights_.begin()->second);
      flights_.erase(flights_.begin());
      deliver(flight);
    } else {
      now_ = std::max(now_, timer_at);
      const int i = timers_.begin()->second;
      timers_.erase(timers_.begin());
      timer_of_.erase(i);
      if (node(i).up && !node(i).paused) feed(i, View::Tick{});
    }
  }
  now_ = end;
}

bool SwarmOfViews::run_until(const std::function<bool()>& done, Duration limit) {
  const TimePoint end = now_ + limit;
  while (!done()) {
    if (now_ >= end) return false;
    run(std::chrono::milliseconds(50));
  }
  return true;
}

bool SwarmOfViews::converged() {
  std::optional<std::map<NodeId, PeerState>> common;
  for (int i = 0; i < size(); ++i) {
    if (!node(i).up) continue;
    std::map<NodeId, PeerState> states;
    for (const auto& [id, peer] : swarm(i).peers) states[id] = peer.state;
    if (!common) common = states;
    if (*common != states) return false;
  }
  for (int i = 0; common && i < size(); ++i) {
    const auto it = common->find(test_id(i));
    if (node(i).up && (it == common->end() || it->second == PeerState::dead || it->second == PeerState::suspect)) return false;
  }
  return true;
}

}  // namespace starling::membership
