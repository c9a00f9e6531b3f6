#include "gossip/outer/catch_up.h"

#include <algorithm>
#include <utility>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::outer {

struct CatchUp::Current {
  enum class State { asking, receiving, loading } state = State::asking;
  Stage stage = 0;
  From from = From::replica;
  std::uint8_t wanted = 7;
  std::set<NodeId> tried;
  NodeId donor;
  std::uint64_t request = 0;
  net::StateInfo info;
  std::map<std::uint8_t, Buffer> parts;
  std::map<std::uint8_t, std::uint8_t> encodings;
  TimePoint give_up_at = never;
  bool refreshed = false;                // phi was copied a second time
};

namespace {

using Swarm = membership::Swarm;

// Replicas by round, newest first; holders of backups by age, newest first; ties in an order of self's own.
std::vector<NodeId> donors(const Swarm& swarm, Stage stage, CatchUp::From from, const NodeId& self) {
  std::vector<std::tuple<std::int64_t, std::uint64_t, NodeId>> ranked;
  for (const NodeId& id : swarm.live_workers()) {
    const membership::Record& record = swarm.find(id)->record;
    if (id == self) continue;
    const std::uint64_t tie = xxh3_64(id.key, xxh3_64(self.key));
    if (from == CatchUp::From::replica) {
      if (record.stage == stage) ranked.emplace_back(-record.round, tie, id);
      continue;
    }
    for (const membership::BackupHeld& held : record.backups) {
      if (held.stage == stage) ranked.emplace_back(-held.step, tie, id);
    }
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<NodeId> out;
  for (const auto& [rank, tie, id] : ranked) out.push_back(id);
  return out;
}

}  // namespace

bool CatchUp::busy() const { return current_ != nullptr; }

TimePoint CatchUp::next_deadline() const { return current_ ? current_->give_up_at : never; }

// The next donor that was not tried, or Exhausted.
static std::optional<NodeId> next_donor(const std::vector<NodeId>& all, const std::set<NodeId>& tried, std::size_t most) {
  if (tried.size() >= most) return std::nullopt;
  const auto it = std::find_if(all.begin(), all.end(), [&](const NodeId& id) { return !tried.contains(id); });
  return it == all.end() ? std::nullopt : std::optional(*it);
}

std::vector<CatchUp::Action> CatchUp::on(const Event& event, const membership::Swarm& swarm, TimePoint now) {
  std::vector<Action> out;
  const auto ask_next = [&] {
    const auto donor = next_donor(donors(swarm, current_->stage, current_->from, self_), current_->tried, config_.max_donors);
    if (!donor) {
      const Exhausted over{current_->stage, current_->from};
      current_.reset();
      out.emplace_back(over);
      return;
    }
    current_->state = Current::State::asking;
    current_->donor = *donor;
    current_->tried.insert(*donor);
    current_->request = ++counter_;
    current_->parts.clear();
    current_->encodings.clear();
    current_->give_up_at = now + config_.answer_wait;
    out.emplace_back(Send{*donor, net::StateRequest{.source = current_->from == From::replica
                                                                  ? net::StateRequest::Source::live
                                                                  : net::StateRequest::Source::backup,
                                                    .request = current_->request,
                                                    .stage = current_->stage,
                                                    .parts = current_->wanted}});
  };
  const auto ours = [&](const NodeId& from, const net::StatePart& part) {
    return current_ && current_->state == Current::State::receiving && current_->donor == from &&
           current_->request == part.request && current_->stage == part.stage;
  };
  if (const auto* start = std::get_if<Start>(&event)) {
    current_ = std::make_shared<Current>();
    current_->stage = start->stage;
    current_->from = start->from;
    current_->wanted = start->parts;
    ask_next();
  } else if (const auto* came = std::get_if<InfoCame>(&event)) {
    if (!current_ || current_->state != Current::State::asking || came->from != current_->donor ||
        came->info.request != current_->request) {
      return out;
    }
    if ((came->info.parts & 1) == 0 || came->info.stage != current_->stage) {
      ask_next();
    } else {
      current_->info = came->info;
      current_->state = Current::State::receiving;
      current_->give_up_at = now + config_.total_wait;
    }
  } else if (const auto* offered = std::get_if<PartOffered>(&event)) {
    const auto* part = std::get_if<net::StatePart>(&offered->offer.about);
    STARLING_CHECK(part != nullptr, "only state parts are offered here");
    // An offer may overtake the info that announces it: both come from the donor that was asked.
    const bool asked = current_ && current_->state != Current::State::loading && current_->donor == offered->from &&
                       current_->request == part->request && current_->stage == part->stage;
    const bool wanted = asked && part->part < 3 && ((current_->wanted >> part->part) & 1) != 0;
    if (!wanted) {
      out.emplace_back(RefuseOffer{offered->from, offered->offer.transfer, net::RefuseCode::stale});
    } else if (offered->offer.bytes != offered->expected_bytes) {
      out.emplace_back(RefuseOffer{offered->from, offered->offer.transfer, net::RefuseCode::malformed});
      ask_next();
    } else {
      out.emplace_back(TakeOffer{offered->from, offered->offer});
    }
  } else if (const auto* part = std::get_if<PartCame>(&event)) {
    if (!ours(part->from, part->part)) return out;
    current_->parts[part->part.part] = part->buffer;
    current_->encodings[part->part.part] = part->part.encoding;
    current_->give_up_at = now + config_.total_wait;
    bool complete = true;
    for (std::uint8_t number = 0; number < 3; ++number) {
      if (((current_->info.parts >> number) & 1) != 0 && !current_->parts.contains(number)) complete = false;
    }
    if (!complete) return out;
    const membership::Peer* donor = swarm.find(current_->donor);
    const bool round_ended = current_->from == From::replica && donor != nullptr && donor->record.round > current_->info.round;
    if (round_ended && !current_->refreshed) {
      current_->refreshed = true;
      current_->tried.erase(current_->donor);
      ask_next();
      return out;
    }
    current_->state = Current::State::loading;
    current_->give_up_at = never;
    out.emplace_back(Load{current_->stage, current_->info, current_->parts, current_->encodings});
  } else if (const auto* failed = std::get_if<PartFailed>(&event)) {
    if (ours(failed->from, failed->part)) ask_next();
  } else if (const auto* gone = std::get_if<PeerGone>(&event)) {
    if (current_ && current_->state != Current::State::loading && current_->donor == gone->peer) ask_next();
  } else if (const auto* loaded = std::get_if<Loaded>(&event)) {
    if (!current_ || current_->state != Current::State::loading) return out;
    if (!loaded->good) {
      ask_next();
    } else {
      const Finished finished{current_->stage, current_->donor, current_->info};
      current_.reset();
      out.emplace_back(finished);
    }
  } else if (std::holds_alternative<Cancelled>(event)) {
    current_.reset();
  }
  if (current_ && current_->give_up_at <= now) ask_next();
  return out;
}

}  // namespace starling::outer
