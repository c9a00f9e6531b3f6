// `starling validate`: says whether a run file is good, and what it amounts to.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command validate_command();

}  // namespace starling::launcher
