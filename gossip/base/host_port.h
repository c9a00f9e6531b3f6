// "host:port" as users write it in a run file and as records carry it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "gossip/base/error.h"

namespace starling {

struct HostPort {
  std::string host;  // a name, an IPv4 address, or an IPv6 address without its brackets
  std::uint16_t port = 0;
  bool operator==(const HostPort&) const = default;
};

// "host:port"; an IPv6 address stands in brackets: "[::1]:9464". Errors: bad_config, saying what was expected.
Result<HostPort> parse_host_port(std::string_view text);

// Whether `text` can be a host: letters, digits, '.', '-' and, for IPv6 (without brackets), ':' and '%'.
bool is_host(std::string_view text);

}  // namespace starling
