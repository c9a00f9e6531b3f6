#include "gossip/net/network_config.h"

#include <fmt/format.h>

#include <string_view>

#include "gossip/base/host_port.h"

namespace starling::net {
namespace {

constexpr std::string_view scheme = "tcp://";
constexpr std::uint16_t last_first_port = 65533;  // listen takes this port and the two after it

}  // namespace

std::vector<std::string> NetworkConfig::validate() const {
  std::vector<std::string> problems;
  const std::string_view address = listen;
  if (!address.starts_with(scheme)) {
    problems.push_back(fmt::format("listen: expected tcp://host:port, such as tcp://0.0.0.0:29400, got '{}'", listen));
  } else if (const auto parsed = parse_host_port(address.substr(scheme.size())); !parsed) {
    problems.push_back(fmt::format("listen: after tcp:// {}", parsed.error().message));
  } else if (parsed->port > last_first_port) {
    problems.push_back(
        fmt::format("listen: a node takes port {0} and the two after it; the highest is {1}; set {1} or less",
                    parsed->port, last_first_port));
  }
  if (advertise != "auto" && !is_host(advertise)) {
    problems.push_back(fmt::format(
        "advertise: expected auto or a host without a port, such as train.example.org or 192.0.2.7, got '{}'",
        advertise));
  }
  return problems;
}

}  // namespace starling::net
