// A second, slow and obvious implementation of what the clock computes: a list of events that is sorted again each time, a
// queue per node that is sorted again each time, nothing kept between runs.
#pragma once

#include <optional>

#include "pipeline/plan_instance.h"

namespace starling::pipeline {

// Seconds of the iteration; nullopt: it locks up.
std::optional<double> slow_seconds(const PlanInstance& instance, const std::vector<PlannedPath>& paths);

}  // namespace starling::pipeline
