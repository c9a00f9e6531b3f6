// The commands of this program, in the order in which the help lists them. A new one is a line in commands.cc.
#pragma once

#include <span>

#include "launcher/options.h"

namespace starling::launcher {

std::span<const Command> all_commands();

}  // namespace starling::launcher
