// `starling init`: writes a commented run file to begin with.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command init_command();

}  // namespace starling::launcher
