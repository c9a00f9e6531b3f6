// The end of a step and of a round at this node; backups, checkpoints and evaluation, which belong to it.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "trainer/worker/worker.h"

namespace starling::trainer {
namespace {

constexpr Duration tau_before_first_step = std::chrono::seconds(1);
constexpr std::size_t versions_kept = 2;              // of each stage's backup
constexpr std::size_t most_backups_said = 8;
constexpr std::size_t outcomes_said = 2;
constexpr std::size_t eval_windows_at_once = 4;
constexpr Duration eval_window_age = std::chrono::seconds(20);
constexpr Duration eval_at_most = std::chrono::seconds(30);
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
  if (loss_tokens_ > 0) {
    report.loss = loss_sum_ / static_cast<double>(loss_tokens_);
  } else if (is_originator() && diverged_in_step_) {
    report.loss = std::numeric_limits<double>::quiet_NaN();
  }
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
  const bool added = std::exchange(added_in_step_, false);
  if (std::exchange(diverged_in_step_, false) && !added) step_diverged(action.step);
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
  if (!active_worker()) return;  // it was with weights that are being replaced
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
    feed(StageStep::SumsDropped{});
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
