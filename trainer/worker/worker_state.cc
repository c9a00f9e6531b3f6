// The state of a stage, given to others and taken from them: joining, catching up, taking a stage over.
#include <algorithm>
#include <utility>

#include "trainer/worker/worker.h"

namespace starling::trainer {
namespace {

constexpr int most_serving = 8;                       // state parts under way to others at once
constexpr Duration copy_again_after = std::chrono::seconds(2);
constexpr std::uint8_t all_parts = 31;                // of a state: phi, adam_m, adam_v, momentum, theta
constexpr std::uint8_t only_phi = 1;

}  // namespace

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
  diverged_in_step_ = added_in_step_ = false;
  diverged_steps_ = 0;
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

}  // namespace starling::trainer
