#include "gossip/outer/catch_up.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "gossip/outer/pairing.h"

namespace starling::outer {
namespace {

constexpr std::uint8_t phi_part = 0;
constexpr std::uint8_t momentum_part = 3;
constexpr std::uint8_t theta_part = 4;
constexpr std::uint8_t last_part = theta_part;
constexpr std::uint8_t last_encoding = 1;

constexpr std::uint8_t bit(std::uint8_t part) { return static_cast<std::uint8_t>(1U << part); }

// What an exchange changes: copied again when the donor went through one meanwhile.
constexpr std::uint8_t outer_parts = bit(phi_part) | bit(momentum_part) | bit(theta_part);

// How new a peer's backup of this stage is; -1: it has none.
Step backup_step(const membership::Record& record, Stage stage) {
  Step newest = -1;
  for (const membership::BackupHeld& held : record.backups) {
    if (held.stage == stage) newest = std::max(newest, held.step);
  }
  return newest;
}

}  // namespace

std::vector<CatchUp::Action> CatchUp::on(const Event& event, const membership::Swarm& swarm, TimePoint now) {
  std::vector<Action> out;
  Turn turn{swarm, now, out};
  std::visit([&](const auto& e) { handle(turn, e); }, event);
  return out;
}

TimePoint CatchUp::next_deadline() const {
  if (!current_ || current_->phase == Phase::loading) return never;
  const TimePoint repeat = current_->info ? never : current_->ask_again;
  return earliest(patience_ends(), repeat);
}

TimePoint CatchUp::patience_ends() const {
  if (current_->phase == Phase::asking) return current_->asked_at + config_.answer_wait;
  return current_->moved_at + config_.total_wait;
}

void CatchUp::handle(Turn& turn, const Start& event) {
  if (current_) refuse_moving(turn);
  current_.emplace();
  current_->start = event;
  current_->donors = order_donors(event, turn.swarm);
  next_donor(turn);
}

std::vector<NodeId> CatchUp::order_donors(const Start& start, const membership::Swarm& swarm) const {
  using Merit = std::tuple<std::int64_t, std::uint64_t, NodeId>;  // smaller is better
  std::vector<Merit> order;
  const bool copies = start.from == From::backup;
  for (const NodeId& id : copies ? swarm.live_workers() : swarm.live_replicas(start.stage)) {
    if (id == self_) continue;
    const membership::Record& record = swarm.find(id)->record;
    const std::int64_t age = copies ? backup_step(record, start.stage) : record.round;
    if (copies && age < 0) continue;
    order.emplace_back(-age, edge_rank(0, 0, self_, id), id);
  }
  std::sort(order.begin(), order.end());
  if (order.size() > config_.max_donors) order.resize(config_.max_donors);
  std::vector<NodeId> donors;
  for (const Merit& merit : order) donors.push_back(std::get<NodeId>(merit));
  return donors;
}

void CatchUp::next_donor(Turn& turn) {
  refuse_moving(turn);
  Current& current = *current_;
  while (!current.donors.empty()) {
    current.donor = current.donors.front();
    current.donors.erase(current.donors.begin());
    if (turn.swarm.is_live(current.donor)) return ask(turn, current.start.parts);
  }
  if (current.older) {
    Copy copy = *std::exchange(current.older, std::nullopt);
    current.donor = copy.donor;
    current.info = std::move(copy.info);
    current.parts = std::move(copy.parts);
    return load(turn);
  }
  turn.out.push_back(Exhausted{current.start.stage, current.start.from});
  current_.reset();
}

void CatchUp::ask(Turn& turn, std::uint8_t parts) {
  current_->phase = Phase::asking;
  current_->first_request = counter_ + 1;
  current_->heard = 0;
  current_->wanted = parts;
  current_->info.reset();
  current_->parts.clear();
  current_->asked_at = turn.now;
  send_request(turn);
}

void CatchUp::send_request(Turn& turn) {
  using Source = net::StateRequest::Source;
  // Rounded up, so that the wait is over before one request too many is due.
  current_->ask_again = turn.now + config_.answer_wait / config_.requests + Duration(1);
  const Source source = current_->start.from == From::backup ? Source::backup : Source::live;
  current_->last_request = ++counter_;
  const net::StateRequest request{source, counter_, current_->start.stage, current_->wanted};
  turn.out.push_back(Send{current_->donor, request});
}

void CatchUp::handle(Turn& turn, const InfoCame& event) {
  if (!current_ || current_->phase == Phase::loading || current_->info) return;
  if (event.from != current_->donor || !counts(turn, event.info.request)) return;
  const auto parts = static_cast<std::uint8_t>(event.info.parts & current_->wanted);
  if (event.info.stage != current_->start.stage || (parts & bit(phi_part)) == 0) return next_donor(turn);
  current_->phase = Phase::receiving;
  current_->moved_at = turn.now;
  current_->info = event.info;
  current_->info->parts = parts;
  load_when_complete(turn);
}

void CatchUp::handle(Turn& turn, const PartOffered& event) {
  const auto refuse = [&](net::RefuseCode code) {
    turn.out.push_back(RefuseOffer{event.from, event.offer.transfer, code});
  };
  const auto* part = std::get_if<net::StatePart>(&event.offer.about);
  if (part == nullptr) return refuse(net::RefuseCode::malformed);
  if (!current_ || current_->phase == Phase::loading || event.from != current_->donor || !counts(turn, part->request)) {
    return refuse(net::RefuseCode::stale);
  }
  // Its StateInfo may have been lost; what was asked for is welcome all the same.
  const std::uint8_t welcome = current_->info ? current_->info->parts : current_->wanted;
  if (part->stage != current_->start.stage || part->part > last_part || (welcome & bit(part->part)) == 0 ||
      part->encoding > last_encoding || event.offer.bytes != event.expected_bytes) {
    refuse(net::RefuseCode::malformed);
    return next_donor(turn);
  }
  const auto [known, is_new] =
      current_->parts.try_emplace(part->part, Incoming{event.offer.transfer, part->encoding, nullptr});
  if (known->second.transfer != event.offer.transfer || known->second.buffer) {
    return refuse(net::RefuseCode::duplicate);
  }
  current_->phase = Phase::receiving;
  current_->moved_at = turn.now;
  turn.out.push_back(TakeOffer{event.from, event.offer});
}

void CatchUp::handle(Turn& turn, const PartCame& event) {
  if (!current_ || current_->phase != Phase::receiving) return;
  if (event.from != current_->donor || event.part.request != current_->heard) return;
  const auto part = current_->parts.find(event.part.part);
  if (part == current_->parts.end() || part->second.buffer) return;
  STARLING_CHECK(event.buffer != nullptr, "a part without bytes was delivered");
  part->second.buffer = event.buffer;
  current_->moved_at = turn.now;
  load_when_complete(turn);
}

void CatchUp::handle(Turn& turn, const PartFailed& event) {
  if (!current_ || current_->phase == Phase::loading) return;
  if (event.from != current_->donor || event.part.request != current_->heard) return;
  const auto part = current_->parts.find(event.part.part);
  if (part == current_->parts.end() || part->second.buffer) return;
  current_->parts.erase(part);
  next_donor(turn);
}

void CatchUp::handle(Turn& turn, const PeerGone& event) {
  if (current_ && current_->phase != Phase::loading && event.peer == current_->donor) next_donor(turn);
}

void CatchUp::handle(Turn& turn, const Loaded& event) {
  if (!current_ || current_->phase != Phase::loading) return;
  if (!event.good) return next_donor(turn);
  if (donor_went_on(turn)) return refresh(turn);
  turn.out.push_back(Finished{current_->start.stage, current_->donor, *current_->info});
  current_.reset();
}

void CatchUp::handle(Turn& turn, const Cancelled&) {
  if (current_) refuse_moving(turn);
  current_.reset();
}

void CatchUp::handle(Turn& turn, const Tick&) {
  if (!current_ || current_->phase == Phase::loading) return;
  if (turn.now >= patience_ends()) return next_donor(turn);
  if (!current_->info && turn.now >= current_->ask_again) send_request(turn);
}

void CatchUp::load_when_complete(Turn& turn) {
  if (!current_->info) return;
  for (std::uint8_t part = 0; part <= last_part; ++part) {
    if ((current_->info->parts & bit(part)) == 0) continue;
    const auto here = current_->parts.find(part);
    if (here == current_->parts.end() || !here->second.buffer) return;
  }
  if (donor_went_on(turn)) return refresh(turn);
  if (current_->older && current_->older->donor == current_->donor && current_->wanted == outer_parts) {
    // What the round changed, and the optimizer's state from before.
    for (auto& [part, incoming] : current_->older->parts) current_->parts.try_emplace(part, incoming);
    current_->info->adam_steps = current_->older->info.adam_steps;
    current_->info->parts = current_->older->info.parts;
  }
  load(turn);
}

// What is here stays as the last resort.
void CatchUp::refresh(Turn& turn) {
  current_->refreshed = true;
  current_->older = Copy{current_->donor, *current_->info, std::move(current_->parts)};
  ask(turn, outer_parts);
}

void CatchUp::load(Turn& turn) {
  current_->phase = Phase::loading;
  Load load{.stage = current_->start.stage, .info = *current_->info, .parts = {}, .encodings = {}};
  for (const auto& [part, incoming] : current_->parts) {
    if (!incoming.buffer) continue;
    load.parts[part] = incoming.buffer;
    load.encodings[part] = incoming.encoding;
  }
  turn.out.push_back(std::move(load));
}

// Whether an answer to this request may be used: the newest one of which anything came, until its numbers are here.
bool CatchUp::counts(Turn& turn, std::uint64_t request) {
  if (request < current_->first_request || request > current_->last_request) return false;
  if (request == current_->heard) return true;
  if (current_->info || request < current_->heard) return false;
  refuse_moving(turn);
  current_->heard = request;
  return true;
}

// Its slow weights have moved since it made this copy.
bool CatchUp::donor_went_on(const Turn& turn) const {
  if (current_->start.from == From::backup || current_->refreshed) return false;
  const membership::Peer* donor = turn.swarm.find(current_->donor);
  return donor != nullptr && turn.swarm.is_live(current_->donor) && donor->record.round > current_->info->round;
}

void CatchUp::refuse_moving(Turn& turn) {
  for (const auto& [part, incoming] : current_->parts) {
    if (incoming.buffer) continue;
    turn.out.push_back(RefuseOffer{current_->donor, incoming.transfer, net::RefuseCode::stale});
  }
  current_->parts.clear();
}

}  // namespace starling::outer
