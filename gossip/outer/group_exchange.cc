#include "gossip/outer/group_exchange.h"

#include <algorithm>

namespace starling::outer {

using membership::ExchangeOutcome;
using SoloCause = Exchange::SoloCause;

std::vector<Exchange::Action> GroupExchange::on(const Exchange::Event& event, const membership::Swarm& swarm,
                                                Round round, TimePoint now) {
  std::vector<Exchange::Action> out;
  Turn turn{swarm, current_ ? current_->round : round, now, out};
  next_deadline_ = never;
  std::visit([&](const auto& e) { handle(turn, e); }, event);
  if (current_ && current_->phase == Phase::gathering) gather(turn);
  return out;
}

void GroupExchange::handle(Turn& turn, const Exchange::RoundEnded& event) {
  STARLING_CHECK(!current_, "a round ends while another one is being exchanged");
  current_ = Current{.round = event.round,
                     .stage = event.stage,
                     .tau = event.tau,
                     .began = turn.now,
                     .id = {self_, boot_, ++counter_},
                     .solo = std::nullopt};
  turn.round = event.round;
  drop_parts_before(turn, event.round);
}

// Nothing is proposed here; a peer that proposes runs by another run file and need not wait for us.
void GroupExchange::handle(Turn& turn, const Exchange::MessageCame& event) {
  const auto* propose = std::get_if<net::Propose>(&event.message);
  if (propose == nullptr) return;
  const net::Decline decline{net::Decline::Code::wrong_stage, propose->exchange, turn.round};
  turn.out.push_back(Exchange::Send{event.from, decline});
}

void GroupExchange::handle(Turn& turn, const Exchange::PartOffered& event) {
  const auto refuse = [&](net::RefuseCode code) {
    turn.out.push_back(Exchange::RefuseOffer{event.from, event.offer.transfer, code});
  };
  const auto* part = std::get_if<net::ExchangePart>(&event.offer.about);
  const membership::Peer* self = turn.swarm.find(self_);
  const Stage stage = current_ ? current_->stage : self != nullptr ? self->record.stage : no_stage;
  if (part == nullptr || part->exchange.proposer != event.from || event.offer.bytes != event.expected_bytes) {
    return refuse(net::RefuseCode::malformed);
  }
  if (part->stage != stage || turn.swarm.find(event.from) == nullptr) return refuse(net::RefuseCode::wrong_stage);
  const bool decided = current_ && current_->phase == Phase::applying && part->round == turn.round;
  if (part->round < turn.round || decided) return refuse(net::RefuseCode::stale);
  if (part->round > turn.round + 1) {
    turn.out.push_back(Exchange::BehindBy{part->round, event.from});
    return refuse(net::RefuseCode::stale);
  }
  const std::pair key{part->round, event.from};
  const auto known = parts_.find(key);
  if (known == parts_.end() && parts_.size() >= 2 * config_.max_early) return refuse(net::RefuseCode::full);
  if (known != parts_.end() && known->second.state != Part::State::failed) {
    const Part& before = known->second;
    const bool again = before.state == Part::State::moving && before.transfer == event.offer.transfer;
    if (!again || before.id != part->exchange) return refuse(net::RefuseCode::duplicate);
    turn.out.push_back(Exchange::TakeOffer{event.from, event.offer});
    return;
  }
  const auto size = static_cast<double>(event.offer.bytes);
  const Duration patience =
      std::max(config_.min_transfer_wait, from_seconds(size / static_cast<double>(config_.min_bytes_per_second)));
  parts_[key] = Part{.id = part->exchange,
                     .transfer = event.offer.transfer,
                     .until = turn.now + patience,
                     .state = Part::State::moving,
                     .buffer = nullptr};
  turn.out.push_back(Exchange::TakeOffer{event.from, event.offer});
}

GroupExchange::Part* GroupExchange::find_moving(Round round, const NodeId& peer, const ExchangeId& id) {
  const auto it = parts_.find({round, peer});
  const bool found = it != parts_.end() && it->second.id == id && it->second.state == Part::State::moving;
  return found ? &it->second : nullptr;
}

void GroupExchange::handle(Turn&, const Exchange::PartCame& event) {
  if (Part* part = find_moving(event.part.round, event.from, event.part.exchange)) {
    STARLING_CHECK(event.buffer != nullptr, "a part without bytes was delivered");
    part->buffer = event.buffer;
    part->state = Part::State::here;
  }
}

// Of my own parts too, and then of no interest: nobody owes me a Got.
void GroupExchange::handle(Turn&, const Exchange::PartFailed& event) {
  if (Part* part = find_moving(event.part.round, event.peer, event.part.exchange)) part->state = Part::State::failed;
}

void GroupExchange::handle(Turn& turn, const Exchange::SnapshotMade& event) {
  if (!current_ || current_->round != event.round || current_->snapshot != Current::Snapshot::asked) return;
  current_->snapshot = Current::Snapshot::offered;
  if (event.buffer == nullptr) return go_solo(turn, SoloCause::transfer_failed);
  for (const NodeId& peer : turn.swarm.live_replicas(current_->stage)) {
    if (peer == self_) continue;
    const net::ExchangePart part{current_->id, current_->round, current_->stage};
    turn.out.push_back(Exchange::OfferPart{peer, part, event.buffer});
  }
}

void GroupExchange::handle(Turn& turn, const Exchange::Applied& event) {
  if (!current_ || current_->phase != Phase::applying || current_->round != event.round) return;
  if (!current_->solo && event.averaged_with == 0) current_->solo = SoloCause::rejected;
  const bool averaged = !current_->solo;
  turn.out.push_back(Exchange::RoundFinished{
      .round = current_->round,
      .outcome = {current_->id, averaged ? ExchangeOutcome::Result::averaged : ExchangeOutcome::Result::solo},
      .averaged = averaged,
      .cause = current_->solo.value_or(SoloCause::odd_one_out),
      .partner = std::nullopt});
  drop_parts_before(turn, current_->round + 1);
  current_.reset();
}

// What is here stays good; only what moves is lost.
void GroupExchange::handle(Turn&, const Exchange::PeerGone& event) {
  for (auto& [key, part] : parts_) {
    if (key.second == event.peer && part.state == Part::State::moving) part.state = Part::State::failed;
  }
}

void GroupExchange::handle(Turn& turn, const Exchange::Cancelled&) {
  if (current_) drop_parts_before(turn, current_->round + 1);
  current_.reset();
}

void GroupExchange::drop_parts_before(Turn& turn, Round round) {
  std::erase_if(parts_, [&](const auto& entry) {
    const auto& [key, part] = entry;
    if (key.first >= round) return false;
    if (part.state == Part::State::moving) {
      turn.out.push_back(Exchange::RefuseOffer{key.second, part.transfer, net::RefuseCode::stale});
    }
    return true;
  });
}

std::optional<TimePoint> GroupExchange::awaited_until(const Turn& turn, const NodeId& peer) const {
  const auto part = parts_.find({current_->round, peer});
  if (part != parts_.end()) {
    if (part->second.state != Part::State::moving) return std::nullopt;
    return part->second.until;
  }
  // Nobody who is past this round still owes us a part of it.
  const membership::Peer* known = turn.swarm.find(peer);
  const bool inside = known != nullptr && known->record.round <= current_->round;
  return inside ? current_->began + std::max(4 * current_->tau, config_.min_wait) + 2 * config_.repeat
                : current_->began + std::max(current_->tau, config_.min_wait);
}

bool GroupExchange::anybody_else(const Turn& turn) const {
  const auto& live = turn.swarm.live_replicas(current_->stage);
  return std::any_of(live.begin(), live.end(), [&](const NodeId& peer) { return peer != self_; });
}

void GroupExchange::gather(Turn& turn) {
  // My own parts go out before I stop to wait for those of the others.
  if (current_->snapshot == Current::Snapshot::none && anybody_else(turn)) {
    current_->snapshot = Current::Snapshot::asked;
    turn.out.push_back(Exchange::MakeSnapshot{current_->round});
  }
  if (current_->snapshot == Current::Snapshot::asked) return;
  TimePoint wait = turn.now;
  const auto consider = [&](const NodeId& peer) {
    if (const auto until = awaited_until(turn, peer)) wait = std::max(wait, *until);
  };
  for (const NodeId& peer : turn.swarm.live_replicas(current_->stage)) {
    if (peer != self_) consider(peer);
  }
  for (const auto& [key, part] : parts_) {
    if (key.first == current_->round) consider(key.second);  // suspected, yet it sends
  }
  if (wait > turn.now) {
    next_deadline_ = wait;
    return;
  }
  Exchange::Average average{.round = current_->round, .exchange = current_->id, .others = {}};
  for (const auto& [key, part] : parts_) {
    if (key.first == current_->round && part.state == Part::State::here) average.others.push_back(part.buffer);
  }
  if (average.others.empty()) return go_solo(turn, anybody_else(turn) ? SoloCause::nobody_answered : SoloCause::alone);
  current_->phase = Phase::applying;
  turn.out.push_back(std::move(average));
}

void GroupExchange::go_solo(Turn& turn, SoloCause cause) {
  current_->phase = Phase::applying;
  current_->solo = cause;
  turn.out.push_back(Exchange::Solo{current_->round, cause});
}

}  // namespace starling::outer
