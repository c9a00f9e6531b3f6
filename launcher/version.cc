#include "launcher/version.h"

namespace starling::launcher {

std::string_view version() { return STARLING_VERSION; }
std::string_view commit() { return STARLING_COMMIT; }
std::string_view torch_version() { return STARLING_TORCH_VERSION; }

}  // namespace starling::launcher
