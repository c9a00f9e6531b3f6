#include "gossip/net/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <memory>

namespace starling::net {
namespace {

constexpr std::string_view scheme = "tcp://";

bool is_numeric(const std::string& host) {
  in6_addr ignored{};
  return ::inet_pton(AF_INET, host.c_str(), &ignored) == 1 || ::inet_pton(AF_INET6, host.c_str(), &ignored) == 1;
}

bool is_every_interface(const std::string& host) { return host == "0.0.0.0" || host == "::" || host == "*"; }

std::string text_of(const sockaddr* address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  const int rc = ::getnameinfo(address, size, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST);
  return rc == 0 ? std::string(host.data()) : std::string();
}

// The address this host would send from to the world outside. No packet is sent: connecting a datagram socket only
// looks up the route. The destination is a documentation address (RFC 5737).
std::string default_route_host() {
  const int fd = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return {};
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(9);
  ::inet_pton(AF_INET, "192.0.2.1", &target.sin_addr);
  std::string host;
  sockaddr_storage own{};
  socklen_t size = sizeof own;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&target), sizeof target) == 0 &&
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) == 0) {
    host = text_of(reinterpret_cast<const sockaddr*>(&own), size);
  }
  ::close(fd);
  return host;
}

}  // namespace

Result<HostPort> parse_endpoint(std::string_view endpoint) {
  if (!endpoint.starts_with(scheme)) {
    return fail(ErrorCode::bad_config, "an endpoint is tcp://host:port, such as tcp://192.0.2.7:29400");
  }
  return parse_host_port(endpoint.substr(scheme.size()));
}

std::string to_endpoint(const HostPort& address) {
  const bool six = address.host.find(':') != std::string::npos;
  return std::string(scheme) + (six ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

bool is_dialable(std::string_view endpoint) {
  const auto address = parse_endpoint(endpoint);
  return address && address->port != 0 && is_numeric(address->host);
}

Result<std::string> numeric_host(const std::string& host) {
  if (is_numeric(host)) return host;
  if (host == "*") return std::string("0.0.0.0");
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int rc = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  const std::string numeric = rc == 0 && found != nullptr ? text_of(found->ai_addr, found->ai_addrlen) : std::string();
  if (numeric.empty()) {
    return fail(ErrorCode::bad_config, "the host '" + host + "' has no address (" +
                                           (rc == 0 ? "none found" : ::gai_strerror(rc)) +
                                           "); set a host that can be looked up, or an address");
  }
  return numeric;
}

Result<std::string> advertised_host(const std::string& listen_host, const std::string& advertise) {
  if (advertise != "auto") return numeric_host(advertise);
  if (!is_every_interface(listen_host)) return listen_host;
  const std::string host = default_route_host();
  return host.empty() ? std::string("127.0.0.1") : host;
}

}  // namespace starling::net
