// starling plan --instance FILE [--json] [--seconds S] [--seed N] [--evaluations N] [--searches N] [--svg FILE]
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command plan_command();

}  // namespace starling::launcher
