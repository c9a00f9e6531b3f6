// starling join TOKEN|FILE: a volunteer's one line, and how the launcher starts its own workers.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command join_command();

}  // namespace starling::launcher
