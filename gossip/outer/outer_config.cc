#include "gossip/outer/outer_config.h"

#include <fmt/format.h>

#include <cmath>

namespace starling::outer {
namespace {

constexpr std::int64_t max_local_steps = 1'000'000;

}  // namespace

std::string_view to_string(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::noloco: return "noloco";
    case Algorithm::diloco: return "diloco";
    case Algorithm::none: return "none";
  }
  return "";
}

std::vector<std::string> OuterConfig::validate() const {
  std::vector<std::string> problems;
  if (local_steps < 1 || local_steps > max_local_steps) {
    problems.push_back(
        fmt::format("local_steps: expected 1 to {} steps a round, got {}; 50 is usual", max_local_steps, local_steps));
  }
  if (group_size != 2) {
    problems.push_back(fmt::format(
        "group_size: got {}, but replicas average in pairs; set 2 (algorithm: diloco averages all replicas of a stage)",
        group_size));
  }
  if (!(lr > 0.0 && lr <= 2.0))
    problems.push_back(fmt::format("lr: expected more than 0 and at most 2, got {}; 0.7 is usual", lr));
  if (!(momentum >= 0.0 && momentum < 1.0)) {
    problems.push_back(fmt::format("momentum: expected at least 0 and less than 1, got {}; 0.5 is usual", momentum));
  }
  if (!problems.empty() || algorithm != Algorithm::noloco) return problems;
  const double upper = std::sqrt(2.0 + momentum * momentum);
  if (!(effective_gamma() > momentum && effective_gamma() < upper)) {
    problems.push_back(
        fmt::format("gamma: {} ({}) is unstable with momentum {}: the slow weights of a pair drift apart; "
                    "set it above {} and below {:.3f}",
                    effective_gamma(), gamma ? "as set" : "null: equal to lr", momentum, momentum, upper));
  }
  return problems;
}

}  // namespace starling::outer
