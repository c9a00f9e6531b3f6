#include "pipeline/planner.h"

#include <algorithm>

namespace starling::pipeline {
namespace {

using Move = PlanLayout::Move;

// Of the clock, per job of an iteration: measured 0.016e-6 for 20 nodes, 0.02e-6 for 200, 0.025e-6 for 1,000.
constexpr double price_per_job_seconds = 0.025e-6;
// The first plan: the best of a few short constructions, as one in five ends in a bad corner. (100 seeds of the published
// instance: 25.5 s on average, 29.4 s at worst.)
constexpr int first_draws = 5;
constexpr std::uint64_t first_steps = 6'000;
// Later ones are longer, but many beat one: each draw has its own corner.
constexpr std::uint64_t steps_per_node = 1'000;
// A rough step takes about a thirtieth of the clock's time for the whole plan.
constexpr std::uint64_t rough_steps_per_evaluation = 32;
constexpr std::uint64_t chunk_evaluations = 8;
// One part in so many of a round is spent on constructions: what large instances need most.
constexpr std::uint64_t rough_part = 4;
// A round is long enough to cool slowly, and there are a few of them if there is time.
constexpr std::uint64_t round_evaluations_per_microbatch = 2'500;
constexpr std::uint64_t most_rounds = 6;
// Temperatures: shares of the first cost over the nodes (rough), of the round's first seconds over the microbatches (exact).
// With more of them one move changes the cost by less.
constexpr double rough_hot = 0.5;
constexpr double rough_cold = 0.005;
constexpr double exact_hot = 0.1;
constexpr double exact_cold = 0.008;

constexpr MoveShare rough_shares[] = {{Move::swap_nodes, 12},   {Move::change_hop, 40}, {Move::exchange_hops, 15},
                                      {Move::trade_stages, 20}, {Move::swap_order, 5},  {Move::swap_originators, 5}};

// How many microbatches of an originator go the same way. In the first round: the most while groups are still many enough to
// use all stages about evenly. Then by turns fewer, down to single ones, as other sizes lead to other corners.
std::vector<int> group_sizes(const PlanInstance& in) {
  std::vector<int> out;
  for (int size = in.microbatches_per_originator; size > 1; --size) {
    if (in.microbatches_per_originator % size != 0) continue;
    const int visits = in.microbatches() / size * (in.path_length - 1);
    if (visits % (in.stages - 1) == 0 || visits >= 4 * (in.stages - 1)) out.push_back(size);
  }
  out.push_back(1);
  return out;
}

PlanInstance grouped(PlanInstance instance, int size) {
  instance.microbatches_per_originator /= size;
  return instance;
}

}  // namespace

std::uint64_t affordable_evaluations(const PlanInstance& instance, double seconds) {
  const double jobs = static_cast<double>(instance.microbatches()) * plan_job_count(instance.path_length);
  return static_cast<std::uint64_t>(seconds / (jobs * price_per_job_seconds));
}

PlanConstruction::PlanConstruction(const PlanInstance& instance, int group, std::uint64_t steps, Stream& random)
    : times_(group), grouped_(grouped(instance, times_)), layout_(grouped_), rough_(grouped_, times_), steps_(steps) {
  layout_.draw(random);
  rough_.begin(layout_);
  cost_ = rough_.cost();
  scale_ = cost_ / instance.nodes;
}

void PlanConstruction::step(Stream& random) {
  ++done_;
  const Move move = draw_move(grouped_, rough_shares, random);
  if (!layout_.propose(move, {}, 0.0, random)) return;
  rough_.apply(layout_);
  const double progress = static_cast<double>(done_) / static_cast<double>(steps_);
  const double temperature = scale_ * temperature_at(progress, rough_hot, rough_cold);
  if (rough_.cost() <= cost_ + temperature * exponential(random)) {
    cost_ = rough_.cost();
    layout_.accept();
  } else {
    rough_.take_back(layout_);
    layout_.revert();
  }
}

PlanLayout PlanConstruction::result(const PlanInstance& instance) const {
  PlanLayout out(instance);
  out.set_repeated(layout_, times_);
  return out;
}

Planner::Planner(const PlanInstance& instance, std::uint64_t seed, std::uint64_t evaluations)
    : instance_(instance),
      random_(mix_seed(seed, "planner")),
      evaluations_(evaluations),
      groups_(group_sizes(instance)),
      annealer_(instance, PlanAnnealer::Placement::searched) {
  PlanLayout drawn(instance);
  drawn.draw(random_);
  judge(std::move(drawn));
  for (int draw = 0; draw < first_draws; ++draw) {
    construction_.emplace(instance_, groups_.front(), first_steps, random_);
    while (!construction_->done()) construction_->step(random_);
    judge(construction_->result(instance));
  }
  construction_.reset();
  first_seconds_ = best_seconds();
  begin_round();
}

void Planner::begin_round() {
  ++round_;
  const std::uint64_t length = round_evaluations_per_microbatch * static_cast<std::uint64_t>(instance_.microbatches());
  const std::uint64_t rounds = std::clamp<std::uint64_t>(evaluations_ / length, 1, most_rounds);
  round_end_ = std::min(evaluations_, done_ + (evaluations_ + rounds - 1) / rounds);
  rough_end_ = done_ + std::max<std::uint64_t>(1, (round_end_ - done_) / rough_part);
  exact_begin_ = round_end_;
}

// The clock has the last word on what the rough cost found.
void Planner::judge(PlanLayout layout) {
  annealer_.start_from(layout);
  if (start_ && annealer_.seconds() >= start_seconds_) return;
  start_seconds_ = annealer_.seconds();
  start_ = std::move(layout);
}

void Planner::rough_chunk() {
  if (!construction_) {
    const std::uint64_t affordable = (rough_end_ - done_) * rough_steps_per_evaluation;
    const std::uint64_t full = steps_per_node * static_cast<std::uint64_t>(instance_.nodes);
    const int group = groups_[(round_ - 1) % groups_.size()];
    construction_.emplace(instance_, group, std::clamp(affordable, first_steps, full), random_);
  }
  for (std::uint64_t k = 0; k < chunk_evaluations * rough_steps_per_evaluation && !construction_->done(); ++k) {
    construction_->step(random_);
  }
  done_ += chunk_evaluations;
  if (!construction_->done()) return;
  judge(construction_->result(instance_));
  construction_.reset();
}

void Planner::begin_exact() {
  annealer_.start_from(*start_);
  start_.reset();
  exact_begin_ = done_;
}

Planner::Progress Planner::improve(std::uint64_t evaluations) {
  const std::uint64_t until = std::min(evaluations_, done_ + evaluations);
  while (done_ < until) {
    if (done_ >= round_end_) {
      begin_round();
    } else if (construction_ || done_ < rough_end_) {
      rough_chunk();
    } else if (start_) {
      begin_exact();
    } else {
      const double progress =
          static_cast<double>(done_ - exact_begin_) / static_cast<double>(round_end_ - exact_begin_);
      const double scale = start_seconds_ / instance_.microbatches();
      annealer_.step(scale * temperature_at(progress, exact_hot, exact_cold), random_);
      ++done_;
    }
  }
  return done_ < evaluations_ ? Progress::going_on : Progress::done;
}

}  // namespace starling::pipeline
