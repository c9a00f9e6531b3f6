// A network of N nodes in virtual time, behind the same seam as the real one (gossip/net/transport.h).
//
// What it keeps of reality, because the code above depends on it:
// - A lane towards a peer is one ordered connection. It is made at the first send, takes three round trips (TCP and
//   CURVE), is reported as PeerConnected, and what is sent before waits in a bounded queue whose oldest frame gives way.
//   A listener that does not know our key refuses: PeerRefused, and again and again until it does; one that revoked it
//   is not asked again for a while. A crash or a partition breaks connections; they are tried again, and what was under
//   way is lost.
// - Bulk frames queue for their sender's uplink and their receiver's downlink, store and forward. Control frames pass
//   them by: separate sockets share a line, and small frames hardly notice.
// - `loss` stands for frames that a broken connection or a full queue took, `duplicate` for control frames that a layer
//   below sent twice; the order of the others on a lane is kept.
// - A paused node (SIGSTOP, a closed lid) receives nothing. What comes waits in a bounded inbox until it wakes.
//
// What it does not model: congestion between flows, half-open connections, the cost of encryption.
//
// Thread: the one of the scheduler. Chance comes from one stream, drawn in the order of calls, so equal calls at equal
// times give equal histories. Frames are moved from sender to receiver, never copied.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/net/transport.h"
#include "gossip/sim/scheduler.h"

namespace starling::sim {

class SimNetwork {
 public:
  // One way from one node to another.
  struct Link {
    Duration latency = std::chrono::milliseconds(5);
    Duration jitter{};       // plus uniform in [0, jitter)
    double loss = 0.0;       // of a frame
    double duplicate = 0.0;  // of a control frame
  };
  struct Config {
    Link link;                                            // where set_link said nothing
    double bytes_per_second = 125e6;                      // of each node, up and down
    Duration reconnect = std::chrono::milliseconds(500);  // after nobody answered
    Duration refused_again = std::chrono::seconds(2);     // after "not known yet"
    Duration revoked_again = std::chrono::seconds(10);    // after "revoked", at the next send
    Duration lobby_timeout = std::chrono::seconds(10);
    std::size_t control_queue_bytes = 1 << 20;  // per peer, while not connected
    std::size_t bulk_queue_bytes = 16 << 20;
    std::size_t queue_frames = 4096;
    std::size_t inbox_bytes = 4 << 20;   // of a paused node; more is lost
    std::size_t max_lobby_pending = 64;  // unanswered requests at one lobby; more time out
  };
  using Receive = std::function<void(net::TransportEvent)>;

  SimNetwork(Scheduler& scheduler, Config config, Stream random);
  ~SimNetwork();
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  // A node that is up and has admitted nobody. `receive` is called from tasks of the scheduler, never from within a call
  // to the transport. The transport lives as long as the network. REQUIRES: the id is new.
  net::Transport& add(const NodeId& id, Receive receive);

  // The process is gone: it receives nothing more, and its transport forgets everything.
  void crash(const NodeId& id);
  // The same node starts again at the same address. REQUIRES: it crashed.
  void restart(const NodeId& id, Receive receive);
  void pause(const NodeId& id);
  void resume(const NodeId& id);

  void set_link(const NodeId& from, const NodeId& to, const Link& link);
  void set_default_link(const Link& link) { config_.link = link; }
  void set_bandwidth(const NodeId& id, double bytes_per_second);
  // Nodes of different groups do not reach each other. Everybody starts in group 0.
  void set_group(const NodeId& id, int group);

  // Frames that were handed to a receiver, of all nodes since the start.
  std::uint64_t delivered() const { return delivered_; }

 private:
  class Port;
  struct Node;
  struct Connection;
  struct Peer;
  struct Flight;
  using Index = std::uint32_t;

  Index index_of(const NodeId& id) const;
  const Link& link(const Node& from, Index to) const;
  Duration one_way(const Link& link);
  Duration handshake(const Node& from, const Node& to);
  bool reachable(const Node& a, const Node& b) const;

  void send(Node& from, const NodeId& to, net::Lane lane, Bytes frame);
  void dial(Node& from, const NodeId& to, net::Lane lane, Duration delay);
  void dialled(Node& from, const NodeId& to, net::Lane lane);
  void connected(Node& from, const NodeId& to, net::Lane lane, Connection& connection);
  void transmit(Node& from, Connection& connection, net::Lane lane, Bytes frame);
  void fly(TimePoint arrival, Flight flight);
  void arrived(std::uint32_t slot);
  void deliver(Flight flight);
  void hand(Node& node, net::TransportEvent event, std::size_t bytes);
  void drain(Node& node);
  void break_connections(const Node& node);

  void request_lobby(Node& from, const NodeId& seed, const std::string& endpoint, Bytes frame);
  void answer_lobby(Node& at, net::LobbyRequestId request, Bytes frame);
  void finish_lobby(Node& node, std::uint64_t request, Result<Bytes> answer);

  Scheduler& scheduler_;
  Config config_;
  Stream random_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<NodeId, Index> by_id_;
  std::map<std::string, std::pair<Index, net::Lane>> by_endpoint_;
  std::vector<Flight> flights_;
  std::vector<std::uint32_t> free_flights_;
  std::uint64_t delivered_ = 0;
};

}  // namespace starling::sim
