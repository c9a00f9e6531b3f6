// Names of files that hold *, ? or [...].
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "gossip/base/error.h"

namespace starling::trainer {

bool is_pattern(const std::string& path);

// What the pattern matches, sorted by byte value, so that every machine reads the files in one order whatever its locale.
// Errors: io.
Result<std::vector<std::filesystem::path>> matching_files(const std::string& pattern);

}  // namespace starling::trainer
