// starling launch RUN.YAML: starts a run, as its observer and the starter of local workers.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command launch_command();

}  // namespace starling::launcher
