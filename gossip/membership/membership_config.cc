#include "gossip/membership/membership_config.h"

#include <fmt/format.h>

namespace starling::membership {
namespace {

constexpr std::int64_t max_workers = 100'000;
// Below the first, probes cost more than the work; above the second, a death is noticed after minutes.
constexpr Duration min_heartbeat_interval = std::chrono::milliseconds(100);
constexpr Duration max_heartbeat_interval = std::chrono::seconds(60);

}  // namespace

std::vector<std::string> MembershipConfig::validate() const {
  std::vector<std::string> problems;
  if (start_workers && (*start_workers < 1 || *start_workers > max_workers)) {
    problems.push_back(fmt::format("start_workers: expected auto (stages x replicas) or 1 to {}, got {}", max_workers,
                                   *start_workers));
  }
  if (heartbeat_interval < min_heartbeat_interval || heartbeat_interval > max_heartbeat_interval) {
    problems.push_back(
        fmt::format("heartbeat_interval: expected 100ms to 60s, got {}s; 1s is usual", seconds(heartbeat_interval)));
  }
  if (join != "token") {
    problems.push_back(fmt::format("join: workers are admitted by token; expected token, got '{}'", join));
  }
  return problems;
}

}  // namespace starling::membership
