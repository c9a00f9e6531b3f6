// The line that a person watches, and how figures are written for people:
//
//   step 1200/25000 loss 3.412 lr 5.9e-4 grad 0.81 tok/s 41.2k workers 23/40 skipped 1.2% eta 3h12m
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "gossip/base/ids.h"

namespace starling::metrics {

struct StepLine {
  Step step = 0;
  Step max_steps = 0;  // 0: no limit is known
  std::optional<double> loss;
  std::optional<double> learning_rate;
  std::optional<double> gradient_norm;
  std::optional<double> tokens_per_second;
  std::int64_t workers_active = 0;
  std::int64_t workers_wanted = 0;   // stages x replicas; 0: unknown
  std::optional<double> skip_ratio;  // 0 to 1
  std::optional<double> eta_seconds;
};

// What has no value is left out. Never a line break.
std::string format_step_line(const StepLine& line);

// 950, 41.2k, 3.05M, 1.20G: three digits and a power of a thousand. "nan" and "inf" as they are.
std::string format_count(double value);
// 512 B, 41.2 KiB, 1.5 GiB.
std::string format_bytes(std::uint64_t bytes);
// 45s, 12m30s, 3h12m, 2d4h; "-" for what is negative or not finite, ">999d" beyond.
std::string format_duration(double seconds);
// 5.9e-4: two digits and an exponent without padding.
std::string format_scientific(double value);
// 0.81, 12.3, 123, 4.1e-5: readable from tiny to huge, at most nine characters.
std::string format_short(double value);

}  // namespace starling::metrics
