#include "gossip/base/host_port.h"

#include <algorithm>
#include <charconv>

namespace starling {
namespace {

constexpr std::size_t max_host_bytes = 253;  // of a DNS name

bool is_letter_or_digit(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

tl::unexpected<Error> not_host_port(std::string_view text) {
  return fail(ErrorCode::bad_config,
              "expected host:port with a port of 0 to 65535, such as 127.0.0.1:9464 or [::1]:9464, got '" +
                  std::string(text) + "'");
}

}  // namespace

bool is_host(std::string_view text) {
  const bool ipv6 = text.find(':') != std::string_view::npos;
  return !text.empty() && text.size() <= max_host_bytes && text.front() != '-' &&
         std::all_of(text.begin(), text.end(), [ipv6](char c) {
           return is_letter_or_digit(c) || c == '.' || c == '-' || (ipv6 && (c == ':' || c == '%'));
         });
}

Result<HostPort> parse_host_port(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return not_host_port(text);
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  // A second colon belongs to an IPv6 address, and only brackets say where that one ends.
  if (!is_host(host) || bracketed != (host.find(':') != std::string_view::npos)) return not_host_port(text);
  const std::string_view digits = text.substr(colon + 1);
  HostPort out{std::string(host), 0};
  const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), out.port);
  if (failure != std::errc{} || end != digits.data() + digits.size()) return not_host_port(text);
  return out;
}

}  // namespace starling
