// The section membership of the run file, and what SWIM derives from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/time.h"

namespace starling::membership {

struct MembershipConfig {
  std::optional<std::int64_t> start_workers;                   // unset: stages x replicas
  Duration heartbeat_interval = std::chrono::seconds(1);
  std::string join = "token";

  std::vector<std::string> validate() const;
};

}  // namespace starling::membership
