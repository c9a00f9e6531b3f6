// ZeroMQ sockets the way Starling needs them: every option that our safety rests on is set here and nowhere else.
//
// What was learned about libzmq 4.3 and is kept by this file:
//  - Without ZAP_ENFORCE_DOMAIN (option 93, a draft in the header, so set by number and read back) a dead ZAP handler
//    lets everybody in. With it, and with a domain, nobody.
//  - After a ZAP answer of 300 a dialler tries again when HANDSHAKE_IVL expires; so that is 2 s on both ends.
//  - IMMEDIATE on diallers: a send fails until the handshake is done instead of piling up, and a peer that comes back
//    gets nothing that was meant for its last life.
//  - MAXMSGSIZE counts CURVE's own bytes; a frame beyond it ends the connection without a word to the application.
//  - CONNECT_ROUTING_ID and routers that dial are never used: a peer that takes a routing id kills the process.
#pragma once

#include <zmq.hpp>

#include <cstdint>
#include <optional>
#include <string>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/net/identity.h"
#include "gossip/net/lane.h"

namespace starling::net {

inline constexpr std::string_view member_domain = "starling.member";
inline constexpr std::string_view lobby_domain = "starling.lobby";

// Raises the process's limit of open files as far as allowed. Returns how many sockets a context may have then.
int raise_socket_limit();
// Keeps a few freed frames in the process: by default malloc maps each frame of the bulk lane anew, and the page faults
// cost as much as half a copy of every byte. For the whole process, once.
void keep_freed_frames();

// A bound socket's side: who we are, which ZAP domain decides, how large a frame may be.
struct RouterOptions {
  const CurveKeyPair& key;
  std::string_view domain;
  std::size_t max_frame_bytes = 0;
  int receive_frames = 0;        // high-water mark per connection
  std::uint64_t io_threads = 0;  // bit mask; 0: any
};
// A ROUTER that is not bound yet. Errors: io; failed, when this libzmq does not enforce ZAP domains.
Result<zmq::socket_t> make_router(zmq::context_t& context, const RouterOptions& options);

// A dialling side: our key, and the only key that we speak to.
struct DealerOptions {
  const CurveKeyPair& key;
  const CurveKey& server;
  std::size_t max_frame_bytes = 0;  // of what may come back
  int send_frames = 0;
  std::uint64_t io_threads = 0;
};
// A DEALER that is not connected yet. Errors: io, limit (no more sockets).
Result<zmq::socket_t> make_dealer(zmq::context_t& context, const DealerOptions& options);

enum class BindOutcome { bound, taken };
// Errors: bad_config, io. An endpoint with port 0 takes any free port.
Result<BindOutcome> bind(zmq::socket_t& socket, const std::string& endpoint);
// Dials, and goes on dialling until it works. Errors: unreachable: not an endpoint; io.
Status connect(zmq::socket_t& socket, const std::string& endpoint);
// "tcp://host:port" with the real port. REQUIRES: bound.
std::string bound_endpoint(const zmq::socket_t& socket);

int descriptor(const zmq::socket_t& socket);

// Never waits. A message that could not go stays whole.
enum class SendOutcome { sent, full, unreachable };
SendOutcome send_now(zmq::socket_t& socket, zmq::message_t& message, zmq::send_flags more = zmq::send_flags::none);
// The next frame, if one is there.
bool receive_now(zmq::socket_t& socket, zmq::message_t& message);
// Drops the frames of a multipart message behind `frame`. Returns how many.
std::size_t drop_rest(zmq::socket_t& socket, const zmq::message_t& frame);

// A message that owns the bytes; large ones are not copied.
zmq::message_t to_message(Bytes bytes);
inline ByteView view(const zmq::message_t& message) {
  return {static_cast<const std::byte*>(message.data()), message.size()};
}

// Tells what happens to a socket's connections.
class SocketMonitor {
 public:
  struct Event {
    int kind = 0;   // ZMQ_EVENT_*
    int value = 0;  // a descriptor, an errno or a ZAP status, by kind
  };
  // Errors: io, limit.
  static Result<SocketMonitor> open(zmq::context_t& context, zmq::socket_t& socket, int events);
  std::optional<Event> next();
  int descriptor() const { return net::descriptor(pair_); }

 private:
  explicit SocketMonitor(zmq::socket_t pair) : pair_(std::move(pair)) {}
  zmq::socket_t pair_;
};

}  // namespace starling::net
