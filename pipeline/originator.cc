#include "pipeline/originator.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace starling::pipeline {
namespace {

constexpr std::int64_t most_shares = 4;              // x training.microbatches
constexpr double equal_speeds = 1.25;
constexpr Step lead_steps = 2;
constexpr double lead_taus = 2.0;
constexpr Duration first_give_up_age = std::chrono::seconds(60);
constexpr double first_give_up_taus = 6.0;
constexpr double lowest_speed_factor = 0.3;
constexpr double cut_short = 0.85;
constexpr double recovery = 1.05;

struct Share {
  NodeId id;
  Slot slot;
  double speed;
  std::int64_t count = 0;
};

void share_equally(std::vector<Share>& shares, std::int64_t batch) {
  const auto n = static_cast<std::int64_t>(shares.size());
  for (std::int64_t i = 0; i < n; ++i) shares[static_cast<std::size_t>(i)].count = batch / n + (i < batch % n ? 1 : 0);
}

// At least one each, the rest by speed, remainders to the largest fraction (then the lowest slot).
void share_by_speed(std::vector<Share>& shares, std::int64_t batch) {
  double total = 0.0;
  for (const Share& share : shares) total += share.speed;
  const auto n = static_cast<std::int64_t>(shares.size());
  const auto spare = static_cast<double>(std::max<std::int64_t>(0, batch - n));
  std::vector<std::pair<double, std::size_t>> fractions;
  std::int64_t given = 0;
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const double exact = spare * shares[i].speed / total;
    shares[i].count = 1 + static_cast<std::int64_t>(std::floor(exact));
    given += shares[i].count;
    fractions.emplace_back(-(exact - std::floor(exact)), i);
  }
  std::sort(fractions.begin(), fractions.end());
  for (std::size_t i = 0; given < batch && i < fractions.size(); ++i, ++given) ++shares[fractions[i].second].count;
}

}  // namespace

std::map<NodeId, std::int64_t> batch_shares(const membership::Swarm& swarm, Routing routing, std::int64_t microbatches,
                                            std::int64_t replicas) {
  std::vector<Share> shares;
  double slowest = std::numeric_limits<double>::infinity();
  double fastest = 0.0;
  for (const NodeId& id : swarm.live_originators()) {
    const membership::Record& record = swarm.find(id)->record;
    const double speed = record.microbatch_seconds > 0.0 ? 1.0 / record.microbatch_seconds : 0.0;
    slowest = std::min(slowest, speed);
    fastest = std::max(fastest, speed);
    shares.push_back({id, record.slot, speed});
  }
  std::map<NodeId, std::int64_t> out;
  if (shares.empty()) return out;
  std::sort(shares.begin(), shares.end(), [](const Share& a, const Share& b) {
    return std::tie(a.slot, a.id) < std::tie(b.slot, b.id);
  });
  const std::int64_t batch = microbatches * replicas;
  // Somebody not measured yet counts as equal.
  if (routing == Routing::permutation || slowest <= 0.0 || fastest <= equal_speeds * slowest) {
    share_equally(shares, batch);
  } else {
    share_by_speed(shares, batch);
  }
  for (const Share& share : shares) out[share.id] = std::clamp<std::int64_t>(share.count, 1, most_shares * microbatches);
  return out;
}

std::string missing_to_start(const membership::Swarm& swarm, std::int64_t stages, std::int64_t start_workers) {
  std::string missing;
  const auto live = static_cast<std::int64_t>(swarm.live_workers().size());
  if (live < start_workers) {
    missing = std::to_string(start_workers - live) + " of " + std::to_string(start_workers) + " workers";
  }
  for (Stage stage = 0; stage < static_cast<Stage>(stages); ++stage) {
    if (!swarm.live_replicas(stage).empty()) continue;
    missing += (missing.empty() ? "" : ", ") + std::string("a worker for stage ") + std::to_string(stage);
  }
  return missing;
}

Originator::Originator(Config config) : config_(config), first_age_(first_give_up_age) {}

std::vector<Originator::Action> Originator::on(const Event& event, const membership::Swarm& swarm, const Clock& clock,
                                               TimePoint now) {
  if (clock.tau) first_age_ = scale(*clock.tau, first_give_up_taus) + std::chrono::seconds(1);
  std::vector<Action> out;
  if (const auto* completed = std::get_if<Completed>(&event)) {
    finish(completed->microbatch, now);
  } else if (const auto* lost = std::get_if<Lost>(&event)) {
    open_.erase(lost->microbatch);
  } else if (std::holds_alternative<ClosedByDeadline>(event)) {
    speed_factor_ = std::max(lowest_speed_factor, speed_factor_ * cut_short);
  } else if (std::holds_alternative<ClosedInTime>(event)) {
    speed_factor_ = std::min(1.0, speed_factor_ * recovery);
  } else if (std::holds_alternative<StoppedAll>(event)) {
    // Indices of this step that were used stay used: hops may still know them.
    open_.clear();
    share_said_ = false;
  }
  // Completions have told better since: one that is lost in the first step must not hold it for a minute.
  for (auto& [id, open] : open_) {
    const auto& samples = open.pace == Pace::ahead ? completion_ahead_ : completion_;
    if (open.guessed && !samples.empty() && open.give_up_at != never) {
      open.give_up_at = std::min(open.give_up_at, open.started + give_up_age(open.pace));
    }
  }
  std::vector<MicrobatchId> given_up;
  for (const auto& [id, open] : open_) {
    if (open.give_up_at <= now) given_up.push_back(id);
  }
  // Those that run out together are one give-up: what starts next must not wait 1.2^8 times as long for eight of them.
  if (!given_up.empty()) give_up_factor_ = std::min(64.0, give_up_factor_ * 1.2);
  for (const MicrobatchId& id : given_up) {
    open_.erase(id);
    out.emplace_back(GiveUp{id});
  }
  start_some(swarm, clock, now, out);
  return out;
}

void Originator::finish(const MicrobatchId& id, TimePoint now) {
  const auto it = open_.find(id);
  if (it == open_.end()) return;
  (it->second.pace == Pace::ahead ? completion_ahead_ : completion_).add(now - it->second.started);
  give_up_factor_ = std::max(1.0, give_up_factor_ * 0.8);
  open_.erase(it);
}

Duration Originator::give_up_age(Pace pace) const {
  const auto& samples = pace == Pace::ahead ? completion_ahead_ : completion_;
  if (samples.empty()) return scale(first_age_, give_up_factor_);
  return scale(samples.value() * 3 + std::chrono::seconds(1), give_up_factor_);
}

std::int64_t Originator::in_flight_limit(const Clock& clock) const {
  if (config_.max_in_flight) return std::min(*config_.max_in_flight, config_.memory_microbatches);
  std::int64_t wanted = 2 * config_.stages;
  if (!completion_.empty() && clock.own_seconds > 0.0) {
    wanted = std::max(wanted, static_cast<std::int64_t>(std::ceil(1.5 * seconds(completion_.value()) / clock.own_seconds)));
  }
  return std::max<std::int64_t>(1, std::min(wanted, config_.memory_microbatches));
}

void Originator::start_some(const membership::Swarm& swarm, const Clock& clock, TimePoint now, std::vector<Action>& out) {
  lead_bound_ends_ = never;
  if (clock.paused || clock.step > config_.last_step) return;
  if (clock.step != step_) {
    step_ = clock.step;
    started_ = 0;
    share_ = 0;
    share_said_ = false;
    sharers_.clear();
  }
  if (config_.give_ups == GiveUps::on && clock.step > clock.done_half + lead_steps) {
    if (!clock.tau) return;
    const TimePoint ends = clock.began + scale(*clock.tau, lead_taus);
    if (now < ends) {
      lead_bound_ends_ = ends;
      return;
    }
  }
  // Once a step, and again when somebody is gone or new: reports of speed go up and down, and a share that followed them
  // would be the largest of them all, as what was started stays started.
  if (const auto sharers = swarm.live_originators(); sharers != sharers_) {
    const auto shares = batch_shares(swarm, config_.routing, config_.microbatches, config_.replicas);
    const auto own = shares.find(config_.self);
    share_ = own == shares.end() ? 0 : own->second;
    sharers_ = sharers;
  }
  const std::int64_t limit = in_flight_limit(clock);
  while (started_ < share_ && static_cast<std::int64_t>(open_.size()) < limit) {
    const MicrobatchId id{config_.self, config_.boot, step_, static_cast<std::uint32_t>(started_++)};
    const Pace pace = step_ > clock.done_half + 1 ? Pace::ahead : Pace::with_the_swarm;
    const Duration age = give_up_age(pace);
    const bool guessed = (pace == Pace::ahead ? completion_ahead_ : completion_).empty();
    open_.emplace(id, Open{now, pace, config_.give_ups == GiveUps::on ? now + age : never, guessed});
    out.emplace_back(Start{id, age});
  }
  if (started_ >= share_ && share_ > 0 && !share_said_) {
    share_said_ = true;
    out.emplace_back(ShareStarted{step_});
  }
}

TimePoint Originator::next_deadline() const {
  TimePoint at = lead_bound_ends_;
  for (const auto& [id, open] : open_) at = earliest(at, open.give_up_at);
  return at;
}

}  // namespace starling::pipeline
