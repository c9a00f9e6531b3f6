#include "metrics/metrics_config.h"

#include <fmt/format.h>

#include "gossip/base/host_port.h"

namespace starling::metrics {

std::vector<std::string> LoggingConfig::validate() const {
  if (log_interval >= 1) return {};
  return {fmt::format("log_interval: expected at least 1 step, got {}; 10 is usual", log_interval)};
}

std::vector<std::string> HttpConfig::validate() const {
  const auto parsed = parse_host_port(listen);
  if (parsed) return {};
  return {"listen: " + parsed.error().message};
}

}  // namespace starling::metrics
