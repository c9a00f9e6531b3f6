// Searches for a skip plan on all cores: independent planners with seeds of their own, one a thread, and the best of their
// plans. The threads start and end here, and share nothing but the instance, which they read.
//
// How much is searched is a count, not a time, so that the same instance, seed, evaluations and number of searches give the
// same plan. From a budget in seconds the count follows by a fixed price per evaluation that an idle machine beats; the time
// is the outer stop for one that does not.
#pragma once

#include <cstdint>
#include <optional>

#include "gossip/base/env.h"
#include "pipeline/plan_instance.h"

namespace starling::launcher {

struct PlanSearch {
  std::uint64_t seed = 0;
  std::uint64_t evaluations = 0;  // of each search
  int searches = 1;
  std::optional<double> seconds;  // stop then at the latest
};

struct FoundPlan {
  pipeline::SkipPlan plan;
  double seconds = 0.0;           // of an iteration
  double first_seconds = 0.0;     // of the first search's first plan
  std::uint64_t evaluations = 0;  // that the first search made
  bool stopped_by_time = false;
};

int all_cores();

// REQUIRES: a valid instance, searches >= 1.
FoundPlan search_plan(const pipeline::PlanInstance& instance, const PlanSearch& search, const Clock& clock);

}  // namespace starling::launcher
