// A new plan close to the old one, after a node died, joined or changed its speed.
//
// Whoever holds a stage keeps it, as moving costs a copy of the stage's weights; a node moves only when a stage would be
// left empty, or without the originators that the instance asks for. Paths keep what still exists; hops that are gone go to
// the nearest and least used node of the same stage. From there a short annealing of the paths under the clock, in which
// every path that differs from the old plan has a price: a change must be worth it.
//
// Pure: the same (plan, instance, seed, evaluations) give the same repair.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/plan_instance.h"

namespace starling::pipeline {

// An instance after a change, and who its nodes were.
struct ChangedInstance {
  PlanInstance instance;
  std::vector<int> before;  // per node: its number in the instance before; -1: it joined
};

// REQUIRES (all three): a valid instance, a plan for it that obeys the rules, and a node of it.
// bad_config: what is left cannot be planned for (too few nodes).
Result<ChangedInstance> node_died(const PlanInstance& instance, const SkipPlan& plan, int node);
// The newcomer gets the highest number. With given sizes it goes to the middle stage that has most to do.
// bad_config: its delays (to each node in turn, and from each), speed or memory are not valid.
Result<ChangedInstance> node_joined(const PlanInstance& instance, const SkipPlan& plan, std::span<const double> to,
                                    std::span<const double> from, double forward_seconds, int memory);
Result<ChangedInstance> speed_changed(const PlanInstance& instance, int node, double forward_seconds);

struct RepairedPlan {
  SkipPlan plan;
  double seconds = 0.0;
  int paths_changed = 0;       // microbatches that go another way than before, or are new
  int placements_changed = 0;  // nodes that were there before and have another stage now
};

// Enough for a good repair: about 30 ms for 20 nodes and 200 ms for 200 on a 2.5 GHz core.
constexpr std::uint64_t repair_evaluations = 4000;

// REQUIRES: `old` obeys the rules of the instance that `changed` comes from, and path_length and stages are the same.
RepairedPlan repair_plan(const SkipPlan& old, const ChangedInstance& changed, std::uint64_t seed,
                         std::uint64_t evaluations = repair_evaluations);

}  // namespace starling::pipeline
