// Joining a run, knowing its members, letting others in, and leaving.
#include <algorithm>

#include "trainer/worker/worker.h"

namespace starling::trainer {
namespace {

constexpr std::size_t records_in_answer = 16;
constexpr std::size_t most_knocks = 256;
constexpr Duration wait_for_checkpoint = std::chrono::minutes(2);

}  // namespace

// ---------------------------------------------------------------- a newcomer

void Worker::welcomed(const Credentials::Welcome& welcome) {
  stage_ = welcome.stage;
  slot_ = welcome.slot;
  self_.name = welcome.name;
  record_.name = welcome.name;
  record_.certificate = welcome.certificate;
  record_.stage = is_worker() ? stage_ : no_stage;
  record_.slot = slot_;
  record_.standing = is_worker() ? membership::Standing::joining : membership::Standing::active;
  publish(View::SelfChanged::Kind::important);
  for (const Bytes& bytes : welcome.records) feed(View::UpdateCame{{net::Update::Kind::record, bytes}});
  drain();
  env_.listener.event("join", {{"name", self_.name},
                               {"stage", static_cast<std::int64_t>(stage_)},
                               {"slot", static_cast<std::int64_t>(slot_)}});
  if (is_worker()) {
    begin_loading();
  } else {
    life_ = Life::active;
  }
}

// ---------------------------------------------------------------- the view

void Worker::carry_out(const View::Send& action) { send(action.to, action.message); }

void Worker::carry_out(const View::PeerChanged& action) {
  if (action.peer == self_.id) return;
  const membership::Peer* peer = swarm().find(action.peer);
  if (peer == nullptr) return;  // forgotten since
  if (!action.before || action.endpoints_changed) {
    env_.transport.admit(action.peer);
    env_.transport.set_endpoints(action.peer, peer->record.endpoints);
  }
  if (!action.before && env_.credentials.may_admit()) feed(Admission::MemberSeen{action.peer});
  const auto gone = [](membership::PeerState state) {
    return state == membership::PeerState::dead || state == membership::PeerState::left;
  };
  const bool was_gone = action.before && gone(*action.before);
  using Fields = std::vector<EventField>;
  const auto tell = [&](std::string_view what) {
    env_.listener.event(what, Fields{{"peer", peer->record.name},
                                     {"id", action.peer.brief()},
                                     {"stage", static_cast<std::int64_t>(peer->record.stage)}});
  };
  if (gone(action.now) && !was_gone) {
    const bool left = action.now == membership::PeerState::left;
    tell(left ? "leave" : "dead");
    ++counters_.departures[left ? "left" : "timeout"];
    peer_gone(action.peer);
  } else if (action.now == membership::PeerState::suspect) {
    tell("suspect");
  } else if (action.now == membership::PeerState::active && (!action.before || *action.before != action.now)) {
    if (!action.before || *action.before == membership::PeerState::joining || was_gone) {
      tell("join");
      ++counters_.joins;
    }
    feed(Bulk::PeerUp{action.peer});
  }
  if (peer->record.stage != 0) feed(StageStep::OriginatorGone{action.peer});
  enqueue(exchange_.compare_outcomes(peer->record));
  swarm_changed();
}

void Worker::carry_out(const View::PeerForgotten& action) { env_.transport.forget(action.peer); }

void Worker::carry_out(const View::DoneRose&) { swarm_changed(); }

// A verdict fires every wait on that peer at once.
void Worker::peer_gone(const NodeId& peer) {
  feed(Bulk::PeerDown{peer});
  feed(InFlight::PeerGone{peer});
  feed(Exchange::PeerGone{peer});
  feed(CatchUp::PeerGone{peer});
  feed(StageStep::OriginatorGone{peer});
  router_.forget(peer);
}

void Worker::carry_out(const View::SelfIsElsewhere&) {
  leave(Exit::elsewhere, "this identity runs elsewhere: a node with the same key and a higher boot counter is alive");
}

void Worker::carry_out(const View::WokeLate& action) {
  env_.listener.event("woke_late", {{"seconds", seconds(action.gap)}});
  woke_late(action.gap);
}

void Worker::carry_out(const View::RoundTrip& action) { env_.listener.round_trip(action.took); }

void Worker::publish(View::SelfChanged::Kind kind) { feed(View::SelfChanged{record_, kind}); }

// Speed, load and D: at most once a second, as a new version of the record.
void Worker::refresh_record() {
  if (!active_worker()) return;
  record_.load_seconds = stage_step_->load_seconds();
  record_.microbatch_seconds = stage_step_->microbatch_seconds();
  if (is_originator() && originator_.speed_factor() > 0.0) record_.microbatch_seconds /= originator_.speed_factor();
  record_.step = stage_step_->step();
  record_.round = stage_step_->round();
  record_.tokens = counters_.tokens;
  record_.rss_bytes = env_.listener.rss_bytes();
  publish(View::SelfChanged::Kind::routine);
}

// ---------------------------------------------------------------- letting others in

void Worker::handle(const net::LobbyRequested& event) {
  using Denial = Credentials::Denial;
  const auto deny = [&](Denial code, const std::string& why) {
    env_.transport.answer_lobby(event.request, env_.credentials.denial(code, why));
  };
  if (!env_.credentials.may_admit()) return deny(Denial::not_a_delegate, "this node admits nobody; try another seed");
  if (run_end_.saw_finished()) return deny(Denial::ended, "the run has ended");
  if (life_ != Life::active) return deny(Denial::busy, "this node is starting; try again");
  auto knock = env_.credentials.read_request(event.frame);
  if (!knock) {
    ++counters_.rejected_malformed;
    return deny(Denial::invalid, knock.error().message);
  }
  if (knocks_.size() >= most_knocks) return deny(Denial::busy, "too many ask at once; try again");
  const auto wish = knock->wish;
  knocks_[event.request] = std::move(*knock);
  feed(Admission::Requested{event.request, wish});
}

void Worker::carry_out(const Admission::Issue& action) {
  const auto knock = knocks_.find(action.request);
  if (knock == knocks_.end()) return;
  auto certificate = env_.credentials.issue(action.grant);
  if (!certificate) return carry_out(Admission::Refuse{.request = action.request, .why = certificate.error().message});
  env_.transport.admit(action.grant.wish.id);
  feed(View::UpdateCame{{net::Update::Kind::record, knock->second.record}});
  feed(Admission::Issued{action.request, std::move(*certificate), knock->second.record});
}

void Worker::carry_out(const Admission::Introduce& action) { send(action.to, action.message); }

void Worker::carry_out(const Admission::Answer& action) {
  std::vector<Bytes> records = view_.signed_active(records_in_answer - 1);
  records.push_back(view_.signed_self());
  env_.transport.answer_lobby(action.request, env_.credentials.answer(action.grant, action.certificate, records));
  knocks_.erase(action.request);
}

void Worker::carry_out(const Admission::Refuse& action) {
  env_.transport.answer_lobby(action.request, env_.credentials.denial(Credentials::Denial::busy, action.why));
  knocks_.erase(action.request);
}

// Another node let somebody in: its key may speak to us from now on.
void Worker::introduced(const NodeId& from, const net::Introduce& message) {
  const auto member = env_.credentials.member_of(message.certificate);
  if (!member) {
    ++counters_.rejected_malformed;
    return;
  }
  env_.transport.admit(*member);
  feed(View::UpdateCame{{net::Update::Kind::record, message.record}});
  send(from, net::IntroduceAck{*member});
}

// ---------------------------------------------------------------- the end

void Worker::finish_wished(ByteView statement) {
  if (finish_passed_on_) return;
  if (!env_.credentials.owner_wishes_end(statement)) {
    ++counters_.rejected_malformed;
    return;
  }
  finish_passed_on_ = true;
  const net::Finish message{Bytes(statement.begin(), statement.end())};
  for (const auto& [id, peer] : swarm().peers) {
    if (swarm().is_live(id)) send(id, message);
  }
  feed(RunEnd::FinishWished{});
}

void Worker::carry_out(const RunEnd::RunLastEval&) { begin_eval(stage_step_->last_step(), WhichEval::last); }

void Worker::carry_out(const RunEnd::PublishFinished&) {
  record_.finished = true;
  publish(View::SelfChanged::Kind::important);
}

void Worker::carry_out(const RunEnd::PublishLastStep& action) {
  record_.last_step = action.last_step;
  publish(View::SelfChanged::Kind::important);
}

void Worker::carry_out(const RunEnd::LastStepIs& action) {
  feed(StageStep::LastStepSet{action.last_step});
  originator_.set_last_step(action.last_step);
}

void Worker::carry_out(const RunEnd::TryPeers&) {
  // Whoever of the peers that were known comes back answers with the whole table.
  for (const auto& [id, peer] : swarm().peers) send(id, net::ViewRequest{});
}

void Worker::carry_out(const RunEnd::Exit& action) {
  if (action.why == RunEnd::Exit::Why::finished) {
    leave_at_ = now_ + wait_for_checkpoint;
    return leave_when_delivered();
  }
  leave(Exit::alone, "no other node answered for five minutes");
}

// The last checkpoint is the run's result: nobody goes before its parts have arrived.
void Worker::leave_when_delivered() {
  if (leave_at_ == never) return;
  const bool delivered = checkpoint_jobs_ == 0 && checkpoint_out_.empty() && !env_.listener.collects();
  if (delivered || now_ >= leave_at_) leave(Exit::finished, "the run is finished");
}

void Worker::tell_observers(const net::Report& report) {
  for (const auto& [id, peer] : swarm().peers) {
    if (peer.record.role == membership::Role::observer && swarm().is_live(id)) send(id, report);
  }
}

void Worker::show_metrics(Buffer text) {
  for (const auto& [id, peer] : swarm().peers) {
    if (id == self_.id || peer.record.role != membership::Role::observer || !swarm().is_live(id)) continue;
    offer_buffer(id, net::MetricsText{}, text);
  }
  drain();
}

void Worker::leave(Exit exit, std::string why) {
  if (exit_) return;
  if (exit == Exit::finished || exit == Exit::left) {
    record_.standing = membership::Standing::left;
    for (auto& action : view_.on(View::SelfChanged{record_, View::SelfChanged::Kind::important}, now_)) {
      if (const auto* out = std::get_if<View::Send>(&action)) send(out->to, out->message);
    }
  }
  life_ = Life::ended;
  exit_ = ExitReason{exit, std::move(why)};
}

}  // namespace starling::trainer
