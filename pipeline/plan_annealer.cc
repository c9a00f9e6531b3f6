#include "pipeline/plan_annealer.h"

#include <algorithm>
#include <limits>

namespace starling::pipeline {
namespace {

using Move = PlanLayout::Move;

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }
constexpr double no_limit = std::numeric_limits<double>::infinity();
constexpr double mean_weight = 1.0;
// A sum that was taken in another order may differ by this much and is still the same.
constexpr double rounding_seconds = 1e-9;
// The critical chain is looked for again after this many accepted moves.
constexpr int accepted_per_critical = 2;

// How often each move is tried. Single hops are the fine work; most others are rarely accepted once the plan is cold.
constexpr MoveShare shares[] = {{Move::swap_nodes, 12},      {Move::change_hop, 40}, {Move::exchange_hops, 15},
                                {Move::trade_stages, 20},    {Move::swap_order, 5},  {Move::shift_start, 4},
                                {Move::swap_originators, 4}, {Move::change_group, 2}};

}  // namespace

double exponential(Stream& random) {
  for (double whole = 0.0;; whole += 1.0) {
    const double first = random.uniform();
    double least = first;
    bool odd = true;
    for (double next = random.uniform(); next < least; next = random.uniform()) {
      least = next;
      odd = !odd;
    }
    if (odd) return whole + first;
  }
}

double temperature_at(double progress, double hot, double cold) {
  const double left = 1.0 - progress;
  return cold + (hot - cold) * left * left * left;
}

PlanAnnealer::PlanAnnealer(const PlanInstance& instance, Placement placement)
    : instance_(instance),
      placement_(placement),
      layout_(instance),
      clock_(instance),
      best_score_(no_limit),
      best_time_(no_limit) {}

void PlanAnnealer::set_anchor(const SkipPlan& plan, double price) {
  anchor_ = plan.paths;
  price_ = price;
  best_score_ = no_limit;
}

bool PlanAnnealer::differs(int microbatch, std::span<const int> path, double start) const {
  if (anchor_.empty()) return false;
  const PlannedPath& anchor = anchor_[at(microbatch)];
  return anchor.originator != path[0] || anchor.start != start ||
         !std::equal(path.begin() + 1, path.end(), anchor.hops.begin(), anchor.hops.end());
}

void PlanAnnealer::start_from(const PlanLayout& layout) {
  layout_ = layout;
  const auto time_all = [this] {
    differing_ = 0;
    for (int i = 0; i < layout_.microbatches(); ++i) {
      clock_.set_path(i, layout_.path(i), layout_.start(i));
      differing_ += static_cast<int>(differs(i, layout_.path(i), layout_.start(i)));
    }
    time_ = clock_.run(no_limit, mean_weight);
  };
  time_all();
  if (time_.end == PlanTime::End::locked_up) {
    layout_.straighten();
    time_all();
  }
  clock_.keep();
  cost_ = time_.cost(mean_weight) + price();
  remember();
  find_critical();
}

void PlanAnnealer::remember() {
  const double score = time_.seconds + price();
  if (score >= best_score_ - rounding_seconds) return;
  best_score_ = score;
  best_time_ = time_.seconds;
  best_changes_ = differing_;
  best_ = layout_.plan();
}

PlanLayout::Hint PlanAnnealer::draw_hint(Stream& random) const {
  if (critical_.empty() || random.below(2) == 0) return {};
  return critical_[random.below(critical_.size())];
}

void PlanAnnealer::step(double temperature, Stream& random) {
  const Move move = draw_move(instance_, shares, random);
  if (placement_ == Placement::kept && (move == Move::swap_nodes || move == Move::move_node)) return;
  const PlanLayout::Hint hint = draw_hint(random);
  if (!layout_.propose(move, hint, time_.seconds / 2, random)) return;
  int differing = differing_;
  for (const int i : layout_.changed()) {
    clock_.set_path(i, layout_.path(i), layout_.start(i));
    if (anchor_.empty()) continue;
    differing += static_cast<int>(differs(i, layout_.path(i), layout_.start(i)));
    differing -= static_cast<int>(differs(i, layout_.path_before(i), layout_.start_before(i)));
  }
  const double limit = cost_ + temperature * exponential(random) + rounding_seconds - price_ * differing;
  const PlanTime time = clock_.run(limit, mean_weight);
  if (time.end != PlanTime::End::finished || time.cost(mean_weight) > limit) {
    clock_.revert();
    layout_.revert();
    return;
  }
  clock_.keep();
  layout_.accept();
  differing_ = differing;
  time_ = time;
  cost_ = time.cost(mean_weight) + price();
  remember();
  if (++accepted_since_critical_ >= accepted_per_critical) find_critical();
}

// From the last job back, each time to what it waited for: its own microbatch's job before it, or, if it was there in
// time, the job before it on its node (which kept the node or, as a forward waits for slots, let it in).
void PlanAnnealer::find_critical() {
  accepted_since_critical_ = 0;
  critical_.clear();
  const auto log = clock_.begun();
  const int jobs = plan_job_count(instance_.path_length);
  last_on_node_.assign(at(instance_.nodes), -1);
  before_on_node_.resize(log.size());
  index_of_job_.resize(log.size());
  int look = -1;
  double end = -1.0;
  for (std::size_t c = 0; c < log.size(); ++c) {
    const auto& [microbatch, job, begin] = log[c];
    int& last = last_on_node_[at(clock_.job_node(microbatch, job))];
    before_on_node_[c] = last;
    last = static_cast<int>(c);
    index_of_job_[at(microbatch * jobs + job)] = last;
    if (begin + clock_.job_seconds(microbatch, job) <= end) continue;
    end = begin + clock_.job_seconds(microbatch, job);
    look = last;
  }
  while (look >= 0) {
    const auto& [microbatch, job, begin] = log[at(look)];
    critical_.push_back({microbatch, clock_.job_node(microbatch, job)});
    int before = -1;
    double ready = clock_.start(microbatch);
    if (job > 0) {
      before = index_of_job_[at(microbatch * jobs + job - 1)];
      ready = log[at(before)].begin + clock_.job_seconds(microbatch, job - 1) + clock_.job_delay(microbatch, job - 1);
    }
    look = begin <= ready ? before : before_on_node_[at(look)];
  }
}

}  // namespace starling::pipeline
