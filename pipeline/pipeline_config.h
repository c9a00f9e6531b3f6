// The section pipeline of the run file: how microbatches find their way.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace starling::pipeline {

enum class Routing { adaptive, permutation };
enum class Skip { on_failure, never };
// What becomes of a stage that has lost its last replica: another worker takes it over, or it is skipped to the end.
enum class Takeover { on_loss, never };
enum class ActivationDtype { fp32, bf16 };

struct PipelineConfig {
  Routing routing = Routing::adaptive;
  Skip skip = Skip::on_failure;
  Takeover takeover = Takeover::on_loss;
  std::optional<std::int64_t> max_in_flight;               // unset: auto
  std::optional<std::int64_t> max_activation_memory_bytes; // unset: auto
  ActivationDtype activation_dtype = ActivationDtype::bf16;

  std::vector<std::string> validate() const;
};

}  // namespace starling::pipeline
