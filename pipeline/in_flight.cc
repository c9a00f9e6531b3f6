#include "pipeline/in_flight.h"

#include <algorithm>

namespace starling::pipeline {
namespace {

constexpr double ask_after_etas = 1.5;
constexpr double ask_again_after_etas = 2.0;
constexpr std::size_t most_late = 256;
constexpr double backward_patience = 3.0;

// Forward, another replica does the same work a little later. Backward, nobody else has the graph: giving up too early
// loses that hop's gradient, so it gets three times as long.
Duration patience(const InFlight::Sent& sent, Duration deadline) {
  return sent.key.direction == net::Direction::backward ? scale(deadline, backward_patience) : deadline;
}

}  // namespace

std::vector<InFlight::Action> InFlight::on(const Event& event, TimePoint now) {
  std::vector<Action> out;
  if (const auto* sent = std::get_if<Sent>(&event)) {
    Entry& entry = entries_[sent->key];
    by_transfer_.erase(entry.transfer);
    entry.state = State::sent;
    entry.transfer = sent->transfer;
    entry.to = sent->to;
    entry.ends_here = sent->ends_here;
    entry.tried.insert(sent->to);
    entry.since = now;
    entry.at = deadlines_ == Deadlines::on ? now + patience(*sent, deadline_of(sent->to).deadline()) : never;
    by_transfer_[sent->transfer] = sent->key;
  } else if (const auto* came = std::get_if<AcceptedCame>(&event)) {
    if (const auto it = find(came->accepted.transfer, came->from); it != entries_.end()) {
      accepted(it, came->accepted, now, out);
    } else if (const auto late = late_.find(came->accepted.transfer);
               late != late_.end() && late->second.to == came->from) {
      deadline_of(came->from).answered(now - late->second.since);
      out.emplace_back(Answered{came->from, now - late->second.since});
      late_.erase(late);
    }
  } else if (const auto* refuse = std::get_if<RefuseCame>(&event)) {
    if (const auto it = find(refuse->transfer, refuse->from); it != entries_.end()) refused(it, *refuse, out);
  } else if (const auto* ended = std::get_if<TransferEnded>(&event)) {
    const auto key = by_transfer_.find(ended->transfer);
    if (key != by_transfer_.end()) {
      const auto it = entries_.find(key->second);
      if (it->second.state == State::sent) reroute(it, SkipReason::timeout, out);
    }
  } else if (const auto* passed = std::get_if<PassedCame>(&event)) {
    const auto it = entries_.find(Key{passed->passed.microbatch, passed->passed.direction});
    if (it != entries_.end() && it->second.to == passed->from) {
      out.emplace_back(Settled{it->first});
      by_transfer_.erase(it->second.transfer);
      entries_.erase(it);
    }
  } else if (const auto* answer = std::get_if<AnswerCame>(&event)) {
    answered(*answer, now, out);
  } else if (const auto* gone = std::get_if<PeerGone>(&event)) {
    std::vector<Key> theirs;
    for (const auto& [key, entry] : entries_) {
      if (entry.to == gone->peer) theirs.push_back(key);
    }
    for (const Key& key : theirs) reroute(entries_.find(key), SkipReason::dead, out);
    deadlines_of_.erase(gone->peer);
  } else if (const auto* freed = std::get_if<Freed>(&event)) {
    forget(Key{freed->microbatch, Direction::forward});
    forget(Key{freed->microbatch, Direction::backward});
  } else if (const auto* late = std::get_if<WokeLate>(&event)) {
    for (auto& [key, entry] : entries_) {
      entry.since += late->gap;
      if (entry.at != never) entry.at += late->gap;
    }
  } else if (std::holds_alternative<Tick>(event)) {
    expire(now, out);
  }
  return out;
}

InFlight::Entries::iterator InFlight::find(const TransferId& transfer, const NodeId& from) {
  const auto key = by_transfer_.find(transfer);
  if (key == by_transfer_.end()) return entries_.end();
  const auto it = entries_.find(key->second);
  return it != entries_.end() && it->second.to == from ? it : entries_.end();
}

void InFlight::accepted(Entries::iterator it, const net::Accepted& accepted, TimePoint now, std::vector<Action>& out) {
  Entry& entry = it->second;
  if (entry.state == State::sent) {
    const Duration took = now - entry.since;
    deadline_of(entry.to).answered(took);
    out.emplace_back(Answered{entry.to, took});
  }
  if (!entry.told_passed) {
    entry.told_passed = true;
    out.emplace_back(TellPassed{it->first});
  }
  if (entry.ends_here) {
    out.emplace_back(Settled{it->first});
    by_transfer_.erase(entry.transfer);
    entries_.erase(it);
    return;
  }
  entry.state = State::accepted;
  if (deadlines_ == Deadlines::on) {
    entry.at = now + scale(std::max(Duration::zero(), accepted.eta), ask_after_etas) + deadline_of(entry.to).deadline();
  } else {
    entry.at = never;
  }
}

void InFlight::refused(Entries::iterator it, const RefuseCame& event, std::vector<Action>& out) {
  using net::RefuseCode;
  const Key key = it->first;
  deadline_of(event.from).answered(Duration::zero() + std::chrono::milliseconds(1));
  switch (event.code) {
    case RefuseCode::full:
    case RefuseCode::starting:
    case RefuseCode::wrong_stage:
    case RefuseCode::malformed:
      if (it->second.ends_here) break;  // nobody else can take it
      reroute(it, SkipReason::timeout, out);
      return;
    case RefuseCode::unknown:
      // Backward only: the graph there is gone, its gradient goes around it.
      if (it->second.ends_here) break;
      reroute(it, SkipReason::dead, out);
      return;
    case RefuseCode::duplicate:
    case RefuseCode::stale:
    case RefuseCode::done:
      break;
  }
  if (event.code == RefuseCode::duplicate && !it->second.told_passed) out.emplace_back(TellPassed{key});
  by_transfer_.erase(it->second.transfer);
  entries_.erase(it);
  out.emplace_back(FreeGraph{key, event.code});
}

void InFlight::answered(const AnswerCame& event, TimePoint now, std::vector<Action>& out) {
  using State_ = net::AskAnswer::State;
  const auto it = entries_.find(Key{event.answer.microbatch, event.answer.direction});
  if (it == entries_.end() || it->second.to != event.from) return;
  Entry& entry = it->second;
  // "Given back" also comes unasked, when a held microbatch had to make room.
  if (entry.state != State::asked && event.answer.state != State_::given_back) return;
  if (entry.state == State::asked) deadline_of(event.from).answered(now - entry.since);
  switch (event.answer.state) {
    case State_::working:
      entry.state = State::accepted;
      entry.at = now + scale(std::max(Duration::zero(), event.answer.eta), ask_again_after_etas) +
                 deadline_of(event.from).deadline();
      return;
    case State_::passed:
      out.emplace_back(Settled{it->first});
      by_transfer_.erase(entry.transfer);
      entries_.erase(it);
      return;
    case State_::given_back:
    case State_::unknown:
      reroute(it, SkipReason::timeout, out);
      return;
  }
}

// The caller sends it elsewhere (a new Sent event for the key) or frees it.
void InFlight::reroute(Entries::iterator it, SkipReason reason, std::vector<Action>& out) {
  Entry& entry = it->second;
  by_transfer_.erase(entry.transfer);
  Reroute action{it->first, entry.tried, entry.to, reason, std::nullopt};
  if (entry.state == State::sent) {
    action.cancel = entry.transfer;
    late_.emplace(entry.transfer, Late{entry.to, entry.since});
    if (late_.size() > most_late) late_.erase(late_.begin());
  }
  entry.at = never;
  entry.transfer = TransferId{};
  entry.to = NodeId{};
  out.emplace_back(action);
}

void InFlight::expire(TimePoint now, std::vector<Action>& out) {
  std::vector<Key> due;
  for (const auto& [key, entry] : entries_) {
    if (entry.at <= now) due.push_back(key);
  }
  for (const Key& key : due) {
    const auto it = entries_.find(key);
    Entry& entry = it->second;
    if (entry.state == State::accepted) {
      entry.state = State::asked;
      entry.since = now;
      entry.at = now + deadline_of(entry.to).deadline();
      out.emplace_back(SendAsk{entry.to, key});
      continue;
    }
    deadline_of(entry.to).timed_out();
    out.emplace_back(TimedOut{entry.to});
    reroute(it, SkipReason::timeout, out);
  }
}

TimePoint InFlight::next_deadline() const {
  TimePoint at = never;
  for (const auto& [key, entry] : entries_) at = earliest(at, entry.at);
  return at;
}

bool InFlight::passed(const Key& key) const {
  const auto it = entries_.find(key);
  return it == entries_.end() || it->second.told_passed;
}

void InFlight::forget(const Key& key) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  by_transfer_.erase(it->second.transfer);
  entries_.erase(it);
}

}  // namespace starling::pipeline
