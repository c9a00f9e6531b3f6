#include "launcher/version.h"

namespace starling::launcher {

std::string_view version() { return STARLING_VERSION; }

}  // namespace starling::launcher
