// The way of a microbatch through this node.
//
// Forward: Originator starts it, the device begins it, Router plans its path; route_forward sends it to the next hop, to
// another replica when that one is gone, around the stage when nobody is left, and home at the end. Backward: the same
// hops in reverse; a hop that is gone is bypassed, as its blocks are residual: the gradient goes on unchanged.
#include <algorithm>
#include <bit>
#include <utility>

#include "trainer/worker/worker.h"

namespace starling::trainer {
namespace {

using pipeline::SkipReason;

bool stages_once_each(const std::vector<net::Hop>& made, const std::vector<net::Hop>& ahead, std::int64_t stages) {
  std::set<Stage> seen;
  const auto fresh = [&](const net::Hop& hop) {
    return hop.stage > 0 && hop.stage < stages && seen.insert(hop.stage).second;
  };
  return std::all_of(made.begin(), made.end(), fresh) && std::all_of(ahead.begin(), ahead.end(), fresh);
}

bool visits(const std::vector<net::Hop>& hops, const NodeId& peer) {
  return std::any_of(hops.begin(), hops.end(), [&](const net::Hop& hop) { return hop.peer == peer; });
}

}  // namespace

// ---------------------------------------------------------------- coming in

bool Worker::well_formed(const NodeId& from, const net::Offer& offer, const Header& header) const {
  if (offer.bytes != static_cast<std::uint64_t>(env_.compute->sizes().activation_bytes)) return false;
  if (header.id.step < 1 || header.age < Duration::zero() || header.give_up_age < Duration::zero()) return false;
  if (!stages_once_each(header.made, header.ahead, config_.parallelism.stages)) return false;
  const auto rows = static_cast<std::uint64_t>(config_.training.tokens_per_microbatch());
  if (!header.borders.empty() && (!config_.training.document_attention || header.borders.back() >= rows)) return false;
  const bool own = header.id.originator == self_.id;
  const bool sender_is_on_path = from == header.id.originator || visits(header.made, from);
  if (!sender_is_on_path) return false;
  if (header.direction == Direction::backward) return own || visits(header.made, self_.id);
  return !visits(header.made, self_.id);
}

void Worker::carry_out(const StageStep::Take& action) {
  const auto it = offers_.find(action.transfer);
  if (it == offers_.end()) return;
  const net::Offer offer = std::move(it->second);
  offers_.erase(it);
  feed(Bulk::OfferTaken{action.from, offer});
}

void Worker::carry_out(const StageStep::Refuse& action) {
  offers_.erase(action.transfer);
  refuse(action.from, action.transfer, action.code);
  const Header& header = action.header;
  if (action.code == net::RefuseCode::stale) ++counters_.rejected_stale;
  // Another branch was home first: the hops that are only on this one need not keep their graphs.
  const bool second_branch = action.code == net::RefuseCode::done && header.id.originator == self_.id &&
                             header.direction == Direction::forward;
  if (!second_branch) return;
  const Header* winner = stage_step_->header(header.id);
  if (winner != nullptr) abandon(header.id, header.made, winner->made);
}

void Worker::carry_out(const StageStep::Acknowledge& action) {
  feed(Bulk::Answered{action.to, action.transfer, action.eta});
}

void Worker::carry_out(const StageStep::Run&) { pump(); }

void Worker::carry_out(const StageStep::Drop& action) {
  if (action.give_back) {
    send(action.give_back->to, net::AskAnswer{.state = net::AskAnswer::State::given_back,
                                              .microbatch = action.microbatch,
                                              .direction = action.give_back->direction});
  }
  if (action.why == StageStep::Drop::Why::bad_input) ++counters_.rejected_non_finite;
  const bool own = action.microbatch.originator == self_.id;
  free_microbatch(action.microbatch);
  if (own) feed(Originator::Lost{action.microbatch});
}

// An Offer whose first bytes follow at once travels with them, in one frame.
void Worker::carry_out(const Bulk::SendControl& action) {
  if (const auto* offer = std::get_if<net::Offer>(&action.message)) {
    if (const Bulk::SendChunk* first = next_chunk_of(*offer)) {
      Bytes frame = net::encode_offered_chunk(*offer, ByteView(*first->buffer).first(first->bytes));
      if (!frame.empty()) {
        first_chunk_sent_ = offer->transfer;
        return send_bulk(action.to, std::move(frame), first->bytes);
      }
    }
  }
  send(action.to, action.message);
}

const net::Bulk::SendChunk* Worker::next_chunk_of(const net::Offer& offer) const {
  if (queue_.empty()) return nullptr;
  const auto* next = std::get_if<Bulk::Action>(&queue_.front());
  const auto* chunk = next == nullptr ? nullptr : std::get_if<Bulk::SendChunk>(next);
  return chunk != nullptr && chunk->transfer == offer.transfer && chunk->offset == 0 ? chunk : nullptr;
}

void Worker::carry_out(const Bulk::SendChunk& action) {
  if (action.offset == 0 && std::exchange(first_chunk_sent_, std::nullopt) == action.transfer) return;
  const ByteView all(*action.buffer);
  send_bulk(action.to, net::encode_chunk(action.transfer, action.offset, all.subspan(action.offset, action.bytes)),
            action.bytes);
}

void Worker::send_bulk(const NodeId& to, Bytes frame, std::uint64_t payload_bytes) {
  ++counters_.messages_sent;
  counters_.sent_bytes[WorkerCounters::control] += static_cast<std::int64_t>(frame.size() - payload_bytes);
  env_.transport.send(to, net::Lane::bulk, std::move(frame));
}

void Worker::carry_out(const Bulk::Delivered& action) {
  const auto size = static_cast<std::int64_t>(action.buffer->size());
  if (const auto* header = std::get_if<Header>(&action.offer.about)) {
    const bool backward = header->direction == Direction::backward;
    counters_.received_bytes[backward ? WorkerCounters::gradient : WorkerCounters::activation] += size;
    if (stage_step_->keeps(header->id)) {
      // It is home, or on its way back: whatever was sent forward from here has long been passed on.
      if (backward || header->id.originator == self_.id) drop_output(Key{header->id, Direction::forward});
      inputs_[header->id] = action.buffer;
      upstream_[Key{header->id, header->direction}] = action.from;
      if (header->id.originator != self_.id) began_[header->id] = now_ - header->age;
    }
    feed(StageStep::Arrived{action.from, action.offer.transfer, *header});
    return;
  }
  feed(Bulk::Answered{action.from, action.offer.transfer, std::nullopt});
  if (const auto* part = std::get_if<net::ExchangePart>(&action.offer.about)) {
    counters_.received_bytes[WorkerCounters::outer] += size;
    feed(Exchange::PartCame{action.from, *part, action.buffer});
  } else if (const auto* state = std::get_if<net::StatePart>(&action.offer.about)) {
    counters_.received_bytes[WorkerCounters::state] += size;
    feed(CatchUp::PartCame{action.from, *state, action.buffer});
  } else if (const auto* backup = std::get_if<net::BackupPart>(&action.offer.about)) {
    counters_.received_bytes[WorkerCounters::state] += size;
    keep_backup(*backup, action.buffer);
  } else if (const auto* collected = std::get_if<net::CheckpointPart>(&action.offer.about)) {
    counters_.received_bytes[WorkerCounters::state] += size;
    env_.listener.came(action.from, *collected, action.buffer);
  } else {
    env_.listener.metrics_came(action.from, *action.buffer);
  }
}

void Worker::carry_out(const Bulk::ReceiveFailed& action) {
  if (action.why == Bulk::ReceiveFailed::Why::bad_checksum) ++counters_.bad_checksum;
  if (const auto* header = std::get_if<Header>(&action.offer.about)) {
    feed(StageStep::ArrivalFailed{*header});
  } else if (const auto* part = std::get_if<net::ExchangePart>(&action.offer.about)) {
    feed(Exchange::PartFailed{action.from, *part});
  } else if (const auto* state = std::get_if<net::StatePart>(&action.offer.about)) {
    feed(CatchUp::PartFailed{action.from, *state});
  }
}

void Worker::carry_out(const Bulk::SendEnded& action) {
  if (std::holds_alternative<Header>(action.about)) {
    if (action.why == Bulk::SendEnded::Why::refused) {
      feed(InFlight::RefuseCame{action.to, action.transfer, action.code});
    } else {
      feed(InFlight::TransferEnded{action.transfer});
    }
  } else if (const auto* part = std::get_if<net::ExchangePart>(&action.about)) {
    const bool has_it = action.why == Bulk::SendEnded::Why::refused && action.code == net::RefuseCode::duplicate;
    if (!has_it) feed(Exchange::PartFailed{action.to, *part});
  } else if (std::holds_alternative<net::CheckpointPart>(action.about)) {
    checkpoint_out_.erase(action.transfer);  // the collector says in its manifest what it lacks
  }
}

// ---------------------------------------------------------------- going on

Duration Worker::age_of(const Header& header) const {
  const auto it = began_.find(header.id);
  return it == began_.end() ? header.age : now_ - it->second;
}

// The originator of what is here may be heard of as one later than its microbatches come: at the start, or when it has just
// taken stage 0 over. Only one that is gone is not tried; one that is no originator any more refuses.
bool Worker::may_originate(const NodeId& peer) const {
  const membership::Peer* known = swarm().find(peer);
  return known != nullptr && known->state != membership::PeerState::dead && known->state != membership::PeerState::left;
}

// The whole way of a microbatch that begins here.
void Worker::plan_path(Header& header) {
  header.ahead = router_.plan(header.id, swarm(), now_);
  Stage expected = 1;
  for (const net::Hop& hop : header.ahead) {
    for (; expected < hop.stage; ++expected) skipped(expected, header.id);
    ++expected;
  }
  for (; expected < config_.parallelism.stages; ++expected) skipped(expected, header.id);
  if (header.purpose == net::Purpose::train) router_.opened(header.id, header.ahead);
}

void Worker::route_forward(Header header, Buffer output, const std::set<NodeId>& tried) {
  const bool never_skip = config_.pipeline.skip == pipeline::Skip::never;
  while (!header.ahead.empty()) {
    net::Hop& hop = header.ahead.front();
    const membership::Peer* peer = swarm().find(hop.peer);
    const bool good = never_skip || (swarm().is_live(hop.peer) && peer->record.stage == hop.stage && !tried.contains(hop.peer));
    const std::optional<NodeId> to = good ? hop.peer : router_.choose(hop.stage, swarm(), tried, now_);
    if (to) {
      hop.peer = *to;
      header.stage = hop.stage;
      return send_microbatch(*to, std::move(header), std::move(output));
    }
    skipped(hop.stage, header.id);
    header.ahead.erase(header.ahead.begin());
  }
  header.stage = 0;
  if (header.id.originator == self_.id) {
    // Every middle stage was left out: what Begin made goes straight into the loss.
    drop_output(Key{header.id, Direction::forward});
    feed(StageStep::HereAlready{header.id, Direction::forward});
    return;
  }
  const NodeId home = header.id.originator;
  if (!never_skip && !may_originate(home)) return free_microbatch(header.id);
  send_microbatch(home, std::move(header), std::move(output));
}

void Worker::route_backward(Header header, Buffer gradient, const std::set<NodeId>& tried) {
  const bool never_skip = config_.pipeline.skip == pipeline::Skip::never;
  header.direction = Direction::backward;
  const auto self = std::find_if(header.made.begin(), header.made.end(), [&](const net::Hop& hop) { return hop.peer == self_.id; });
  for (auto i = self - header.made.begin() - 1; i >= 0; --i) {
    const net::Hop& hop = header.made[static_cast<std::size_t>(i)];
    const std::uint64_t bit = 1ULL << i;
    if ((header.bypassed & bit) != 0) continue;
    const membership::Peer* peer = swarm().find(hop.peer);
    const bool good = never_skip || (swarm().is_live(hop.peer) && peer->record.stage == hop.stage && !tried.contains(hop.peer));
    if (good) {
      header.stage = hop.stage;
      return send_microbatch(hop.peer, std::move(header), std::move(gradient));
    }
    header.bypassed |= bit;
    skipped(hop.stage, header.id);
  }
  header.stage = 0;
  if (header.id.originator == self_.id) {
    drop_output(Key{header.id, Direction::backward});
    inputs_[header.id] = std::move(gradient);
    bypassed_[header.id] = header.bypassed;
    feed(StageStep::HereAlready{header.id, Direction::backward});
    return;
  }
  const NodeId home = header.id.originator;
  if (!never_skip && !may_originate(home)) return free_microbatch(header.id);
  send_microbatch(home, std::move(header), std::move(gradient));
}

// `header.ahead` still begins with the receiver's own hop: kept so for a re-route, sent without it.
void Worker::send_microbatch(const NodeId& to, Header header, Buffer buffer) {
  const Key key{header.id, header.direction};
  Header sent = header;
  if (header.direction == Direction::forward && !sent.ahead.empty()) sent.ahead.erase(sent.ahead.begin());
  sent.age = age_of(header);
  const bool home = header.stage == 0;
  counters_.sent_bytes[key.direction == Direction::backward ? WorkerCounters::gradient : WorkerCounters::activation] +=
      static_cast<std::int64_t>(buffer->size());
  outputs_[key] = Output{std::move(header), buffer};
  const TransferId transfer = offer_buffer(to, sent, std::move(buffer));
  feed(InFlight::Sent{key, transfer, to, home});
}

void Worker::skipped(Stage stage, const MicrobatchId& id) {
  const SkipReason reason = swarm().live_replicas(stage).empty() ? SkipReason::dead : SkipReason::timeout;
  ++counters_.stage_skips[{stage, reason}];
  env_.listener.event("skip_stage", {{"stage", static_cast<std::int64_t>(stage)},
                                     {"reason", reason == SkipReason::dead ? "dead" : "timeout"},
                                     {"microbatch", to_string(id)}});
}

void Worker::drop_output(const Key& key) {
  outputs_.erase(key);
  upstream_.erase(key);
  in_flight_.forget(key);
}

void Worker::carry_out(const InFlight::Reroute& action) {
  if (action.cancel) feed(Bulk::Cancel{*action.cancel});
  const auto it = outputs_.find(action.key);
  if (it == outputs_.end()) return in_flight_.forget(action.key);
  ++counters_.rerouted;
  const Output output = it->second;
  if (action.key.direction == Direction::forward) {
    route_forward(output.header, output.buffer, action.tried);
  } else {
    route_backward(output.header, output.buffer, action.tried);
  }
}

void Worker::carry_out(const InFlight::TellPassed& action) {
  const auto it = upstream_.find(action.key);
  if (it == upstream_.end()) return;  // our own: nobody waits for word
  send(it->second, net::Passed{action.key.microbatch, action.key.direction});
  upstream_.erase(it);
}

void Worker::carry_out(const InFlight::Settled& action) { outputs_.erase(action.key); }

void Worker::carry_out(const InFlight::SendAsk& action) {
  send(action.to, net::Ask{action.key.microbatch, action.key.direction});
}

void Worker::carry_out(const InFlight::FreeGraph& action) {
  const auto it = outputs_.find(action.key);
  if (it == outputs_.end()) return;
  const bool went_home = it->second.header.stage == 0;
  outputs_.erase(it);
  const bool own = action.key.microbatch.originator == self_.id;
  if (own) {
    // Its originator watches by itself; but one that is told "too old" is behind the swarm and need not wait for more.
    if (action.code != net::RefuseCode::stale) return;
    ++counters_.dropped;
    router_.ended(action.key.microbatch);
    free_microbatch(action.key.microbatch);
    return feed(Originator::Lost{action.key.microbatch});
  }
  // Home on another branch: its originator abandons those who need not wait. It is no originator any more: nobody does.
  const bool nobody_waits = action.code == net::RefuseCode::wrong_stage || action.code == net::RefuseCode::starting;
  const bool forward = action.key.direction == Direction::forward;
  if (went_home ? nobody_waits : forward) free_microbatch(action.key.microbatch);
}

void Worker::carry_out(const InFlight::TimedOut& action) { router_.timed_out(action.peer, swarm(), now_); }

void Worker::carry_out(const InFlight::Answered& action) { router_.answered(action.peer, action.took); }

void Worker::answer(const NodeId& from, const net::Ask& ask) {
  using State = net::AskAnswer::State;
  using Where = StageStep::Where;
  net::AskAnswer reply{.microbatch = ask.microbatch, .direction = ask.direction};
  const Where where = stage_step_->where(ask.microbatch, ask.direction);
  switch (where) {
    case Where::unknown: reply.state = State::unknown; break;
    case Where::finished: reply.state = State::passed; break;
    case Where::open:
      reply.state = in_flight_.passed(Key{ask.microbatch, ask.direction}) ? State::passed : State::working;
      break;
    case Where::arriving:
    case Where::held:
    case Where::ready:
    case Where::computing: {
      reply.eta = stage_step_->eta(ask.direction, ask.microbatch.step, now_);
      const auto other = router_.best_alternative(stage_, swarm(), stage_step_->kept());
      const bool late = other && reply.eta > *other * 2;
      if (late && where == Where::ready && ask.direction == Direction::forward && !is_originator()) {
        reply.state = State::given_back;
        free_microbatch(ask.microbatch);
      }
      break;
    }
  }
  send(from, reply);
}

// ---------------------------------------------------------------- ending

void Worker::abandoned(const NodeId& from, const net::Abandon& message) {
  if (from == message.microbatch.originator) free_microbatch(message.microbatch);
}

void Worker::abandon(const MicrobatchId& id, const std::vector<net::Hop>& hops, const std::vector<net::Hop>& except) {
  for (const net::Hop& hop : hops) {
    if (!visits(except, hop.peer)) send(hop.peer, net::Abandon{id});
  }
}

void Worker::free_microbatch(const MicrobatchId& id) {
  feed(StageStep::Freed{id});
  feed(InFlight::Freed{id});
  inputs_.erase(id);
  began_.erase(id);
  bypassed_.erase(id);
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    outputs_.erase(Key{id, direction});
    upstream_.erase(Key{id, direction});
  }
  submit(DropKept{id}, Unanswered{});
  if (eval_ && id.originator == self_.id && eval_->out.erase(id.index) > 0) start_eval_windows();
}

void Worker::finished(const Unanswered&, const Completion&) {}

void Worker::carry_out(const Originator::Start& action) {
  began_[action.microbatch] = now_;
  Header header;
  header.id = action.microbatch;
  header.give_up_age = action.give_up_age;
  feed(StageStep::Started{std::move(header)});
}

void Worker::carry_out(const Originator::GiveUp& action) {
  ++counters_.dropped;
  std::vector<net::Hop> hops;
  if (const Header* header = stage_step_->header(action.microbatch)) hops = header->made;
  for (const Direction direction : {Direction::forward, Direction::backward}) {
    const auto it = outputs_.find(Key{action.microbatch, direction});
    if (it == outputs_.end()) continue;
    hops.insert(hops.end(), it->second.header.made.begin(), it->second.header.made.end());
    hops.insert(hops.end(), it->second.header.ahead.begin(), it->second.header.ahead.end());
  }
  const std::vector<net::Hop> way = router_.way_of(action.microbatch);
  hops.insert(hops.end(), way.begin(), way.end());
  abandon(action.microbatch, hops, {});
  free_microbatch(action.microbatch);
}

void Worker::carry_out(const Originator::ShareStarted& action) { feed(StageStep::ShareStarted{action.step}); }

// Its last backward pass, here at its originator, is done.
void Worker::completed(const Header& header) {
  std::uint64_t bypassed = header.bypassed;
  if (const auto it = bypassed_.find(header.id); it != bypassed_.end()) bypassed |= it->second;
  const auto visited = static_cast<std::int64_t>(header.made.size()) - std::popcount(bypassed);
  ++counters_.completed;
  // Whoever was bypassed would wait for this gradient, and not close the step, until the microbatch's age runs out.
  for (std::size_t i = 0; i < header.made.size(); ++i) {
    if ((bypassed >> i & 1) != 0) send(header.made[i].peer, net::Abandon{header.id});
  }
  if (visited < config_.parallelism.stages - 1) ++counters_.completed_with_skips;
  counters_.tokens += config_.training.tokens_per_microbatch();
  inputs_.erase(header.id);
  began_.erase(header.id);
  bypassed_.erase(header.id);
  router_.ended(header.id);
  drop_output(Key{header.id, Direction::forward});
  drop_output(Key{header.id, Direction::backward});
  feed(Originator::Completed{header.id});
}

}  // namespace starling::trainer
