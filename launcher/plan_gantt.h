// A picture of one iteration under a plan: a Gantt chart as SVG. Nodes go down, grouped by stage, time goes across. Forward,
// loss, backward and waiting are told apart by pattern and letter as well as by colour: forward is plain, backward is
// hatched, the loss is solid dark, waiting is a thin dotted line below. Each box names its microbatch and has a tooltip.
#pragma once

#include <string>
#include <vector>

#include "pipeline/plan_report.h"

namespace starling::launcher {

// `names`: one a node, may be empty.
std::string gantt_svg(const pipeline::PlanReport& report, const std::vector<std::string>& names);

}  // namespace starling::launcher
