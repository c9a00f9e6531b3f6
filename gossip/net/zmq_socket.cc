#include "gossip/net/zmq_socket.h"

#include <malloc.h>
#include <sys/resource.h>
#include <zmq.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace starling::net {
namespace {

// By number: the header names it for draft builds only.
constexpr int zap_enforce_domain = 93;

constexpr int handshake_ms = 2'000;
constexpr int heartbeat_ms = 5'000;
constexpr int heartbeat_timeout_ms = 15'000;
constexpr int linger_ms = 500;  // what a closing process may still send
constexpr int reconnect_ms = 100;
constexpr int reconnect_max_ms = 2'000;
constexpr int connect_timeout_ms = 5'000;
constexpr int monitor_events = 10'000;

tl::unexpected<Error> zmq_error(const std::string& doing, int code) {
  const bool limit = code == EMFILE || code == ENFILE || code == ENOMEM;
  return fail(limit ? ErrorCode::limit : ErrorCode::io, doing + ": " + ::zmq_strerror(code));
}

void set(zmq::socket_t& socket, int option, int value) {
  if (::zmq_setsockopt(socket.handle(), option, &value, sizeof value) != 0) throw zmq::error_t();
}
void set(zmq::socket_t& socket, int option, ByteView value) {
  if (::zmq_setsockopt(socket.handle(), option, value.data(), value.size()) != 0) throw zmq::error_t();
}

void set_common(zmq::socket_t& socket, std::size_t max_frame_bytes, std::uint64_t io_threads) {
  const auto max_bytes = static_cast<std::int64_t>(max_frame_bytes);
  set(socket, ZMQ_MAXMSGSIZE, ByteView(reinterpret_cast<const std::byte*>(&max_bytes), sizeof max_bytes));
  set(socket, ZMQ_AFFINITY, ByteView(reinterpret_cast<const std::byte*>(&io_threads), sizeof io_threads));
  set(socket, ZMQ_HANDSHAKE_IVL, handshake_ms);
  set(socket, ZMQ_HEARTBEAT_IVL, heartbeat_ms);
  set(socket, ZMQ_HEARTBEAT_TIMEOUT, heartbeat_timeout_ms);
  set(socket, ZMQ_HEARTBEAT_TTL, heartbeat_timeout_ms);
  set(socket, ZMQ_LINGER, linger_ms);
}

// Only where the address is one: with it on, libzmq names IPv4 addresses as mapped IPv6 ones.
Status prepare_for(zmq::socket_t& socket, const std::string& endpoint) {
  const int six = endpoint.find('[') != std::string::npos ? 1 : 0;
  if (::zmq_setsockopt(socket.handle(), ZMQ_IPV6, &six, sizeof six) == 0) return {};
  return zmq_error("cannot use " + endpoint, ::zmq_errno());
}

void set_router(zmq::socket_t& socket, const RouterOptions& options) {
  set_common(socket, options.max_frame_bytes, options.io_threads);
  set(socket, ZMQ_ROUTER_MANDATORY, 1);
  set(socket, ZMQ_RCVHWM, options.receive_frames);
  set(socket, ZMQ_CURVE_SERVER, 1);
  set(socket, ZMQ_CURVE_SECRETKEY, options.key.secret().reveal());
  set(socket, ZMQ_ZAP_DOMAIN, as_bytes(options.domain));
  set(socket, zap_enforce_domain, 1);
}

bool enforces_domain(const zmq::socket_t& socket) {
  int value = 0;
  std::size_t size = sizeof value;
  return ::zmq_getsockopt(const_cast<void*>(socket.handle()), zap_enforce_domain, &value, &size) == 0 && value == 1;
}

}  // namespace

int raise_socket_limit() {
  constexpr rlim_t wanted = 65'536;
  constexpr int most = 16'383;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1'023;
  const rlim_t target = limit.rlim_max == RLIM_INFINITY ? wanted : std::min(wanted, limit.rlim_max);
  if (limit.rlim_cur < target) {
    limit.rlim_cur = target;
    // Refused: what we had is what we have.
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  // A socket has a descriptor for its mailbox and one for its connection; a part is left to files and HTTP.
  return std::clamp(static_cast<int>(std::min<rlim_t>(limit.rlim_cur, wanted)) / 3, 64, most);
}

void keep_freed_frames() {
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 32 << 20);
}

Result<zmq::socket_t> make_router(zmq::context_t& context, const RouterOptions& options) {
  try {
    zmq::socket_t socket(context, zmq::socket_type::router);
    set_router(socket, options);
    if (!enforces_domain(socket)) {
      return fail(ErrorCode::failed,
                  "this libzmq does not enforce ZAP domains, so a node could not keep strangers out; "
                  "install libzmq 4.3.4 or newer");
    }
    return socket;
  } catch (const zmq::error_t& error) {
    return zmq_error("cannot make a listening socket", error.num());
  }
}

Result<zmq::socket_t> make_dealer(zmq::context_t& context, const DealerOptions& options) {
  try {
    zmq::socket_t socket(context, zmq::socket_type::dealer);
    set_common(socket, options.max_frame_bytes, options.io_threads);
    set(socket, ZMQ_IMMEDIATE, 1);
    set(socket, ZMQ_SNDHWM, options.send_frames);
    set(socket, ZMQ_RCVHWM, 1);  // nobody but a lobby answers on a dialled socket
    set(socket, ZMQ_RECONNECT_IVL, reconnect_ms);
    set(socket, ZMQ_RECONNECT_IVL_MAX, reconnect_max_ms);
    set(socket, ZMQ_CONNECT_TIMEOUT, connect_timeout_ms);
    set(socket, ZMQ_CURVE_SERVERKEY, options.server.key);
    set(socket, ZMQ_CURVE_PUBLICKEY, options.key.public_key().key);
    set(socket, ZMQ_CURVE_SECRETKEY, options.key.secret().reveal());
    return socket;
  } catch (const zmq::error_t& error) {
    return zmq_error("cannot make a socket", error.num());
  }
}

Result<BindOutcome> bind(zmq::socket_t& socket, const std::string& endpoint) {
  if (Status prepared = prepare_for(socket, endpoint); !prepared) return tl::unexpected(prepared.error());
  if (::zmq_bind(socket.handle(), endpoint.c_str()) == 0) return BindOutcome::bound;
  const int code = ::zmq_errno();
  if (code == EADDRINUSE) return BindOutcome::taken;
  if (code == EACCES) {
    return fail(ErrorCode::bad_config, "cannot listen on " + endpoint + ": not allowed; choose a port above 1023");
  }
  if (code == EADDRNOTAVAIL || code == ENODEV || code == EINVAL) {
    return fail(ErrorCode::bad_config,
                "cannot listen on " + endpoint + ": this machine has no such address; try tcp://0.0.0.0:29400");
  }
  return zmq_error("cannot listen on " + endpoint, code);
}

Status connect(zmq::socket_t& socket, const std::string& endpoint) {
  if (Status prepared = prepare_for(socket, endpoint); !prepared) return prepared;
  if (::zmq_connect(socket.handle(), endpoint.c_str()) == 0) return {};
  return fail(ErrorCode::unreachable, "cannot dial " + endpoint + ": " + ::zmq_strerror(::zmq_errno()));
}

std::string bound_endpoint(const zmq::socket_t& socket) { return socket.get(zmq::sockopt::last_endpoint); }

int descriptor(const zmq::socket_t& socket) { return socket.get(zmq::sockopt::fd); }

SendOutcome send_now(zmq::socket_t& socket, zmq::message_t& message, zmq::send_flags more) {
  const int flags = static_cast<int>(more) | ZMQ_DONTWAIT;
  while (::zmq_msg_send(message.handle(), socket.handle(), flags) < 0) {
    const int code = ::zmq_errno();
    if (code == EINTR) continue;
    return code == EAGAIN ? SendOutcome::full : SendOutcome::unreachable;
  }
  return SendOutcome::sent;
}

bool receive_now(zmq::socket_t& socket, zmq::message_t& message) {
  while (::zmq_msg_recv(message.handle(), socket.handle(), ZMQ_DONTWAIT) < 0) {
    if (::zmq_errno() != EINTR) return false;
  }
  return true;
}

std::size_t drop_rest(zmq::socket_t& socket, const zmq::message_t& frame) {
  std::size_t dropped = 0;
  bool more = frame.more();
  while (more) {
    zmq::message_t rest;
    if (!receive_now(socket, rest)) break;
    more = rest.more();
    ++dropped;
  }
  return dropped;
}

zmq::message_t to_message(Bytes bytes) {
  constexpr std::size_t worth_a_handover = 4096;
  if (bytes.size() < worth_a_handover) return zmq::message_t(bytes.data(), bytes.size());
  auto owner = std::make_unique<Bytes>(std::move(bytes));
  const auto release = [](void*, void* hint) { delete static_cast<Bytes*>(hint); };
  Bytes& held = *owner;
  zmq::message_t message(held.data(), held.size(), release, owner.get());
  static_cast<void>(owner.release());  // the message frees it, in whatever thread it is sent
  return message;
}

Result<SocketMonitor> SocketMonitor::open(zmq::context_t& context, zmq::socket_t& socket, int events) {
  // Unique in the process: the name of a closed monitor may still be in use for a moment.
  static std::atomic<std::uint64_t> last{0};
  const std::string endpoint = "inproc://monitor-" + std::to_string(++last);
  if (::zmq_socket_monitor(socket.handle(), endpoint.c_str(), events) != 0) {
    return zmq_error("cannot watch a socket", ::zmq_errno());
  }
  try {
    zmq::socket_t pair(context, zmq::socket_type::pair);
    set(pair, ZMQ_LINGER, 0);
    set(pair, ZMQ_RCVHWM, monitor_events);
    pair.connect(endpoint);
    return SocketMonitor(std::move(pair));
  } catch (const zmq::error_t& error) {
    ::zmq_socket_monitor(socket.handle(), nullptr, 0);
    return zmq_error("cannot watch a socket", error.num());
  }
}

std::optional<SocketMonitor::Event> SocketMonitor::next() {
  zmq::message_t head;
  if (!receive_now(pair_, head)) return std::nullopt;
  drop_rest(pair_, head);  // the endpoint
  ByteReader in(view(head));
  Event event;
  event.kind = in.number<std::uint16_t>();
  event.value = static_cast<int>(in.number<std::int32_t>());
  return event;
}

}  // namespace starling::net
