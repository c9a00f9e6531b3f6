#include "metrics/http_socket.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

namespace starling::metrics {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<Addresses> resolve(const HostPort& address) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found);
  if (failure != 0) {
    return fail(ErrorCode::bad_config, "http.listen: '" + address.host + "' is no address of this machine (" +
                                           ::gai_strerror(failure) + "); 127.0.0.1 serves this machine, 0.0.0.0 all");
  }
  return Addresses(found, &::freeaddrinfo);
}

// Leaves errno as it was at the failure.
Descriptor try_to_listen(const addrinfo& address) {
  static constexpr int backlog = 16;
  Descriptor socket(::socket(address.ai_family, address.ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (socket.get() < 0) return socket;
  // A port whose last connections are still closing is free.
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket.get(), address.ai_addr, address.ai_addrlen) == 0 && ::listen(socket.get(), backlog) == 0) {
    return socket;
  }
  const int failure = errno;
  socket = Descriptor(-1);
  errno = failure;
  return socket;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Result<Descriptor> listen_on(const HostPort& asked, PortChoice choice) {
  const int tries = choice == PortChoice::fixed || asked.port == 0 ? 0 : ports_to_try;
  int failure = 0;
  for (int i = 0; i <= tries; ++i) {
    const int port = i == ports_to_try || asked.port + i > 65535 ? 0 : asked.port + i;
    const auto addresses = resolve({asked.host, static_cast<std::uint16_t>(port)});
    if (!addresses) return tl::unexpected<Error>(addresses.error());
    for (const addrinfo* each = addresses->get(); each != nullptr; each = each->ai_next) {
      Descriptor socket = try_to_listen(*each);
      if (socket.get() >= 0) return socket;
      failure = errno;
    }
    if (failure != EADDRINUSE) break;
  }
  const std::string where = asked.host + ":" + std::to_string(asked.port);
  if (failure == EADDRINUSE) {
    return fail(ErrorCode::bad_config,
                "http.listen: " + where + " is in use by another program; choose another port, or 0 for any");
  }
  return fail(failure == EADDRNOTAVAIL ? ErrorCode::bad_config : ErrorCode::io,
              "http.listen: cannot listen on " + where + ": " + std::strerror(failure));
}

Result<std::string> local_address(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return fail(ErrorCode::io, std::string("cannot tell the address of a socket: ") + std::strerror(errno));
  }
  const bool is_ipv6 = address.ss_family == AF_INET6;
  return (is_ipv6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

BoundedStream::BoundedStream(int socket, int wake, const Clock& clock, Duration request_deadline,
                             Duration connection_deadline)
    : socket_(socket),
      wake_(wake),
      clock_(clock),
      request_deadline_(clock.now() + request_deadline),
      connection_deadline_(clock.now() + connection_deadline) {
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

bool BoundedStream::wait(short events, TimePoint deadline) const {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - clock_.now()).count();
    if (left <= 0) return false;
    std::array<pollfd, 2> fds = {{{socket_, events, 0}, {wake_, POLLIN, 0}}};
    const int ready = ::poll(fds.data(), fds.size(), static_cast<int>(std::min<std::int64_t>(left, 60'000)));
    if (ready < 0 && errno != EINTR) return false;
    if (ready <= 0) continue;
    if (fds[1].revents != 0) return false;
    if (fds[0].revents != 0) return true;
  }
}

bool BoundedStream::is_readable() const { return begin_ < end_ || (budget_ > 0 && wait(POLLIN, request_deadline_)); }

bool BoundedStream::is_writable() const { return wait(POLLOUT, connection_deadline_); }

bool BoundedStream::fill() {
  while (budget_ > 0 && wait(POLLIN, request_deadline_)) {
    const ssize_t n = ::recv(socket_, buffer_.data(), std::min(buffer_.size(), budget_), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return false;
    begin_ = 0;
    end_ = static_cast<std::size_t>(n);
    budget_ -= end_;
    return true;
  }
  return false;
}

ssize_t BoundedStream::read(char* out, std::size_t size) {
  if (begin_ == end_ && !fill()) return -1;
  const std::size_t n = std::min(size, end_ - begin_);
  std::memcpy(out, buffer_.data() + begin_, n);
  begin_ += n;
  return static_cast<ssize_t>(n);
}

ssize_t BoundedStream::give_up() {
  // Nothing more is read either: who does not take an answer is not waited for.
  budget_ = 0;
  return -1;
}

ssize_t BoundedStream::write(const char* bytes, std::size_t size) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = ::send(socket_, bytes + done, size - done, MSG_NOSIGNAL);
    if (n >= 0) {
      done += static_cast<std::size_t>(n);
    } else if (errno == EAGAIN) {
      if (!wait(POLLOUT, connection_deadline_)) return give_up();
    } else if (errno != EINTR) {
      return give_up();
    }
  }
  return static_cast<ssize_t>(size);
}

void BoundedStream::get_remote_ip_and_port(std::string& ip, int& port) const {
  ip.clear();
  port = 0;
}

void BoundedStream::get_local_ip_and_port(std::string& ip, int& port) const {
  ip.clear();
  port = 0;
}

void BoundedStream::drain() {
  ::shutdown(socket_, SHUT_WR);
  while (fill()) begin_ = end_;
}

}  // namespace starling::metrics
