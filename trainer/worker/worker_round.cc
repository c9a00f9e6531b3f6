// The end of a step and of a round at this node; copies of state, given and taken; backups and takeover; evaluation.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "trainer/worker/worker.h"

namespace starling::trainer {
namespace {

constexpr Duration tau_before_first_step = std::chrono::seconds(1);
constexpr int most_serving = 8;                       // state parts under way to others at once
constexpr Duration copy_again_after = std::chrono::seconds(2);
constexpr std::size_t versions_kept = 2;              // of each stage's backup
constexpr std::size_t most_backups_said = 8;
constexpr std::size_t outcomes_said = 2;
constexpr std::size_t eval_windows_at_once = 4;
constexpr Duration eval_window_age = std::chrono::seconds(20);
constexpr Duration eval_at_most = std::chrono::seconds(30);
constexpr std::uint8_t all_parts = 31;                // of a state: phi, adam_m, adam_v, momentum, theta
constexpr std::uint8_t only_phi = 1;
constexpr int diverged_steps_at_most = 3;             // in a row

std::string_view name_of(outer::Exchange::SoloCause cause) {
  using Cause = outer::Exchange::SoloCause;
  switch (cause) {
    case Cause::odd_one_out: return "odd_one_out";
    case Cause::nobody_answered: return "nobody_answered";
    case Cause::partner_gone: return "partner_gone";
    case Cause::transfer_failed: return "transfer_failed";
    case Cause::declined: return "declined";
    case Cause::alone: return "alone";
    case Cause::rejected: return "rejected";
  }
  return "";
}

}  // namespace

// ---------------------------------------------------------------- a step

void Worker::carry_out(const StageStep::CloseStep& action) {
  StepReport report;
  report.step = action.step;
  report.last_step = stage_step_->last_step();
  report.learning_rate = learning_rate(config_.optimizer, config_.scheduler, action.step, config_.last_step());
  report.took = action.took;
  report.by_deadline = action.by_deadline;
  report.tokens = loss_tokens_;
  if (loss_tokens_ > 0) report.loss = loss_sum_ / static_cast<double>(loss_tokens_);
  const ComputeSizes& sizes = env_.compute->sizes();
  report.model_flops =
      static_cast<double>(action.body_tokens) * sizes.body_flops.at(static_cast<std::size_t>(stage_)) +
      static_cast<double>(action.head_tokens) * sizes.head_flops;
  loss_sum_ = 0.0;
  loss_tokens_ = 0;
  record_.step = action.step + 1;
  if (is_originator()) {
    record_.tokens = counters_.tokens;
    if (action.by_deadline) {
      feed(Originator::ClosedByDeadline{});
    } else {
      feed(Originator::ClosedInTime{});
    }
  }
  // A step that nothing went into because all that came diverged here is lost to the same cause as one that was refused.
  const bool all_diverged = std::exchange(diverged_in_step_, false) && action.body_tokens + action.head_tokens == 0;
  if (all_diverged) step_diverged(action.step);
  if (action.apply == StageStep::CloseStep::Apply::step) {
    submit(OptimizerStep{action.step, report.learning_rate, action.body_tokens, action.head_tokens}, StepJob{report});
  } else {
    env_.listener.step_closed(report);
  }
}

void Worker::finished(const StepJob& job, const Completion& completion) {
  const auto* stepped = std::get_if<Stepped>(&completion.result);
  STARLING_CHECK(stepped != nullptr, "the device answers an optimizer step in kind");
  StepReport report = job.report;
  env_.listener.job_took("optimizer", completion.compute_seconds);
  report.device_memory_bytes = stepped->memory_bytes;
  if (const double possible = stepped->matrix_flops * seconds(report.took); possible > 0.0) {
    report.flops_utilization = report.model_flops / possible;
  }
  if (stepped->applied) {
    ++counters_.optimizer_steps;
    ++adam_steps_;
    diverged_steps_ = 0;
    report.gradient_norm = gradient_norm_ = stepped->gradient_norm;
  } else {
    ++counters_.rejected_non_finite;
    env_.listener.event("gradient_not_finite", {{"step", static_cast<std::int64_t>(stepped->step)}});
    if (!std::isfinite(stepped->gradient_norm)) step_diverged(stepped->step);
  }
  env_.listener.step_closed(report);
}

// One such step may be a freak; after three the weights themselves are bad, and only those of the last exchange are known
// to be good.
void Worker::step_diverged(Step step) {
  if (++diverged_steps_ < diverged_steps_at_most) return;
  diverged_steps_ = 0;
  submit(ReloadSlow{}, ReloadJob{step});
}

// Slow weights that are not finite either are no weights at all: others come as for a newcomer, from a replica, a backup or
// the neighbours.
void Worker::finished(const ReloadJob& job, const Completion& completion) {
  const auto* loaded = std::get_if<Loaded>(&completion.result);
  STARLING_CHECK(loaded != nullptr, "the device answers a reload in kind");
  const auto say = [&](std::string_view event, std::string_view outcome) {
    env_.listener.event(
        event, {{"step", static_cast<std::int64_t>(job.step)},
                {"round", static_cast<std::int64_t>(record_.round)},
                {"why", fmt::format("{} steps in a row were not finite; {}", diverged_steps_at_most, outcome)}});
  };
  if (!loaded->error) {
    ++counters_.reloads;
    adam_steps_ = 0;
    return say("weights_reloaded", "the weights are those of the last exchange again, Adam's state is zero");
  }
  say("weights_lost", fmt::format("{}: others are asked for theirs", *loaded->error));
  if (!copying_stage_) copy(CopyFor::joining, stage_, CatchUp::From::replica);
}

void Worker::carry_out(const StageStep::AnnounceDone& action) {
  record_.done = action.step;
  feed(View::DoneCame{self_.id, {self_.boot, action.step}});
  for (const NodeId& peer : swarm().live_workers()) send(peer, net::Done{self_.boot, action.step});
}

void Worker::carry_out(const StageStep::StepBegan& action) {
  if (!is_originator()) return;
  feed(Originator::Look{});
  const Step closed = action.step - 1;
  const bool due = config_.eval.interval > 0 && closed > 0 && closed % config_.eval.interval == 0;
  if (due && pipeline::lead_of(swarm()) == self_.id && !eval_) begin_eval(closed, WhichEval::during);
}

void Worker::carry_out(const StageStep::TrainingEnded&) {
  feed(Originator::StoppedAll{});
  feed(RunEnd::TrainingEnded{});
}

// ---------------------------------------------------------------- a round

void Worker::carry_out(const StageStep::EndRound& action) {
  round_ended_at_ = now_;
  last_round_ = action.last;
  divergence_.reset();
  feed(Exchange::RoundEnded{action.round, stage_, stage_step_->tau().value_or(tau_before_first_step)});
}

Encoding Worker::exchange_encoding() const {
  return config_.outer.compression == outer::Compression::none ? Encoding::fp32 : Encoding::bf16;
}

std::uint64_t Worker::exchange_bytes() const {
  const auto n = static_cast<std::uint64_t>(env_.compute->sizes().parameters.at(static_cast<std::size_t>(stage_)));
  return 2 * n * (exchange_encoding() == Encoding::fp32 ? 4 : 2);
}

void Worker::carry_out(const Exchange::Send& action) { send(action.to, action.message); }

void Worker::carry_out(const Exchange::MakeSnapshot& action) {
  submit(Snapshot{exchange_encoding()}, SnapshotJob{action.round});
}

void Worker::finished(const SnapshotJob& job, const Completion& completion) {
  if (const auto* made = std::get_if<StateMade>(&completion.result)) feed(Exchange::SnapshotMade{job.round, made->bytes});
}

void Worker::carry_out(const Exchange::OfferPart& action) {
  counters_.sent_bytes[WorkerCounters::outer] += static_cast<std::int64_t>(action.buffer->size());
  offer_buffer(action.to, action.part, action.buffer);
}

void Worker::carry_out(const Exchange::TakeOffer& action) { feed(Bulk::OfferTaken{action.from, action.offer}); }

void Worker::carry_out(const Exchange::RefuseOffer& action) { refuse(action.from, action.transfer, action.code); }

void Worker::carry_out(const Exchange::Average& action) {
  submit(OuterStep{.others = action.others,
                   .encoding = exchange_encoding(),
                   .alpha = config_.outer.momentum,
                   .beta = config_.outer.lr,
                   .gamma = config_.outer.effective_gamma()},
         OuterJob{action.round});
}

void Worker::carry_out(const Exchange::Solo& action) {
  submit(OuterStep{.others = {},
                   .encoding = exchange_encoding(),
                   .alpha = config_.outer.momentum,
                   .beta = config_.outer.lr,
                   .gamma = config_.outer.effective_gamma()},
         OuterJob{action.round});
}

void Worker::finished(const OuterJob& job, const Completion& completion) {
  const auto* stepped = std::get_if<OuterStepped>(&completion.result);
  STARLING_CHECK(stepped != nullptr, "the device answers an outer step in kind");
  env_.listener.job_took("outer", completion.compute_seconds);
  counters_.rejected_non_finite += stepped->rejected_non_finite;
  counters_.rejected_norm += stepped->rejected_norm;
  if (stepped->rejected_non_finite + stepped->rejected_norm > 0) ++counters_.rounds_rejected;
  if (stepped->averaged_with > 0) divergence_ = stepped->divergence;
  feed(Exchange::Applied{job.round, stepped->averaged_with});
}

void Worker::carry_out(const Exchange::RoundFinished& action) {
  const bool none = config_.outer.algorithm == outer::Algorithm::none;
  // Nobody averages: phi follows theta, so that copies and backups hold what was learnt.
  if (none) submit(OuterStep{.others = {}, .encoding = exchange_encoding(), .alpha = 0.0, .beta = 1.0, .gamma = 0.0}, Unanswered{});
  if (action.averaged) {
    ++counters_.rounds_averaged;
  } else if (!none) {
    ++counters_.rounds_solo;
    if (action.cause == Exchange::SoloCause::odd_one_out || action.cause == Exchange::SoloCause::alone) {
      ++counters_.rounds_solo_odd;
    }
  }
  RoundReport report;
  report.round = action.round;
  report.averaged = action.averaged;
  report.partner = action.partner;
  if (!action.outcome.exchange.proposer.is_null()) report.exchange = action.outcome.exchange;
  report.divergence = divergence_;
  report.took = now_ - round_ended_at_;
  if (!action.averaged) report.cause = name_of(action.cause);
  env_.listener.round_finished(report);
  if (!action.outcome.exchange.proposer.is_null()) {
    record_.outcomes.insert(record_.outcomes.begin(), action.outcome);
    if (record_.outcomes.size() > outcomes_said) record_.outcomes.resize(outcomes_said);
  }
  record_.round = action.round + 1;
  const pipeline::BackupPlan plan = pipeline::plan_backup(config_.seed, action.round, stage_, swarm());
  if (plan.sender == self_.id && !plan.holders.empty()) {
    submit(Encode{StatePart::phi, Encoding::bf16},
           BackupJob{{.stage = stage_, .step = stage_step_->step() - 1, .round = action.round}, plan.holders});
  }
  send_checkpoint(action.round, last_round_);
  feed(StageStep::RoundFinished{});
  serve_those_who_waited();
  if (is_originator()) feed(Originator::Look{});
}

void Worker::carry_out(const Exchange::BehindBy&) {
  if (!copying_stage_) copy(CopyFor::behind, stage_, CatchUp::From::replica);
}

void Worker::carry_out(const Exchange::OneSided&) { ++counters_.rounds_one_sided; }

// ---------------------------------------------------------------- backups

void Worker::finished(const BackupJob& job, const Completion& completion) {
  const auto* made = std::get_if<StateMade>(&completion.result);
  if (made == nullptr || made->bytes == nullptr) return;
  for (const NodeId& holder : job.holders) {
    counters_.sent_bytes[WorkerCounters::state] += static_cast<std::int64_t>(made->bytes->size());
    offer_buffer(holder, job.part, made->bytes);
  }
}

void Worker::keep_backup(const net::BackupPart& part, Buffer buffer) {
  auto& versions = backups_[part.stage];
  if (!versions.empty() && versions.front().first.step >= part.step) return;
  versions.emplace_front(part, std::move(buffer));
  if (versions.size() > versions_kept) versions.pop_back();
  record_.backups.clear();
  for (const auto& [stage, kept] : backups_) {
    if (record_.backups.size() < most_backups_said) record_.backups.push_back({stage, kept.front().first.step});
  }
  publish(View::SelfChanged::Kind::routine);
}

// ---------------------------------------------------------------- checkpoints

// The observer; without one the lead, which every worker knows by the same rule. Null: nobody.
NodeId Worker::collector_of_checkpoints() const {
  for (const auto& [id, peer] : swarm().peers) {
    if (peer.record.role == membership::Role::observer && swarm().is_live(id)) return id;
  }
  return pipeline::lead_of(swarm());
}

// Each replica's slow weights, of which the collector takes the mean; momentum and Adam's state from one of them. After an
// exchange the weights are the slow weights, and the device runs these jobs before any of the next step.
void Worker::send_checkpoint(Round round, bool run_ends) {
  const Step step = stage_step_->step() - 1;
  if (!config_.checkpoint.due((round - 1) * config_.outer.local_steps, step, run_ends)) return;
  const NodeId collector = collector_of_checkpoints();
  if (collector.is_null()) return;
  const std::vector<NodeId>& replicas = swarm().live_replicas(stage_);
  std::vector<StatePart> parts{StatePart::phi};
  if (replicas.empty() || replicas.front() == self_.id) {
    parts.insert(parts.end(), {StatePart::momentum, StatePart::adam_m, StatePart::adam_v});
  }
  for (const StatePart part : parts) {
    ++checkpoint_jobs_;
    submit(Encode{part, Encoding::fp32},
           CheckpointJob{collector,
                         {.stage = stage_,
                          .step = step,
                          .round = round,
                          .part = static_cast<std::uint8_t>(part),
                          .adam_steps = adam_steps_,
                          .replicas = static_cast<std::int32_t>(std::max<std::size_t>(1, replicas.size()))}});
  }
}

void Worker::finished(const CheckpointJob& job, const Completion& completion) {
  --checkpoint_jobs_;
  const auto* made = std::get_if<StateMade>(&completion.result);
  if (made == nullptr || made->bytes == nullptr) return;
  if (job.to == self_.id) return env_.listener.came(self_.id, job.part, made->bytes);
  counters_.sent_bytes[WorkerCounters::state] += static_cast<std::int64_t>(made->bytes->size());
  checkpoint_out_.insert(offer_buffer(job.to, job.part, made->bytes));
}

// ---------------------------------------------------------------- state for others

std::uint64_t Worker::state_part_bytes(const net::StatePart& part) const {
  const auto& parameters = env_.compute->sizes().parameters;
  if (part.stage < 0 || static_cast<std::size_t>(part.stage) >= parameters.size()) return 0;
  const auto n = static_cast<std::uint64_t>(parameters[static_cast<std::size_t>(part.stage)]);
  return n * (part.encoding == static_cast<std::uint8_t>(Encoding::fp32) ? 4 : 2);
}

void Worker::serve(const NodeId& to, const net::StateRequest& request) {
  net::StateInfo info;
  info.request = request.request;
  info.stage = request.stage;
  if (request.source == net::StateRequest::Source::backup) {
    const auto held = backups_.find(request.stage);
    if (held != backups_.end()) {
      const auto& [part, buffer] = held->second.front();
      info.step = part.step;
      info.round = part.round;
      info.parts = 1;
      send(to, info);
      offer_buffer(to,
                   net::StatePart{.request = request.request, .stage = request.stage, .part = 0,
                                  .encoding = static_cast<std::uint8_t>(Encoding::bf16)},
                   buffer);
      return;
    }
  } else if (active_worker() && request.stage == stage_ && !copying_stage_ && serving_ < most_serving) {
    info.step = stage_step_->step();
    info.round = stage_step_->round();
    info.tau = stage_step_->tau().value_or(Duration::zero());
    info.adam_steps = adam_steps_;
    info.parts = request.parts & all_parts;
    info.closed_any = stage_step_->step() > 1;
    info.gradient_norm = gradient_norm_;
    send(to, info);
    for (const StatePart part :
         {StatePart::phi, StatePart::adam_m, StatePart::adam_v, StatePart::momentum, StatePart::theta}) {
      const auto number = static_cast<std::uint8_t>(part);
      if ((info.parts & (1U << number)) == 0) continue;
      ++serving_;
      const ServeJob job{to, {.request = request.request, .stage = stage_, .part = number,
                              .encoding = static_cast<std::uint8_t>(Encoding::fp32)}};
      // The step and round that it was told come after this exchange, and so must the weights: without it, it would trail
      // the others by a whole outer step.
      if (stage_step_->between_steps()) {
        serve_later_.push_back(job);
      } else {
        encode_for(job);
      }
    }
    return;
  }
  send(to, info);  // parts = 0: ask somebody else
}

void Worker::encode_for(const ServeJob& job) {
  submit(Encode{static_cast<StatePart>(job.part.part), static_cast<Encoding>(job.part.encoding)}, job);
}

void Worker::serve_those_who_waited() {
  for (const ServeJob& job : std::exchange(serve_later_, {})) encode_for(job);
}

void Worker::finished(const ServeJob& job, const Completion& completion) {
  --serving_;
  const auto* made = std::get_if<StateMade>(&completion.result);
  if (made == nullptr || made->bytes == nullptr) return;
  counters_.sent_bytes[WorkerCounters::state] += static_cast<std::int64_t>(made->bytes->size());
  offer_buffer(job.to, job.part, made->bytes);
}

// ---------------------------------------------------------------- state for us

void Worker::copy(CopyFor purpose, Stage stage, CatchUp::From from) {
  copy_for_ = purpose;
  copying_stage_ = stage;
  neighbours_.reset();
  feed(CatchUp::Start{stage, from, from == CatchUp::From::replica ? all_parts : only_phi});
}

void Worker::carry_out(const StageStep::FarBehind&) {
  env_.listener.event("far_behind", {{"step", static_cast<std::int64_t>(stage_step_->step())}});
  if (!copying_stage_) copy(CopyFor::behind, stage_, CatchUp::From::replica);
}

void Worker::carry_out(const CatchUp::Send& action) { send(action.to, action.message); }

void Worker::carry_out(const CatchUp::TakeOffer& action) { feed(Bulk::OfferTaken{action.from, action.offer}); }

void Worker::carry_out(const CatchUp::RefuseOffer& action) { refuse(action.from, action.transfer, action.code); }

void Worker::carry_out(const CatchUp::Load& action) {
  const auto part = [&](StatePart which) -> std::optional<EncodedPart> {
    const auto number = static_cast<std::uint8_t>(which);
    const auto it = action.parts.find(number);
    if (it == action.parts.end()) return std::nullopt;
    const auto encoding = action.encodings.find(number);
    const bool fp32 = encoding == action.encodings.end() || encoding->second == static_cast<std::uint8_t>(Encoding::fp32);
    return EncodedPart{it->second, fp32 ? Encoding::fp32 : Encoding::bf16};
  };
  if (neighbours_) {
    auto& side = action.stage < *copying_stage_ ? neighbours_->left : neighbours_->right;
    if (auto phi = part(StatePart::phi)) side = Neighbour{std::move(*phi), action.info.gradient_norm};
    return feed(CatchUp::Loaded{});
  }
  Load load;
  load.stage = action.stage;
  load.adam_steps = action.info.adam_steps;
  load.phi = part(StatePart::phi);
  load.adam_m = part(StatePart::adam_m);
  load.adam_v = part(StatePart::adam_v);
  load.momentum = part(StatePart::momentum);
  load.theta = part(StatePart::theta);
  drop_everything();
  submit(std::move(load), LoadJob{action.stage, WeightsFrom::donor});
}

void Worker::draw_weights(Stage stage) {
  copying_stage_ = stage;
  drop_everything();
  Load load;
  load.stage = stage;
  submit(std::move(load), LoadJob{stage, WeightsFrom::seed});
}

// A stage of which no replica lives and nobody has a copy: CheckFree (arXiv 2506.15461), each block from that block of both
// neighbours. Until the first round has ended slow weights are everywhere as the seed gave them, so they are drawn, as they
// are for stage 0, which no neighbour resembles. The learning rate is not raised for a while as there: a taker's is that of
// its step like everybody's.
void Worker::restore_without_copy(Stage stage) {
  const bool moved = config_.outer.round_of(swarm().largest_done() + 1) > 1;
  if (stage == 0 || !moved) return draw_weights(stage);
  copying_stage_ = stage;
  neighbours_.emplace();
  feed(CatchUp::Start{stage - 1, CatchUp::From::replica, only_phi});
}

// Neighbour `asked` has given its weights or cannot. The left one is needed: it alone is good enough, as for a last stage.
void Worker::load_neighbours(Stage asked) {
  const Stage stage = *copying_stage_;
  if (asked < stage && neighbours_->left && stage + 1 < config_.parallelism.stages) {
    return feed(CatchUp::Start{stage + 1, CatchUp::From::replica, only_phi});
  }
  const Neighbours found = *std::exchange(neighbours_, std::nullopt);
  if (!found.left) return draw_weights(stage);
  LoadFromNeighbours load{.stage = stage, .left = found.left->phi};
  if (found.right) {
    load.right = found.right->phi;
    const double left = found.left->gradient_norm;
    const double right = found.right->gradient_norm;
    if (left > 0.0 && right > 0.0) load.left_weight = left / (left + right);
  }
  drop_everything();
  submit(std::move(load), LoadJob{stage, WeightsFrom::neighbours});
}

// Graphs, sums and the exchange of the old weights end here; what still comes for them is answered "unknown".
void Worker::drop_everything() {
  life_ = Life::loading;
  if (exchange_.busy()) feed(Exchange::Cancelled{});
  serving_ -= static_cast<int>(serve_later_.size());  // who asked tries the next donor
  serve_later_.clear();
  feed(StageStep::Stopped{});
  feed(Originator::StoppedAll{});
  loss_sum_ = 0.0;
  loss_tokens_ = 0;
  gradient_norm_ = 0.0;
}

void Worker::finished(const LoadJob& job, const Completion& completion) {
  const auto* loaded = std::get_if<Loaded>(&completion.result);
  STARLING_CHECK(loaded != nullptr, "the device answers a load in kind");
  if (job.from == WeightsFrom::donor) {
    if (loaded->error && stage_ != no_stage && copy_for_ != CopyFor::joining) life_ = Life::active;  // nothing has changed
    feed(CatchUp::Loaded{!loaded->error});
    return;
  }
  if (loaded->error && job.from == WeightsFrom::neighbours) return draw_weights(job.stage);
  STARLING_CHECK(!loaded->error, "weights drawn from the seed or verified always fit");
  if (job.from == WeightsFrom::checkpoint) {
    return took_over_or_joined(job.stage, job.from, self_.resume->step + 1, Duration::zero(), job.adam_steps);
  }
  took_over_or_joined(job.stage, job.from, swarm().largest_done() + 1, Duration::zero(), 0);
}

void Worker::carry_out(const CatchUp::Finished& action) {
  if (neighbours_) return load_neighbours(action.stage);
  ++counters_.copies;
  env_.listener.event("copied", {{"stage", static_cast<std::int64_t>(action.stage)},
                                 {"donor", action.donor.brief()},
                                 {"step", static_cast<std::int64_t>(action.info.step)}});
  const bool live_donor = action.info.closed_any;
  const Step step = live_donor ? action.info.step : swarm().largest_done() + 1;
  took_over_or_joined(action.stage, WeightsFrom::donor, step, action.info.tau, live_donor ? action.info.adam_steps : 0);
}

void Worker::took_over_or_joined(Stage stage, WeightsFrom from, Step donor_step, Duration tau, std::int64_t adam_steps) {
  static constexpr std::string_view names[] = {"seed", "copy", "neighbours", "checkpoint"};
  Step step = donor_step;
  if (copy_for_ == CopyFor::takeover) {
    ++counters_.takeovers;
    env_.listener.event("takeover", {{"stage", static_cast<std::int64_t>(stage)},
                                     {"from_stage", static_cast<std::int64_t>(stage_)},
                                     {"weights", std::string(names[static_cast<std::size_t>(from)])}});
    if (stage == 0) {
      slot_ = membership::assign_slot(swarm(), self_.id, {});
    } else {
      step = stage_step_->step();  // its own clock goes on
    }
    feed_placement(Placement::Loaded{stage});
  }
  become_active(stage, step, tau, adam_steps);
}

void Worker::become_active(Stage stage, Step step, Duration tau, std::int64_t adam_steps) {
  const bool known = life_ == Life::active || stage_ == stage;
  copying_stage_.reset();
  life_ = Life::active;
  stage_ = stage;
  adam_steps_ = adam_steps;
  if (stage != 0) slot_ = no_slot;
  record_.standing = membership::Standing::active;
  record_.stage = stage;
  record_.slot = slot_;
  record_.claim = no_stage;
  record_.done = is_originator() ? step - 1 : -1;
  record_.step = step;
  record_.round = config_.outer.round_of(step);
  // Whoever goes on from a checkpoint waits for the others, like at the start of a run.
  const bool resumed = self_.resume && step == self_.resume->step + 1;
  if (step > 1 && !resumed) training_started_ = true;
  publish(View::SelfChanged::Kind::important);
  if (is_originator()) feed(View::DoneCame{self_.id, {self_.boot, step - 1}});
  feed(StageStep::Adopted{step, tau, stage, kept_bytes(stage)});
  if (!known || step == 1) env_.listener.event("active", {{"stage", static_cast<std::int64_t>(stage)}, {"step", static_cast<std::int64_t>(step)}});
  swarm_changed();
}

std::int64_t Worker::kept_bytes(Stage stage) const {
  return env_.compute->sizes().kept_bytes.at(static_cast<std::size_t>(stage));
}

// Nobody has it to give. A stage that nobody holds comes from a backup, and if there is none from what its neighbours hold.
void Worker::carry_out(const CatchUp::Exhausted& action) {
  if (neighbours_) return load_neighbours(action.stage);
  const bool replica = action.from == CatchUp::From::replica;
  // Nobody has begun, and these weights can come only from a replica that was given them: one will come.
  if (copy_for_ == CopyFor::joining && config_.begins_with == WorkerConfig::Weights::given && swarm().largest_done() <= 0) {
    copy_again_at_ = now_ + copy_again_after;
    return;
  }
  if (copy_for_ == CopyFor::behind) {
    // Alone with this stage: what we have is the best there is. Only the clock is taken.
    env_.listener.event("no_donor", {{"stage", static_cast<std::int64_t>(action.stage)}});
    become_active(stage_, std::max(stage_step_->step(), swarm().largest_done()), Duration::zero(), adam_steps_);
  } else if (replica && !pipeline::backup_holders(swarm(), action.stage).empty()) {
    copy(copy_for_, action.stage, CatchUp::From::backup);
  } else {
    restore_without_copy(action.stage);
  }
}

void Worker::begin_loading() {
  life_ = Life::loading;
  copy_for_ = CopyFor::joining;
  Step done = 0;  // of those who are still there: of a run that goes on from a checkpoint the view knows the dead
  for (const NodeId& id : swarm().live_originators()) done = std::max(done, swarm().find(id)->done);
  if (self_.resume && done <= self_.resume->step) {
    copying_stage_ = stage_;
    drop_everything();
    Load load = std::move(self_.resume->load);
    const std::int64_t steps = load.adam_steps;
    submit(std::move(load), LoadJob{stage_, WeightsFrom::checkpoint, steps});
  } else if (swarm().largest_done() <= 0 && config_.begins_with == WorkerConfig::Weights::drawn) {
    draw_weights(stage_);
  } else {
    copy(CopyFor::joining, stage_, CatchUp::From::replica);
  }
}

void Worker::carry_out(const Placement::Claim& action) {
  record_.claim = action.stage;
  publish(View::SelfChanged::Kind::important);
}

void Worker::carry_out(const Placement::Load& action) {
  if (pipeline::backup_holders(swarm(), action.stage).empty()) {
    copy_for_ = CopyFor::takeover;
    restore_without_copy(action.stage);
  } else {
    copy(CopyFor::takeover, action.stage, CatchUp::From::backup);
  }
}

void Worker::carry_out(const Placement::CancelLoad&) {
  // A load that the device has begun cannot be called back: then this stage has two new replicas, which is no harm.
  if (life_ == Life::loading) return;
  feed(CatchUp::Cancelled{});
  copying_stage_.reset();
  neighbours_.reset();
}

// ---------------------------------------------------------------- evaluation

void Worker::begin_eval(Step step, WhichEval which) {
  const Duration wait = std::max(eval_at_most, stage_step_->tau().value_or(Duration::zero()) * 20);
  eval_ = Eval{.step = step, .until = now_ + wait, .last = which == WhichEval::last};
  start_eval_windows();
}

void Worker::start_eval_windows() {
  while (eval_->out.size() < eval_windows_at_once && eval_->next_window < config_.eval.batches) {
    const auto index = static_cast<std::uint32_t>(eval_->next_window++) | eval_index_bit;
    const MicrobatchId id{self_.id, self_.boot, std::max<Step>(1, eval_->step), index};
    eval_->out.insert(index);
    began_[id] = now_;
    Header header;
    header.id = id;
    header.purpose = net::Purpose::eval;
    header.give_up_age = eval_window_age;
    feed(StageStep::Started{std::move(header)});
  }
  if (eval_->out.empty() && eval_->next_window >= config_.eval.batches) end_eval();
}

void Worker::eval_came_home(const Header& header, const LossMade& loss) {
  if (!eval_ || eval_->out.erase(header.id.index) == 0) return;
  eval_->loss_sum += loss.loss_sum;
  eval_->tokens += loss.tokens;
  ++eval_->windows;
  inputs_.erase(header.id);
  began_.erase(header.id);
  drop_output(Key{header.id, Direction::forward});
  start_eval_windows();
}

void Worker::end_eval() {
  const Eval eval = *std::exchange(eval_, std::nullopt);
  for (const std::uint32_t index : eval.out) {
    free_microbatch({self_.id, self_.boot, std::max<Step>(1, eval.step), index});
  }
  if (eval.tokens > 0) {
    env_.listener.evaluated(eval.step, eval.loss_sum / static_cast<double>(eval.tokens), eval.windows, eval.last);
  }
  if (eval.last) feed(RunEnd::EvalDone{});
}

}  // namespace starling::trainer
