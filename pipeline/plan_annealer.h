// Simulated annealing of a whole plan, placement and paths together, under the clock: one step proposes one move, times it
// and keeps or reverts it.
//
// What it minimises is seconds + the mean time at which microbatches are done (+ a price for each path that differs from
// an anchor, when a plan is repaired). Seconds alone are a maximum: most moves leave them as they are, and the search
// would walk blindly. The best plan is the one with the fewest seconds (plus the price), whatever its mean.
//
// Acceptance: a worse plan is taken if it is worse by less than temperature x an exponential variate. So the limit is known
// before the clock runs, and the clock gives up as soon as it is passed. Half of all moves begin on the critical chain: from
// the last job back, always to what it waited for.
//
// Chance and temperature need nothing but comparisons, sums and products (von Neumann's exponential variate, 1951), so the
// same seed gives the same plan on every machine. Source: Kirkpatrick et al., "Optimization by simulated annealing", 1983.
//
// Pure.
#pragma once

#include <cstdint>
#include <vector>

#include "gossip/base/random.h"
#include "pipeline/plan_clock.h"
#include "pipeline/plan_instance.h"
#include "pipeline/plan_layout.h"

namespace starling::pipeline {

// Standard exponential. Source: von Neumann, "Various techniques used in connection with random digits", 1951.
double exponential(Stream& random);

// From `hot` to `cold` as `progress` goes from 0 to 1: by the cube, which is close to geometric cooling.
double temperature_at(double progress, double hot, double cold);

class PlanAnnealer {
 public:
  // kept: only paths change, every node stays on its stage.
  enum class Placement { searched, kept };
  // REQUIRES: a valid instance that outlives the annealer.
  PlanAnnealer(const PlanInstance& instance, Placement placement);

  // Goes on from this layout; if it locks up, from the same with straight paths. The best plan so far stays.
  void start_from(const PlanLayout& layout);
  // From now on each path that differs from this plan's costs `price` seconds, and what was best before counts no more.
  // Call before start_from(). Of the plan only the paths matter; -1 in them is nobody.
  void set_anchor(const SkipPlan& plan, double price);

  // One proposal; counts as one evaluation whether or not the clock had to be asked.
  void step(double temperature, Stream& random);

  double seconds() const { return time_.seconds; }
  // The best plan so far, and its seconds (without the price of changes, which decides which plan is best).
  double best_seconds() const { return best_time_; }
  const SkipPlan& best() const { return best_; }
  int best_changes() const { return best_changes_; }  // paths of it that differ from the anchor

 private:
  PlanLayout::Hint draw_hint(Stream& random) const;
  bool differs(int microbatch, std::span<const int> path, double start) const;
  double price() const { return price_ * differing_; }
  void remember();
  void find_critical();

  const PlanInstance& instance_;
  Placement placement_;
  PlanLayout layout_;
  PlanClock clock_;
  PlanTime time_;
  double cost_ = 0.0;

  std::vector<PlannedPath> anchor_;
  double price_ = 0.0;
  int differing_ = 0;

  SkipPlan best_;
  double best_score_ = 0.0;
  double best_time_ = 0.0;
  int best_changes_ = 0;

  std::vector<PlanLayout::Hint> critical_;
  std::vector<int> last_on_node_;  // scratch of find_critical()
  std::vector<int> before_on_node_;
  std::vector<int> index_of_job_;
  int accepted_since_critical_ = 0;
};

}  // namespace starling::pipeline
