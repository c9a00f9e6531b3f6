// The version of this program, as CMake's project() has it.
#pragma once

#include <string_view>

namespace starling::launcher {

std::string_view version();

}  // namespace starling::launcher
