#include "pipeline/run_end.h"

#include <algorithm>

namespace starling::pipeline {
namespace {

constexpr Step steps_until_end = 2;
constexpr Duration between_tries = std::chrono::seconds(10);

}  // namespace

NodeId lead_of(const membership::Swarm& swarm) {
  const auto live = swarm.live_originators();
  return live.empty() ? NodeId{} : live.front();
}

std::vector<RunEnd::Action> RunEnd::on(const Event& event, const membership::Swarm& swarm, Step step, TimePoint now) {
  std::vector<Action> out;
  if (exited_) return out;
  next_ = never;
  if (std::holds_alternative<TrainingEnded>(event) && !ended_at_) {
    ended_at_ = now;
  } else if (std::holds_alternative<EvalDone>(event)) {
    if (!finished_at_) {
      finished_at_ = now;
      out.emplace_back(PublishFinished{});
    }
  } else if (std::holds_alternative<FinishWished>(event)) {
    finish_wished_ = true;
  } else if (const auto* late = std::get_if<WokeLate>(&event)) {
    for (auto* at : {&ended_at_, &finished_at_, &alone_since_, &leaderless_since_}) {
      if (*at) **at += late->gap;
    }
  }
  look_for_last_step(swarm, step, out);
  look_for_end_without_training(swarm, now, out);
  look_for_end(swarm, now, out);
  if (!exited_) look_for_loneliness(swarm, now, out);
  return out;
}

void RunEnd::look_for_last_step(const membership::Swarm& swarm, Step step, std::vector<Action>& out) {
  Step smallest = 0;
  for (const auto& [id, peer] : swarm.peers) {
    const Step said = peer.record.last_step;
    if (said > 0 && (smallest == 0 || said < smallest)) smallest = said;
  }
  const bool enough = config_.max_tokens && swarm.total_tokens() >= *config_.max_tokens;
  if ((enough || finish_wished_) && smallest == 0 && published_ == 0 && lead_of(swarm) == config_.self) {
    published_ = smallest = step + steps_until_end;
    out.emplace_back(PublishLastStep{published_});
  }
  if (smallest != 0 && smallest != last_step_) {
    last_step_ = smallest;
    out.emplace_back(LastStepIs{smallest});
  }
}

void RunEnd::look_for_end_without_training(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  if (!finish_wished_ || finished_at_) return;
  const bool leaderless = lead_of(swarm).is_null();
  if (!leaderless) leaderless_since_.reset();
  if (leaderless && !leaderless_since_) leaderless_since_ = now;
  const bool begun = swarm.largest_done() > 0;
  if (!begun || (leaderless && now - *leaderless_since_ >= config_.lead_wait)) {
    finished_at_ = now;
    out.emplace_back(PublishFinished{});
  } else if (leaderless) {
    next_ = *leaderless_since_ + config_.lead_wait;
  }
}

void RunEnd::look_for_end(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  if (!finished_at_) {
    const bool seen = std::any_of(swarm.peers.begin(), swarm.peers.end(),
                                  [](const auto& entry) { return entry.second.record.finished; });
    if (seen) finished_at_ = now;
  }
  if (finished_at_) {
    const TimePoint leave = *finished_at_ + config_.spread;
    next_ = leave;
    if (now >= leave) {
      exited_ = true;
      out.emplace_back(Exit{Exit::Why::finished});
    }
    return;
  }
  if (!ended_at_ || eval_asked_) return;
  const auto live = swarm.live_originators();
  const auto place = std::find(live.begin(), live.end(), config_.self);
  if (place == live.end()) return;
  const TimePoint due = *ended_at_ + config_.lead_wait * (place - live.begin());
  next_ = due;
  if (now >= due) {
    eval_asked_ = true;
    next_ = never;
    out.emplace_back(RunLastEval{});
  }
}

void RunEnd::look_for_loneliness(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out) {
  const membership::Peer* self = swarm.find(config_.self);
  const bool originator = self != nullptr && self->record.stage == 0 && self->record.role == membership::Role::worker;
  const bool others = std::any_of(swarm.peers.begin(), swarm.peers.end(), [&](const auto& entry) {
    return entry.first != config_.self && swarm.is_live(entry.first);
  });
  if (others || originator || config_.part == Config::Part::observer) {
    alone_since_.reset();
    return;
  }
  if (!alone_since_) {
    alone_since_ = now;
    next_try_ = now;
  }
  if (now - *alone_since_ >= config_.alone) {
    exited_ = true;
    out.emplace_back(Exit{Exit::Why::alone});
    return;
  }
  if (now >= next_try_) {
    next_try_ = now + between_tries;
    out.emplace_back(TryPeers{});
  }
  next_ = earliest(next_, earliest(next_try_, *alone_since_ + config_.alone));
}

}  // namespace starling::pipeline
