// Instances to plan for: the published one, networks of any size made from the link table of cloud regions, and random
// ones for property tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "gossip/base/random.h"
#include "pipeline/plan_instance.h"

namespace starling::test {

// tests/golden, by STARLING_TEST_SOURCE_DIR or from the directory in which the program runs.
std::filesystem::path golden_directory();
std::string read_golden(const std::string& name);

// SkipPipe's 20 nodes.
pipeline::PlanInstance published_instance();

// Node i is in region i % 12; an activation of 1/32 GiB, 0.35 s fixed; stages of nearly the same size, each originator starts
// 6 microbatches. The link NL-London as corrected.
pipeline::PlanInstance cloud_instance(int nodes, int stages, int path_length);
// As published_instance(), with the corrected link.
pipeline::PlanInstance corrected_instance();
// Forward times 1 to 8 times as long, memory 1 to 6.
pipeline::PlanInstance vary(pipeline::PlanInstance instance, std::uint64_t seed);

// Any valid instance of `nodes` nodes: asymmetric delays (some 0), speeds, memory, sizes given or free.
pipeline::PlanInstance random_instance(int nodes, Stream& random);

}  // namespace starling::test
