// The sockets below http_server: one that listens, and one connection as cpp-httplib reads and writes it, with a budget
// and deadlines. cpp-httplib has neither: it reads a request line or a number of headers without end, and its timeouts
// start anew with every byte.
#pragma once

#include <httplib.h>

#include <array>
#include <cstddef>
#include <string>
#include <utility>

#include "gossip/base/env.h"
#include "gossip/base/error.h"
#include "gossip/base/host_port.h"
#include "gossip/base/time.h"
#include "metrics/http_server.h"

namespace starling::metrics {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

// How many ports after the asked one are tried before any free one will do.
inline constexpr int ports_to_try = 64;

// A bound socket that listens, does not block, and does not pass to child processes. Not SO_REUSEPORT, with which two
// nodes would share a port without noticing. Errors: as HttpServer::start.
Result<Descriptor> listen_on(const HostPort& address, PortChoice choice);

// "127.0.0.1:9464", "[::1]:9464": the near end of a socket.
Result<std::string> local_address(int socket);

class BoundedStream final : public httplib::Stream {
 public:
  // Gives up when `wake` becomes readable. Does not own the descriptors. REQUIRES: `socket` does not block.
  BoundedStream(int socket, int wake, const Clock& clock, Duration request_deadline, Duration connection_deadline);

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* out, std::size_t size) override;
  ssize_t write(const char* bytes, std::size_t size) override;
  // Unknown, and nobody's business: requests are not logged.
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  // None: nobody but this class may touch it, and cpp-httplib refuses descriptors beyond the reach of select().
  socket_t socket() const override { return -1; }

  // Reads and drops what the other side still sends, until it closes or a bound is met: a connection that is closed
  // with unread bytes is reset, and then the answer may never arrive.
  void drain();

 private:
  bool wait(short events, TimePoint deadline) const;
  bool fill();
  ssize_t give_up();

  const int socket_;
  const int wake_;
  const Clock& clock_;
  const TimePoint request_deadline_;
  const TimePoint connection_deadline_;
  std::size_t budget_ = http_request_bytes;
  std::array<char, 4096> buffer_{};
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace starling::metrics
