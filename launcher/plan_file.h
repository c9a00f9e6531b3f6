// The instance files of `starling plan`: one JSON object that describes a network and what an iteration asks of it.
//
//   delays                       [from][to] seconds for one activation; or, instead,
//   latency_seconds, bandwidth_bytes_per_second ([from][to] each) and activation_bytes
//   forward_seconds, memory      a number, or a list with one for each node
//   num_stages, path_length, microbatches_per_originator
//   stage_sizes                  nodes per stage; left out: the planner chooses, and stage 0 gets
//   originators                  that many nodes; left out as well: nodes / num_stages, rounded up
//   locations                    names for people, one a node; may be left out
//
// Other keys are left alone, but none may stand there twice. Every mistake has a message of its own; nothing is guessed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pipeline/plan_instance.h"

namespace starling::launcher {

// A file that is larger is not read: 2,000 nodes with nine digits a delay fit.
constexpr std::uint64_t max_plan_file_bytes = 64 << 20;

struct PlanFile {
  pipeline::PlanInstance instance;  // valid
  std::vector<std::string> names;   // one a node; empty where the file has none
};

// bad_config, with what is wrong and where.
Result<PlanFile> parse_plan_file(std::string_view text);
Result<PlanFile> read_plan_file(const std::string& path);

}  // namespace starling::launcher
