#include "pipeline/stage_step.h"

#include <algorithm>
#include <utility>

#include "gossip/base/error.h"

namespace starling::pipeline {
namespace {

constexpr double ewma_weight = 1.0 / 8.0;
constexpr Step remembered_steps = 8;      // of gradients that were added, per originator
constexpr Step oldest_useful_steps = 2;   // a gradient of weights older than this is dropped
constexpr double close_delay_taus = 0.25;
constexpr double least_share_of_usual_tokens = 0.25;
constexpr Duration eta_before_first_measurement = std::chrono::seconds(1);

double ewma(double old_value, double sample) {
  return old_value == 0.0 ? sample : old_value + ewma_weight * (sample - old_value);
}

int priority(Work work, Purpose purpose) {
  if (work == Work::backward) return 0;
  if (work == Work::loss) return 1;
  return purpose == Purpose::eval ? 2 : 3;
}

}  // namespace

StageStep::StageStep(Config config, TimePoint now) : config_(config), step_began_(now) {}

std::vector<StageStep::Action> StageStep::on(const Event& event, const membership::Swarm& swarm, TimePoint now) {
  Actions out;
  std::visit([&](const auto& e) { handle(e, swarm, now, out); }, event);
  drop_aged(now, out);
  complete_ = complete_ || std::cmp_greater_equal(swarm.live_workers().size(), config_.least_workers);
  update_deadline(swarm, now);
  while (due_to_close(swarm, now)) {
    close(swarm, now, out);
    update_deadline(swarm, now);
  }
  return out;
}

void StageStep::handle(const ArrivalFailed& event, const membership::Swarm&, TimePoint, Actions&) {
  const auto it = kept_.find(event.header.id);
  if (it == kept_.end() || it->second.phase != Phase::arriving) return;
  if (it->second.graph || is_home(event.header)) {
    it->second.phase = Phase::open;
  } else {
    erase(event.header.id);
  }
}

void StageStep::handle(const Started& event, const membership::Swarm&, TimePoint, Actions& out) {
  const Kept kept{.header = event.header, .from = config_.self, .give_up_at = never, .order = ++order_};
  const auto [it, fresh] = kept_.emplace(event.header.id, kept);
  STARLING_CHECK(fresh, "an originator never starts a microbatch twice");
  make_ready(it->second, Work::begin);
  out.emplace_back(Run{});
}

void StageStep::handle(const HereAlready& event, const membership::Swarm&, TimePoint, Actions& out) {
  const auto it = kept_.find(event.microbatch);
  const bool forward = event.direction == Direction::forward;
  // Anything else: it came home on another branch meanwhile.
  if (it == kept_.end() || it->second.phase != Phase::open || it->second.work != (forward ? Work::begin : Work::loss)) return;
  make_ready(it->second, forward ? Work::loss : Work::backward);
  out.emplace_back(Run{});
}

void StageStep::handle(const Freed& event, const membership::Swarm&, TimePoint, Actions&) { erase(event.microbatch); }

void StageStep::handle(const OriginatorGone& event, const membership::Swarm&, TimePoint, Actions& out) {
  std::vector<MicrobatchId> own;
  for (const auto& [id, kept] : kept_) {
    if (id.originator == event.originator) own.push_back(id);
  }
  drop(own, Drop::Why::originator_gone, out);
}

void StageStep::handle(const ShareStarted& event, const membership::Swarm&, TimePoint, Actions&) {
  share_started_ = std::max(share_started_, event.step);
}

void StageStep::handle(const RoundFinished&, const membership::Swarm& swarm, TimePoint now, Actions& out) {
  between_steps_ = false;
  if (!last_round_asked_) {
    begin_step(now, out);
    advance(swarm, now, out);
    return;
  }
  ended_ = true;
  // Evaluation goes on: the lead may have ended before us, and its windows are here already.
  std::vector<MicrobatchId> training;
  for (const auto& [id, kept] : kept_) {
    if (kept.header.purpose == Purpose::train) training.push_back(id);
  }
  drop(training, Drop::Why::stale, out);
  out.emplace_back(TrainingEnded{});
}

void StageStep::handle(const SumsDropped&, const membership::Swarm&, TimePoint, Actions&) {
  body_tokens_ = head_tokens_ = 0;
}

void StageStep::handle(const Adopted& event, const membership::Swarm&, TimePoint now, Actions& out) {
  drop_all(Drop::Why::stopped, out);
  body_tokens_ = head_tokens_ = 0;
  config_.stage = event.stage;
  config_.kept_bytes = event.kept_bytes;
  step_ = event.step;
  if (event.tau > Duration::zero()) tau_ = event.tau;
  complete_ = complete_ || event.step > 1;
  share_started_ = 0;
  between_steps_ = false;
  work_seconds_.clear();
  usual_tokens_ = 0.0;
  begin_step(now, out);
  jumped_ = true;
}

void StageStep::handle(const Stopped&, const membership::Swarm&, TimePoint, Actions& out) {
  between_steps_ = true;
  close_at_ = never;
  drop_all(Drop::Why::stopped, out);
}

void StageStep::handle(const LastStepSet& event, const membership::Swarm&, TimePoint, Actions& out) {
  config_.last_step = event.last_step;
  if (step_ > config_.last_step && !between_steps_ && !ended_) end_round(step_ - 1, out);
}

void StageStep::handle(const WokeLate& event, const membership::Swarm&, TimePoint, Actions& out) {
  step_began_ += event.gap;
  close_at_ = never;
  drop_all(Drop::Why::given_up, out);
}

TimePoint StageStep::next_deadline() const {
  // A close that is due but waits for the device is looked at again when the device answers.
  TimePoint at = adding_ > 0 || between_steps_ || ended_ ? never : close_at_;
  for (const auto& [id, kept] : kept_) {
    if (kept.phase != Phase::computing) at = earliest(at, kept.give_up_at);
  }
  return at;
}

// ---------------------------------------------------------------- microbatches

bool StageStep::is_home(const MicrobatchHeader& header) const {
  return header.id.originator == config_.self && header.direction == Direction::forward;
}

std::optional<net::RefuseCode> StageStep::judge_home(const MicrobatchHeader& header) const {
  const auto it = kept_.find(header.id);
  // Gone, or another branch came home first.
  if (it == kept_.end() || it->second.phase != Phase::open || it->second.work != Work::begin) {
    return net::RefuseCode::done;
  }
  return std::nullopt;
}

std::optional<net::RefuseCode> StageStep::judge_backward(const MicrobatchHeader& header) const {
  const auto it = kept_.find(header.id);
  if (it == kept_.end()) return is_added(header.id) ? net::RefuseCode::done : net::RefuseCode::unknown;
  if (!it->second.graph) return net::RefuseCode::unknown;
  if (it->second.phase != Phase::open) return net::RefuseCode::duplicate;
  if (step_ - it->second.computed_at > oldest_useful_steps) return net::RefuseCode::stale;
  return std::nullopt;
}

std::optional<net::RefuseCode> StageStep::judge(const MicrobatchHeader& header) const {
  if (header.stage != config_.stage) return net::RefuseCode::wrong_stage;
  if (is_home(header)) return judge_home(header);
  if (header.direction == Direction::backward) return judge_backward(header);
  if (originator()) return net::RefuseCode::wrong_stage;
  if (header.purpose == Purpose::eval) {
    return kept_.contains(header.id) ? std::optional(net::RefuseCode::duplicate) : std::nullopt;
  }
  if (ended_) return net::RefuseCode::stale;
  if (is_added(header.id)) return net::RefuseCode::done;
  if (kept_.contains(header.id)) return net::RefuseCode::duplicate;
  if (header.id.step + oldest_useful_steps < step_) return net::RefuseCode::stale;
  return std::nullopt;
}

void StageStep::handle(const Offered& event, const membership::Swarm&, TimePoint now, Actions& out) {
  const MicrobatchHeader& header = event.header;
  std::optional<net::RefuseCode> refused = judge(header);
  const bool newcomer = !is_home(header) && header.direction == Direction::forward;
  if (!refused && newcomer && header.purpose == Purpose::train && !make_room(header.id.step, out)) {
    refused = net::RefuseCode::full;
  }
  if (refused) {
    if (*refused == net::RefuseCode::stale && kept_.contains(header.id)) {
      out.emplace_back(Drop{header.id, Drop::Why::stale, std::nullopt});
      erase(header.id);
    }
    out.emplace_back(Refuse{event.from, event.transfer, *refused, header});
    return;
  }
  if (newcomer) {
    const Duration left = std::max(Duration::zero(), header.give_up_age - header.age);
    kept_.emplace(header.id, Kept{.header = header,
                                  .from = event.from,
                                  .give_up_at = config_.deadlines == Deadlines::on ? now + left : never,
                                  .order = ++order_});
  } else {
    kept_.at(header.id).phase = Phase::arriving;
  }
  out.emplace_back(Take{event.from, event.transfer});
}

void StageStep::handle(const Arrived& event, const membership::Swarm&, TimePoint now, Actions& out) {
  const auto it = kept_.find(event.header.id);
  const Direction direction = event.header.direction;
  // Freed while its bytes travelled: acknowledged all the same, the sender has nothing more to do.
  if (it == kept_.end() || it->second.phase != Phase::arriving) {
    out.emplace_back(Acknowledge{event.from, event.transfer, Duration::zero()});
    return;
  }
  Kept& kept = it->second;
  const Duration wait = eta(direction, event.header.id.step, now);
  kept.header = event.header;
  kept.from = event.from;
  if (is_home(event.header)) {
    make_ready(kept, Work::loss);
  } else if (direction == Direction::backward) {
    make_ready(kept, Work::backward);
  } else if (event.header.purpose == Purpose::train && event.header.id.step > step_) {
    kept.phase = Phase::held;
  } else {
    make_ready(kept, Work::forward);
  }
  out.emplace_back(Acknowledge{event.from, event.transfer, wait});
  out.emplace_back(Run{});
}

void StageStep::handle(const Computed& event, const membership::Swarm&, TimePoint, Actions& out) {
  work_seconds_[event.work] = ewma(seconds_of(event.work), event.compute_seconds);
  const bool adds = event.purpose == Purpose::train && (event.work == Work::loss || event.work == Work::backward);
  if (adds) {
    --adding_;
    STARLING_CHECK(adding_ >= 0, "every job on the device was counted");
    if (event.good) (event.work == Work::loss ? head_tokens_ : body_tokens_) += event.tokens;
    if (event.good && event.work == Work::backward) mark_added(event.microbatch);
  }
  const auto it = kept_.find(event.microbatch);
  // Freed while the device worked on it, and perhaps here again; what it added is counted above.
  if (it == kept_.end() || it->second.order != event.visit) return;
  Kept& kept = it->second;
  if (!event.good) {
    out.emplace_back(Drop{event.microbatch, Drop::Why::bad_input, std::nullopt});
    erase(event.microbatch);
    return;
  }
  const bool eval = event.purpose == Purpose::eval;
  const bool over = event.work == Work::backward || (eval && event.work != Work::begin);
  if (over) {
    erase(event.microbatch);
    return;
  }
  kept.phase = Phase::open;
  if (event.work == Work::begin || event.work == Work::forward) {
    kept.graph = !eval;
    kept.computed_at = step_;
  }
}

void StageStep::make_ready(Kept& kept, Work work) {
  kept.phase = Phase::ready;
  kept.work = work;
  ready_.emplace(ReadyKey{priority(work, kept.header.purpose), kept.header.id.step, kept.order}, kept.header.id);
}

std::optional<StageStep::NextWork> StageStep::next_work() {
  for (auto it = ready_.begin(); it != ready_.end(); ++it) {
    Kept& kept = kept_.at(it->second);
    const bool train = kept.header.purpose == Purpose::train;
    const bool adds = train && (kept.work == Work::loss || kept.work == Work::backward);
    // The first work of the next step comes after the exchange.
    if (train && !adds && between_steps_) continue;
    if (adds) ++adding_;
    kept.phase = Phase::computing;
    ready_.erase(it);
    return NextWork{kept.header, kept.work, kept.order};
  }
  return std::nullopt;
}

void StageStep::erase(const MicrobatchId& id) {
  const auto it = kept_.find(id);
  if (it == kept_.end()) return;
  if (it->second.phase == Phase::ready) {
    ready_.erase(ReadyKey{priority(it->second.work, it->second.header.purpose), id.step, it->second.order});
  }
  kept_.erase(it);
}

void StageStep::drop(const std::vector<MicrobatchId>& ids, Drop::Why why, Actions& out) {
  for (const MicrobatchId& id : ids) {
    out.emplace_back(why == Drop::Why::stopped ? given_back(id, why) : Drop{id, why, std::nullopt});
    erase(id);
  }
}

// What is open here has been passed on, and what is home is its originator's own.
StageStep::Drop StageStep::given_back(const MicrobatchId& id, Drop::Why why) const {
  const Kept& kept = kept_.at(id);
  if (originator() || kept.phase == Phase::open) return {id, why, std::nullopt};
  return {id, why, Drop::GiveBack{kept.from, kept.header.direction}};
}

void StageStep::drop_all(Drop::Why why, Actions& out) {
  std::vector<MicrobatchId> all;
  for (const auto& [id, kept] : kept_) all.push_back(id);
  drop(all, why, out);
}

void StageStep::drop_aged(TimePoint now, Actions& out) {
  std::vector<MicrobatchId> old;
  for (const auto& [id, kept] : kept_) {
    if (kept.phase != Phase::computing && kept.give_up_at <= now) old.push_back(id);
  }
  drop(old, Drop::Why::given_up, out);
}

std::int64_t StageStep::kept_bytes() const {
  std::int64_t count = 0;
  for (const auto& [id, kept] : kept_) count += kept.header.purpose == Purpose::train ? 1 : 0;
  return count * config_.kept_bytes;
}

// One more microbatch of this step within the limits. Held ones take at most half; for one of the current step the
// youngest held one is given back.
bool StageStep::make_room(Step step, Actions& out) {
  std::int64_t held = 0;
  std::map<std::pair<Step, std::uint64_t>, MicrobatchId> by_age;
  for (const auto& [id, kept] : kept_) {
    if (kept.phase != Phase::held) continue;
    ++held;
    by_age.emplace(std::pair(id.step, kept.order), id);
  }
  const bool later = step > step_;
  if (later && (held + 1) * config_.kept_bytes > config_.memory_bytes / 2) return false;
  if (kept_bytes() + config_.kept_bytes <= config_.memory_bytes) return true;
  if (later || by_age.empty()) return false;
  const MicrobatchId youngest = by_age.rbegin()->second;
  out.emplace_back(given_back(youngest, Drop::Why::displaced));
  erase(youngest);
  return true;
}

bool StageStep::is_added(const MicrobatchId& id) const {
  const auto of = added_.find({id.originator, id.boot});
  if (of == added_.end()) return false;
  if (!of->second.empty() && id.step < of->second.begin()->first &&
      of->second.size() >= static_cast<std::size_t>(remembered_steps)) {
    return true;  // older than what is remembered: treated as added, so that it is never added twice
  }
  const auto step = of->second.find(id.step);
  return step != of->second.end() && step->second.contains(id.index);
}

void StageStep::mark_added(const MicrobatchId& id) {
  auto& steps = added_[{id.originator, id.boot}];
  const bool fresh = steps[id.step].insert(id.index).second;
  STARLING_CHECK(fresh, "a microbatch's gradient is added once");
  while (steps.size() > static_cast<std::size_t>(remembered_steps)) steps.erase(steps.begin());
}

// ---------------------------------------------------------------- the clock

Step StageStep::done_half(const membership::Swarm& swarm) const {
  std::vector<Step> done;
  for (const NodeId& id : swarm.live_originators()) done.push_back(std::max<Step>(0, swarm.find(id)->done));
  if (done.empty()) return 0;
  std::sort(done.begin(), done.end(), std::greater<>());
  const std::size_t live = done.size();
  const std::size_t n = std::max((live + 1) / 2, std::min<std::size_t>(2, live));
  return done[n - 1];
}

bool StageStep::nothing_open_up_to(Step step) const {
  return std::none_of(kept_.begin(), kept_.end(), [&](const auto& entry) {
    return entry.second.header.purpose == Purpose::train && entry.first.step <= step;
  });
}

bool StageStep::all_done(const membership::Swarm& swarm, Step step) const {
  const auto live = swarm.live_originators();
  return !live.empty() && std::all_of(live.begin(), live.end(), [&](const NodeId& id) { return swarm.find(id)->done >= step; });
}

void StageStep::update_deadline(const membership::Swarm& swarm, TimePoint now) {
  const Step half = done_half(swarm);
  if (config_.deadlines == Deadlines::off || between_steps_ || ended_ || half < step_) {
    close_at_ = never;
  } else if (close_at_ != never) {
    return;
  } else if (tau_) {
    close_at_ = now + scale(*tau_, close_delay_taus);
  } else if (half > step_) {
    close_at_ = now;  // no tau to wait by, but half have closed even the next step: what is open here was lost
  }
}

bool StageStep::due_to_close(const membership::Swarm& swarm, TimePoint now) const {
  if (between_steps_ || ended_ || adding_ > 0 || !complete_ || swarm.live_originators().empty()) return false;
  if (close_at_ <= now) return true;
  if (originator()) return share_started_ >= step_ && nothing_open_up_to(step_);
  return all_done(swarm, step_) && nothing_open_up_to(step_);
}

void StageStep::close(const membership::Swarm& swarm, TimePoint now, Actions& out) {
  CloseStep closing{.step = step_, .body_tokens = body_tokens_, .head_tokens = head_tokens_,
                    .by_deadline = close_at_ <= now, .took = now - step_began_};
  const auto tokens = static_cast<double>(std::max(body_tokens_, head_tokens_));
  if (tokens == 0.0) {
    closing.apply = CloseStep::Apply::nothing;
  } else if (config_.deadlines == Deadlines::on && tokens < least_share_of_usual_tokens * usual_tokens_) {
    closing.apply = CloseStep::Apply::keep_sum;
  } else {
    closing.apply = CloseStep::Apply::step;
    usual_tokens_ = ewma(usual_tokens_, tokens);
    body_tokens_ = head_tokens_ = 0;
  }
  if (!jumped_) {
    const double sample = seconds(closing.took);
    tau_ = from_seconds(tau_ ? ewma(seconds(*tau_), sample) : sample);
  }
  jumped_ = false;
  close_at_ = never;
  out.emplace_back(closing);
  if (originator()) out.emplace_back(AnnounceDone{closing.step});
  step_ = closing.step + 1;
  if (closing.step % config_.local_steps == 0 || closing.step >= config_.last_step) {
    end_round(closing.step, out);
    return;
  }
  begin_step(now, out);
  advance(swarm, now, out);
}

void StageStep::end_round(Step closed, Actions& out) {
  between_steps_ = true;
  last_round_asked_ = closed >= config_.last_step;
  out.emplace_back(EndRound{(closed - 1) / config_.local_steps + 1, closed, last_round_asked_});
}

// Catches up with the swarm: to D_half, but a jump stops at the next round boundary, so that round is ended too.
void StageStep::advance(const membership::Swarm& swarm, TimePoint now, Actions& out) {
  if (config_.deadlines == Deadlines::off) return;
  const Step ahead = done_half(swarm);
  if (ahead <= step_) return;
  const auto round_of = [&](Step step) { return (step - 1) / config_.local_steps + 1; };
  if (round_of(ahead + 1) > round_of(step_) + 1) {
    between_steps_ = true;
    out.emplace_back(FarBehind{});
    return;
  }
  const Step boundary = round_of(step_) * config_.local_steps;
  const Step target = std::min({ahead, boundary, config_.last_step});
  if (target <= step_) return;
  step_ = target;
  begin_step(now, out);
  jumped_ = true;
}

void StageStep::begin_step(TimePoint now, Actions& out) {
  step_began_ = now;
  close_at_ = never;
  release_held();
  out.emplace_back(StepBegan{step_});
  out.emplace_back(Run{});
}

void StageStep::release_held() {
  for (auto& [id, kept] : kept_) {
    if (kept.phase == Phase::held && id.step <= step_) make_ready(kept, Work::forward);
  }
}

// ---------------------------------------------------------------- what others ask

double StageStep::seconds_of(Work work) const {
  const auto it = work_seconds_.find(work);
  return it == work_seconds_.end() ? 0.0 : it->second;
}

double StageStep::forward_seconds() const { return originator() ? seconds_of(Work::begin) : seconds_of(Work::forward); }

double StageStep::microbatch_seconds() const {
  return forward_seconds() + seconds_of(Work::backward) + (originator() ? seconds_of(Work::loss) : 0.0);
}

double StageStep::load_seconds() const {
  double sum = 0.0;
  for (const auto& [id, kept] : kept_) {
    const bool queued = kept.phase == Phase::ready || kept.phase == Phase::computing || kept.phase == Phase::held;
    if (queued) sum += seconds_of(kept.work);
    if (kept.graph && kept.work != Work::backward) sum += seconds_of(Work::backward);
  }
  return sum;
}

Duration StageStep::eta(Direction direction, Step step, TimePoint now) const {
  const double own = direction == Direction::forward ? forward_seconds() : seconds_of(Work::backward);
  if (own == 0.0) return eta_before_first_measurement;
  double queued = 0.0;
  for (const auto& [id, kept] : kept_) {
    if (kept.phase == Phase::ready || kept.phase == Phase::computing) queued += seconds_of(kept.work);
  }
  Duration hold{};
  if (direction == Direction::forward && (step > step_ || between_steps_) && tau_) {
    hold = std::max(Duration::zero(), *tau_ - (now - step_began_));
    if (between_steps_) hold += *tau_;
  }
  return hold + from_seconds(queued + own);
}

StageStep::Where StageStep::where(const MicrobatchId& id, Direction direction) const {
  const auto it = kept_.find(id);
  if (it == kept_.end()) return is_added(id) ? Where::finished : Where::unknown;
  const Kept& kept = it->second;
  const Work asked = direction == Direction::backward ? Work::backward : originator() ? Work::loss : Work::forward;
  if (kept.phase == Phase::arriving) return Where::arriving;
  if (kept.phase == Phase::held) return Where::held;
  if (kept.phase == Phase::open) return direction == Direction::backward ? Where::unknown : Where::open;
  if (kept.work != asked) return direction == Direction::forward ? Where::open : Where::unknown;
  return kept.phase == Phase::ready ? Where::ready : Where::computing;
}

const MicrobatchHeader* StageStep::header(const MicrobatchId& id) const {
  const auto it = kept_.find(id);
  return it == kept_.end() ? nullptr : &it->second.header;
}

}  // namespace starling::pipeline
