#include "pipeline/pipeline_config.h"

#include <fmt/format.h>

namespace starling::pipeline {
namespace {

constexpr std::int64_t max_open_microbatches = 4096;
constexpr std::int64_t min_activation_memory_bytes = 1 << 20;

}  // namespace

std::vector<std::string> PipelineConfig::validate() const {
  std::vector<std::string> problems;
  if (max_in_flight && (*max_in_flight < 1 || *max_in_flight > max_open_microbatches)) {
    problems.push_back(fmt::format("max_in_flight: expected auto or 1 to {} open microbatches, got {}",
                                   max_open_microbatches, *max_in_flight));
  }
  if (max_activation_memory_bytes && *max_activation_memory_bytes < min_activation_memory_bytes) {
    problems.push_back(fmt::format("max_activation_memory: expected auto or at least 1MiB, got {} bytes",
                                   *max_activation_memory_bytes));
  }
  return problems;
}

}  // namespace starling::pipeline
