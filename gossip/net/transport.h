// The seam to the network: frames between authenticated nodes, on three lanes.
//
// Lanes and their limits: lane.h. `from` of a received control or bulk frame is always the authenticated key of its
// sender, never something that the frame says. Delivery is at most once, in order per (peer, lane) while a connection
// lives, and promised to nobody: everything above copes with loss, duplication and silence.
//
// Two implementations, one conformance suite (tests/gossip/net/transport_conformance.h): zmq_transport and sim/network.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/lane.h"

namespace starling::net {

// A request on our lobby that has not been answered yet.
using LobbyRequestId = std::uint64_t;

struct Received {
  NodeId from;
  Lane lane = Lane::control;  // control | bulk
  Bytes frame;
};
// Frames to this peer go out from now on (again); acknowledgement deadlines start here.
struct PeerConnected {
  NodeId peer;
  Lane lane = Lane::control;
};
// The peer's side refused our key (unknown, expired, revoked, other run), or it is not who its address promised.
struct PeerRefused {
  NodeId peer;
  Lane lane = Lane::control;
  std::string why;
};
// A stranger with the lobby key asks to be let in.
struct LobbyRequested {
  LobbyRequestId request = 0;
  Bytes frame;
};
// The answer to our own request at a seed's lobby, or why none will come.
struct LobbyAnswered {
  NodeId seed;
  Result<Bytes> frame;
};

using TransportEvent = std::variant<Received, PeerConnected, PeerRefused, LobbyRequested, LobbyAnswered>;

// What happened since the start; the loop copies it into metrics.
struct TransportCounters {
  std::uint64_t sent_bytes = 0;
  std::uint64_t received_bytes = 0;
  std::uint64_t rejected_bad_auth = 0;   // handshakes refused by ZAP, frames of revoked members
  std::uint64_t rejected_oversize = 0;   // frames over a lane's limit (where the socket still tells us), or several in one
  std::uint64_t dropped_full = 0;        // sends beyond a peer's bounded queue, oldest first; lobby requests beyond theirs
  std::uint64_t dropped_unroutable = 0;  // sends to a peer without endpoints, or that refuses us
  std::uint64_t lobby_resets = 0;        // the lobby's context was thrown away because strangers filled memory
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Who may speak to us on control and bulk. A frame of anybody else is refused before any decoder sees it.
  virtual void admit(const NodeId& member) = 0;
  // From now on every frame of this key is dropped unread, also on connections that already stand.
  virtual void revoke(const NodeId& member) = 0;

  // Where a peer listens; a changed address replaces the old connection. Connections are made at the first send.
  virtual void set_endpoints(const NodeId& peer, const Endpoints& endpoints) = 0;
  // Closes connections to the peer and drops what waits for it.
  virtual void forget(const NodeId& peer) = 0;

  // Never blocks. What cannot go out yet waits in a bounded queue per peer and lane (the oldest gives way); no endpoints
  // known: dropped and counted. REQUIRES: lane is control or bulk and the frame is within the lane's limit.
  virtual void send(const NodeId& to, Lane lane, Bytes frame) = 0;

  // Asks the lobby of a seed; exactly one LobbyAnswered follows. REQUIRES: at most max_lobby_request_bytes.
  virtual void request_lobby(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame) = 0;
  // REQUIRES: at most max_lobby_answer_bytes. An unknown or expired request is ignored.
  virtual void answer_lobby(LobbyRequestId request, Bytes frame) = 0;

  virtual const Endpoints& bound() const = 0;
  virtual TransportCounters counters() const = 0;
};

}  // namespace starling::net
