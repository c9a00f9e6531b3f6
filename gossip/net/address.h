// Where sockets are bound and dialled: "tcp://host:port", and which host to tell others.
//
// Endpoints in records come from peers, so what we dial is checked to be a plain numeric address: another scheme, a
// source address or a name that must be looked up (in ZeroMQ's I/O thread, which serves everybody) is refused.
#pragma once

#include <string>
#include <string_view>

#include "gossip/base/error.h"
#include "gossip/base/host_port.h"

namespace starling::net {

// Errors: bad_config, saying what was expected.
Result<HostPort> parse_endpoint(std::string_view endpoint);
std::string to_endpoint(const HostPort& address);

// Whether a peer's endpoint may be dialled: tcp, a numeric IPv4 or IPv6 host, a port.
bool is_dialable(std::string_view endpoint);

// The numeric address of a host name or of a numeric host. May wait for a name server: at start only.
// Errors: bad_config.
Result<std::string> numeric_host(const std::string& host);

// What to tell others when we listen on `listen_host` (numeric): the `advertise` of the run file, resolved; with "auto"
// the host itself, or, where that means every interface, the address of the default route; 127.0.0.1 without one.
Result<std::string> advertised_host(const std::string& listen_host, const std::string& advertise);

}  // namespace starling::net
