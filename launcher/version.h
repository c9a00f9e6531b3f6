// What this program was built from: the version of CMake's project(), the commit of the checkout ("unknown" without
// one), and the LibTorch it was compiled against ("none" without one).
#pragma once

#include <string_view>

namespace starling::launcher {

std::string_view version();
std::string_view commit();
std::string_view torch_version();

}  // namespace starling::launcher
