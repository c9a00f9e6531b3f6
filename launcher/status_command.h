// starling status [RUN_DIR|URL] [--json]
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command status_command();

}  // namespace starling::launcher
