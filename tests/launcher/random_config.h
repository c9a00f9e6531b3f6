// Valid configurations of every kind, and their comparison field by field. Neither goes through the table of keys, so that
// a field that the table forgets makes the round trip fail.
#pragma once

#include <cstdint>

#include "launcher/run_config.h"

namespace starling::launcher {

// The same seed gives the same configuration; validate() finds no error in it.
RunConfig random_config(std::uint64_t seed);

// The first field that differs, by its place in the struct ("model[3]"), or nothing.
std::string first_difference(const RunConfig& a, const RunConfig& b);

}  // namespace starling::launcher
