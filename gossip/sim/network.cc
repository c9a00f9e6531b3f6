#include "gossip/sim/network.h"

#include <algorithm>
#include <deque>
#include <utility>

namespace starling::sim {

using net::Lane;

namespace {

std::size_t lane_index(Lane lane) { return static_cast<std::size_t>(lane); }

// Made up, but of the form that records and configs check.
std::string endpoint(std::uint32_t node, Lane lane) {
  return "tcp://10." + std::to_string(node / 65536) + '.' + std::to_string(node / 256 % 256) + '.' +
         std::to_string(node % 256) + ':' + std::to_string(29400 + lane_index(lane));
}

Duration transfer_time(std::size_t bytes, double bytes_per_second) {
  return from_seconds(static_cast<double>(bytes) / bytes_per_second);
}

// Frames that wait, bounded in number and bytes; the oldest gives way. Never refuses a frame to an empty queue.
struct FrameQueue {
  std::deque<Bytes> frames;
  std::size_t bytes = 0;

  // How many frames gave way.
  std::uint64_t push(Bytes frame, std::size_t max_bytes, std::size_t max_frames) {
    std::uint64_t dropped = 0;
    while (!frames.empty() && (bytes + frame.size() > max_bytes || frames.size() >= max_frames)) {
      bytes -= frames.front().size();
      frames.pop_front();
      ++dropped;
    }
    bytes += frame.size();
    frames.push_back(std::move(frame));
    return dropped;
  }
};

}  // namespace

struct SimNetwork::Connection {
  enum class State { closed, dialling, up, refused } state = State::closed;
  std::uint64_t generation = 0;  // of the newest dial; an older handshake that ends is void
  Index to = 0;                  // while up
  TimePoint refused_at{};        // while refused
  FrameQueue waiting;
  TimePoint last_arrival{};  // order on a lane is kept
};

struct SimNetwork::Peer {
  net::Endpoints endpoints;
  Connection lanes[2];  // control, bulk
};

struct SimNetwork::Node {
  struct Asked {  // our request at a lobby
    NodeId seed;
  };
  struct Asking {  // somebody's request at our lobby
    Index asker = 0;
    std::uint64_t asker_boot = 0;
    std::uint64_t request = 0;  // the asker's number
    TimePoint expires{};
  };

  Index index = 0;
  NodeId id;
  net::Endpoints bound;
  std::uint64_t boot = 0;  // raised by each crash: what was meant for an earlier one is void
  bool up = true;
  bool paused = false;
  int group = 0;
  double bytes_per_second = 0.0;
  Receive receive;
  std::unique_ptr<Port> port;
  std::map<Index, Link> links;

  // All below dies with the process.
  std::map<NodeId, Peer> peers;
  std::set<NodeId> admitted;
  std::set<NodeId> revoked;
  net::TransportCounters counters;
  TimePoint uplink_free{};
  TimePoint downlink_free{};
  std::deque<std::pair<net::TransportEvent, std::size_t>> inbox;
  std::size_t inbox_bytes = 0;
  std::map<std::uint64_t, Asked> asked;
  std::map<net::LobbyRequestId, Asking> asking;
  std::uint64_t next_lobby_number = 1;

  void forget_everything() {
    peers.clear();
    admitted.clear();
    revoked.clear();
    counters = {};
    uplink_free = downlink_free = TimePoint{};
    inbox.clear();
    inbox_bytes = 0;
    asked.clear();
    asking.clear();
  }
};

struct SimNetwork::Flight {
  Index from = 0;
  Index to = 0;
  std::uint64_t boot = 0;  // of the receiver
  Lane lane = Lane::control;
  bool past_downlink = false;
  Bytes frame;
};

class SimNetwork::Port final : public net::Transport {
 public:
  Port(SimNetwork& network, Node& node) : network_(network), node_(node) {}

  void admit(const NodeId& member) override {
    node_.admitted.insert(member);
    node_.revoked.erase(member);
  }
  void revoke(const NodeId& member) override { node_.revoked.insert(member); }
  void set_endpoints(const NodeId& peer, const net::Endpoints& endpoints) override {
    Peer& entry = node_.peers[peer];
    if (entry.endpoints == endpoints) return;
    entry.endpoints = endpoints;
    for (const Lane lane : {Lane::control, Lane::bulk}) {
      Connection& connection = entry.lanes[lane_index(lane)];
      if (connection.state == Connection::State::closed) continue;
      network_.dial(node_, peer, lane, Duration::zero());
    }
  }
  void forget(const NodeId& peer) override { node_.peers.erase(peer); }
  void send(const NodeId& to, Lane lane, Bytes frame) override { network_.send(node_, to, lane, std::move(frame)); }
  void request_lobby(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame) override {
    network_.request_lobby(node_, seed, lobby_endpoint, std::move(frame));
  }
  void answer_lobby(net::LobbyRequestId request, Bytes frame) override {
    network_.answer_lobby(node_, request, std::move(frame));
  }
  const net::Endpoints& bound() const override { return node_.bound; }
  net::TransportCounters counters() const override { return node_.counters; }

 private:
  SimNetwork& network_;
  Node& node_;
};

SimNetwork::SimNetwork(Scheduler& scheduler, Config config, Stream random)
    : scheduler_(scheduler), config_(config), random_(random) {}
SimNetwork::~SimNetwork() = default;

// ---------------------------------------------------------------- nodes and faults

net::Transport& SimNetwork::add(const NodeId& id, Receive receive) {
  const auto index = static_cast<Index>(nodes_.size());
  STARLING_CHECK(by_id_.emplace(id, index).second, "a simulated node was added twice");
  auto node = std::make_unique<Node>();
  node->index = index;
  node->id = id;
  node->bound = {endpoint(index, Lane::control), endpoint(index, Lane::bulk), endpoint(index, Lane::lobby)};
  node->bytes_per_second = config_.bytes_per_second;
  node->receive = std::move(receive);
  node->port = std::make_unique<Port>(*this, *node);
  by_endpoint_[node->bound.control] = {index, Lane::control};
  by_endpoint_[node->bound.bulk] = {index, Lane::bulk};
  by_endpoint_[node->bound.lobby] = {index, Lane::lobby};
  nodes_.push_back(std::move(node));
  return *nodes_.back()->port;
}

void SimNetwork::crash(const NodeId& id) {
  Node& node = *nodes_[index_of(id)];
  if (!node.up) return;
  node.up = false;
  node.paused = false;
  ++node.boot;
  // `receive` stays: it may be what is running now.
  node.forget_everything();
  break_connections(node);
}

void SimNetwork::restart(const NodeId& id, Receive receive) {
  Node& node = *nodes_[index_of(id)];
  STARLING_CHECK(!node.up, "only a node that crashed can start again");
  node.up = true;
  node.receive = std::move(receive);
}

void SimNetwork::pause(const NodeId& id) { nodes_[index_of(id)]->paused = true; }

void SimNetwork::resume(const NodeId& id) {
  Node& node = *nodes_[index_of(id)];
  if (!node.paused) return;
  node.paused = false;
  scheduler_.at(scheduler_.now(), [this, &node] { drain(node); });
}

void SimNetwork::set_link(const NodeId& from, const NodeId& to, const Link& link) {
  nodes_[index_of(from)]->links[index_of(to)] = link;
}

void SimNetwork::set_bandwidth(const NodeId& id, double bytes_per_second) {
  STARLING_CHECK(bytes_per_second > 0.0, "a line needs a bandwidth");
  nodes_[index_of(id)]->bytes_per_second = bytes_per_second;
}

void SimNetwork::set_group(const NodeId& id, int group) {
  Node& node = *nodes_[index_of(id)];
  if (node.group == group) return;
  node.group = group;
  break_connections(node);
}

SimNetwork::Index SimNetwork::index_of(const NodeId& id) const {
  const auto it = by_id_.find(id);
  STARLING_CHECK(it != by_id_.end(), "this node was never added to the network");
  return it->second;
}

bool SimNetwork::reachable(const Node& a, const Node& b) const { return a.up && b.up && a.group == b.group; }

const SimNetwork::Link& SimNetwork::link(const Node& from, Index to) const {
  if (from.links.empty()) return config_.link;
  const auto it = from.links.find(to);
  return it == from.links.end() ? config_.link : it->second;
}

Duration SimNetwork::one_way(const Link& link) {
  return link.jitter > Duration::zero() ? link.latency + scale(link.jitter, random_.uniform()) : link.latency;
}

Duration SimNetwork::handshake(const Node& from, const Node& to) {
  return 3 * (one_way(link(from, to.index)) + one_way(link(to, from.index)));
}

// Every connection between `node` and a node that it no longer reaches is dialled again.
void SimNetwork::break_connections(const Node& node) {
  for (const auto& other : nodes_) {
    for (auto& [peer, entry] : other->peers) {
      for (const Lane lane : {Lane::control, Lane::bulk}) {
        Connection& connection = entry.lanes[lane_index(lane)];
        if (connection.state != Connection::State::up) continue;
        if (other->index != node.index && connection.to != node.index) continue;
        if (!reachable(*other, *nodes_[connection.to])) dial(*other, peer, lane, config_.reconnect);
      }
    }
  }
}

// ---------------------------------------------------------------- connections

// Tries to connect after `delay`; a handshake still under way is void.
void SimNetwork::dial(Node& from, const NodeId& to, Lane lane, Duration delay) {
  Connection& connection = from.peers.at(to).lanes[lane_index(lane)];
  connection.state = Connection::State::dialling;
  const std::uint64_t generation = ++connection.generation;
  const std::string& address =
      lane == Lane::control ? from.peers.at(to).endpoints.control : from.peers.at(to).endpoints.bulk;
  const auto target = by_endpoint_.find(address);
  const bool listens = target != by_endpoint_.end() && target->second.second == lane;
  const Duration takes = listens ? handshake(from, *nodes_[target->second.first]) : config_.reconnect;
  scheduler_.after(delay + takes, [this, &from, boot = from.boot, to, lane, generation] {
    if (from.boot != boot) return;
    const auto peer = from.peers.find(to);
    if (peer == from.peers.end() || peer->second.lanes[lane_index(lane)].generation != generation) return;
    dialled(from, to, lane);
  });
}

// The end of a handshake: up, refused, or nobody there.
void SimNetwork::dialled(Node& from, const NodeId& to, Lane lane) {
  Peer& peer = from.peers.at(to);
  Connection& connection = peer.lanes[lane_index(lane)];
  const auto target = by_endpoint_.find(lane == Lane::control ? peer.endpoints.control : peer.endpoints.bulk);
  if (target == by_endpoint_.end() || target->second.second != lane) return dial(from, to, lane, Duration::zero());
  Node& listener = *nodes_[target->second.first];
  if (!reachable(from, listener) || from.paused || listener.paused) return dial(from, to, lane, config_.reconnect);

  if (listener.id != to) {
    dial(from, to, lane, config_.refused_again);
    return hand(from, net::PeerRefused{to, lane, "the node at this address has another key"}, 0);
  }
  if (listener.revoked.contains(from.id)) {
    connection.state = Connection::State::refused;
    connection.refused_at = scheduler_.now();
    from.counters.dropped_unroutable += connection.waiting.frames.size();
    connection.waiting = {};
    ++listener.counters.rejected_bad_auth;
    return hand(from, net::PeerRefused{to, lane, "our key is revoked"}, 0);
  }
  if (!listener.admitted.contains(from.id)) {
    dial(from, to, lane, config_.refused_again);
    ++listener.counters.rejected_bad_auth;
    return hand(from, net::PeerRefused{to, lane, "our key is not known there yet"}, 0);
  }
  connection.to = listener.index;
  connected(from, to, lane, connection);
}

void SimNetwork::connected(Node& from, const NodeId& to, Lane lane, Connection& connection) {
  connection.state = Connection::State::up;
  FrameQueue waiting = std::exchange(connection.waiting, {});
  for (Bytes& frame : waiting.frames) transmit(from, connection, lane, std::move(frame));
  hand(from, net::PeerConnected{to, lane}, 0);
}

// ---------------------------------------------------------------- frames

void SimNetwork::send(Node& from, const NodeId& to, Lane lane, Bytes frame) {
  STARLING_CHECK(lane != Lane::lobby, "the lobby has calls of its own");
  STARLING_CHECK(frame.size() <= (lane == Lane::control ? net::max_control_frame_bytes : net::max_bulk_frame_bytes),
                 "a frame is beyond the limit of its lane");
  const auto peer = from.peers.find(to);
  if (peer == from.peers.end() || !from.up) {
    ++from.counters.dropped_unroutable;
    return;
  }
  Connection& connection = peer->second.lanes[lane_index(lane)];
  if (connection.state == Connection::State::up) return transmit(from, connection, lane, std::move(frame));
  if (connection.state == Connection::State::refused &&
      scheduler_.now() < connection.refused_at + config_.revoked_again) {
    ++from.counters.dropped_unroutable;
    return;
  }
  from.counters.dropped_full += connection.waiting.push(
      std::move(frame), lane == Lane::control ? config_.control_queue_bytes : config_.bulk_queue_bytes,
      config_.queue_frames);
  if (connection.state != Connection::State::dialling) dial(from, to, lane, Duration::zero());
}

void SimNetwork::transmit(Node& from, Connection& connection, Lane lane, Bytes frame) {
  from.counters.sent_bytes += frame.size();
  const Link& way = link(from, connection.to);
  if (way.loss > 0.0 && random_.uniform() < way.loss) return;

  const Duration takes = transfer_time(frame.size(), from.bytes_per_second);
  TimePoint departure = scheduler_.now() + takes;
  if (lane == Lane::bulk) departure = from.uplink_free = std::max(scheduler_.now(), from.uplink_free) + takes;
  connection.last_arrival = std::max(connection.last_arrival, departure + one_way(way));

  Flight flight{from.index, connection.to, nodes_[connection.to]->boot, lane, false, {}};
  if (lane == Lane::control && way.duplicate > 0.0 && random_.uniform() < way.duplicate) {
    Flight again = flight;
    again.frame = frame;
    fly(connection.last_arrival + one_way(way), std::move(again));
  }
  flight.frame = std::move(frame);
  fly(connection.last_arrival, std::move(flight));
}

void SimNetwork::fly(TimePoint arrival, Flight flight) {
  std::uint32_t slot;
  if (free_flights_.empty()) {
    slot = static_cast<std::uint32_t>(flights_.size());
    flights_.push_back(std::move(flight));
  } else {
    slot = free_flights_.back();
    free_flights_.pop_back();
    flights_[slot] = std::move(flight);
  }
  scheduler_.at(arrival, [this, slot] { arrived(slot); });
}

void SimNetwork::arrived(std::uint32_t slot) {
  Flight flight = std::move(flights_[slot]);
  free_flights_.push_back(slot);
  Node& to = *nodes_[flight.to];
  if (flight.lane == Lane::bulk && !flight.past_downlink && to.boot == flight.boot) {
    flight.past_downlink = true;
    to.downlink_free =
        std::max(scheduler_.now(), to.downlink_free) + transfer_time(flight.frame.size(), to.bytes_per_second);
    return fly(to.downlink_free, std::move(flight));
  }
  deliver(std::move(flight));
}

void SimNetwork::deliver(Flight flight) {
  const Node& from = *nodes_[flight.from];
  Node& to = *nodes_[flight.to];
  // A sender that died meanwhile does not call back what it sent.
  if (!to.up || to.boot != flight.boot || to.group != from.group) return;
  if (!to.admitted.contains(from.id) || to.revoked.contains(from.id)) {
    ++to.counters.rejected_bad_auth;
    return;
  }
  const std::size_t size = flight.frame.size();
  to.counters.received_bytes += size;
  ++delivered_;
  hand(to, net::Received{from.id, flight.lane, std::move(flight.frame)}, size);
}

// To the node now, or behind what waits for it to wake.
void SimNetwork::hand(Node& node, net::TransportEvent event, std::size_t bytes) {
  if (!node.paused && node.inbox.empty()) return node.receive(std::move(event));
  if (node.inbox_bytes + bytes > config_.inbox_bytes) return;
  node.inbox_bytes += bytes;
  node.inbox.emplace_back(std::move(event), bytes);
}

void SimNetwork::drain(Node& node) {
  while (!node.inbox.empty() && node.up && !node.paused) {
    auto [event, bytes] = std::move(node.inbox.front());
    node.inbox.pop_front();
    node.inbox_bytes -= bytes;
    node.receive(std::move(event));
  }
}

// ---------------------------------------------------------------- the lobby

void SimNetwork::request_lobby(Node& from, const NodeId& seed, const std::string& address, Bytes frame) {
  STARLING_CHECK(frame.size() <= net::max_lobby_request_bytes, "a request is beyond the limit of the lobby");
  const std::uint64_t request = from.next_lobby_number++;
  from.asked[request] = {seed};
  from.counters.sent_bytes += frame.size();
  scheduler_.after(config_.lobby_timeout, [this, &from, boot = from.boot, request] {
    if (from.boot == boot) finish_lobby(from, request, fail(ErrorCode::unreachable, "the seed did not answer in time"));
  });

  const auto target = by_endpoint_.find(address);
  if (target == by_endpoint_.end() || target->second.second != Lane::lobby) return;
  Node& listener = *nodes_[target->second.first];
  // The key is checked before anything is sent: to somebody else, our dial never ends.
  if (listener.id != seed) return;
  scheduler_.after(handshake(from, listener) + one_way(link(from, listener.index)),
                   [this, &from, boot = from.boot, &listener, request, frame = std::move(frame)]() mutable {
                     if (from.boot != boot || !reachable(from, listener)) return;
                     std::erase_if(listener.asking,
                                   [&](const auto& e) { return e.second.expires <= scheduler_.now(); });
                     if (listener.asking.size() >= config_.max_lobby_pending) return;
                     const net::LobbyRequestId id = listener.next_lobby_number++;
                     listener.asking[id] = {from.index, boot, request, scheduler_.now() + config_.lobby_timeout};
                     const std::size_t size = frame.size();
                     listener.counters.received_bytes += size;
                     hand(listener, net::LobbyRequested{id, std::move(frame)}, size);
                   });
}

void SimNetwork::answer_lobby(Node& at, net::LobbyRequestId request, Bytes frame) {
  STARLING_CHECK(frame.size() <= net::max_lobby_answer_bytes, "an answer is beyond the limit of the lobby");
  const auto it = at.asking.find(request);
  if (it == at.asking.end()) return;
  const Node::Asking asking = it->second;
  at.asking.erase(it);
  if (asking.expires <= scheduler_.now()) return;
  at.counters.sent_bytes += frame.size();
  Node& asker = *nodes_[asking.asker];
  scheduler_.after(one_way(link(at, asker.index)), [this, &at, &asker, asking, frame = std::move(frame)]() mutable {
    if (asker.boot != asking.asker_boot || at.group != asker.group) return;
    asker.counters.received_bytes += frame.size();
    finish_lobby(asker, asking.request, std::move(frame));
  });
}

// The first of answer and time-out counts.
void SimNetwork::finish_lobby(Node& node, std::uint64_t request, Result<Bytes> answer) {
  const auto it = node.asked.find(request);
  if (it == node.asked.end()) return;
  const NodeId seed = it->second.seed;
  node.asked.erase(it);
  hand(node, net::LobbyAnswered{seed, std::move(answer)}, 0);
}

}  // namespace starling::sim
