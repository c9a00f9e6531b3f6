// How good a layout is, roughly, without playing it through: thirty times faster than the clock, so that construction can
// look at ten thousand layouts in the time in which the clock times a few hundred.
//
// The idea: what limits an iteration is not computing but slots. A microbatch holds a slot of each node on its path from
// its forward there to its backward there, most of all at its originator, for nearly its whole round trip. So a node with
// m slots is in use for at least (the sum of these holds) / m, and its microbatches spend the rest of their round trips
// elsewhere, before and after. The cost is a smooth maximum of these times over the nodes (an 8-norm, which three square
// roots take: the same on every machine) plus the mean round trip. Waiting is ignored: the clock judges what comes out.
// Sums are updated, never counted afresh: after a link of many thousand seconds has gone out of use, rounding hides the
// first part and the mean round trip leads alone.
//
// Pure.
#pragma once

#include <span>
#include <vector>

#include "pipeline/plan_instance.h"
#include "pipeline/plan_layout.h"

namespace starling::pipeline {

class RoughCost {
 public:
  // `times`: each path stands for that many microbatches. REQUIRES: a valid instance that outlives this.
  RoughCost(const PlanInstance& instance, int times);
  void begin(const PlanLayout& layout);
  // Counts the layout's open proposal in, or out again after a revert that is still to come.
  void apply(const PlanLayout& layout) { replace(layout, Side::before, Side::now); }
  void take_back(const PlanLayout& layout) { replace(layout, Side::now, Side::before); }
  double cost() const;

 private:
  enum class Side { before, now };
  struct Use {
    double held = 0.0;       // seconds of slots
    double elsewhere = 0.0;  // seconds of round trips outside of them
    int visits = 0;
  };

  void replace(const PlanLayout& layout, Side out, Side in);
  void count(std::span<const int> path, int sign);
  double busy_power(int node) const;  // the node's time to the power of 8

  const PlanInstance& instance_;
  double times_;
  std::vector<Use> uses_;
  std::vector<double> sent_;  // scratch: when a microbatch reaches each hop
  std::vector<double> back_;  // scratch: from the begin of a hop's backward to the end
  double power_sum_ = 0.0;
  double round_trips_ = 0.0;
  double paths_ = 1.0;
};

}  // namespace starling::pipeline
