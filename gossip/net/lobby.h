// The door for newcomers: where strangers ask to be let in, and from where we ask at other nodes' doors.
//
// Whoever holds a join token can reach this socket, so it lives in a ZeroMQ context of its own that can be thrown away.
// That is the answer to the one attack which no option of libzmq stops: a message of endlessly many frames is stored
// frame by frame, each within the limit, and never shown to the application. So while a stranger is connected the
// process's resident memory is watched, and once it stands 64 MiB above what is accounted for, the context is closed
// with all it holds and opened again on the same port. That costs honest newcomers one more try.
//
// Before any request is read it is counted against a rate, since checking one costs two signatures.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/poller.h"
#include "gossip/net/transport.h"
#include "gossip/net/zap.h"
#include "gossip/net/zmq_socket.h"

namespace starling::net {

class Lobby {
 public:
  struct Config {
    std::uint64_t max_excess_bytes = 64 << 20;
    Duration watch_every = std::chrono::milliseconds(50);   // while a stranger is connected
    Duration baseline_every = std::chrono::seconds(1);      // while nobody is: reading /proc 20 times a second shows in a profile
    Duration answer_within = std::chrono::seconds(15);  // a request that nobody answered is forgotten then
    Duration ask_for = std::chrono::seconds(15);        // our own request has failed then
    std::size_t max_waiting = 64;                       // requests of strangers; beyond: dropped
    std::size_t max_asked = 8;                          // requests of our own; beyond: fail at once
    double requests_per_second = 32;                    // beyond, after a burst of max_waiting: dropped
    int max_sockets = 1023;
    // Resident memory of this process, and how much of it other parts know to be theirs.
    std::function<std::uint64_t()> resident_bytes;
    std::function<std::uint64_t()> accounted_bytes;
  };
  struct World {
    Poller& poller;
    const Clock& clock;
    const CurveKeyPair& node_key;
    const CurveKeyPair& lobby_key;  // the one that tokens carry; only it is let in
    std::vector<TransportEvent>& events;
    TransportCounters& counters;
  };

  Lobby(World world, Config config);
  ~Lobby() { close(linger_at_end_ms); }
  Lobby(const Lobby&) = delete;
  Lobby& operator=(const Lobby&) = delete;

  // Errors: as net::bind. Taken: nothing is open afterwards.
  Result<BindOutcome> open(const std::string& endpoint);
  // REQUIRES: open.
  const std::string& endpoint() const { return endpoint_; }

  void request(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame);
  void answer(LobbyRequestId request, Bytes frame);
  // Deadlines and the watch over memory. Result: when to call it again.
  TimePoint tick();

 private:
  static constexpr int linger_at_end_ms = 500;
  // A context and the sockets in it, in the order in which they must die.
  struct Room {
    zmq::context_t context;
    std::optional<ZapHandler> zap;
    std::optional<zmq::socket_t> router;
    std::optional<SocketMonitor> monitor;
    Poller::Key zap_watch = 0;
    Poller::Key router_watch = 0;
    Poller::Key monitor_watch = 0;
    explicit Room(int max_sockets) : context(1, max_sockets) {}
  };
  struct Waiting {
    std::string routing_id;
    TimePoint until;
  };
  struct Asked {
    NodeId seed;
    zmq::socket_t socket;
    std::optional<SocketMonitor> monitor;
    zmq::message_t frame;
    Poller::Key watch = 0;
    Poller::Key monitor_watch = 0;
    TimePoint until{};
    bool sent = false;
  };

  void close(int linger_ms);
  void reset();
  void on_request();
  void on_monitor();
  void on_answer(std::uint64_t number);
  void on_asked_monitor(std::uint64_t number);
  void finish(std::uint64_t number, Result<Bytes> frame);
  bool is_within_rate(TimePoint now);
  std::uint64_t excess_bytes();
  void set_baseline();

  World world_;
  Config config_;
  std::unique_ptr<Room> room_;
  std::string endpoint_;

  std::uint64_t last_number_ = 0;
  std::map<LobbyRequestId, Waiting> waiting_;
  std::set<std::string> waiting_ids_;  // one request a connection at a time
  std::map<std::uint64_t, Asked> asked_;
  std::set<int> strangers_;  // descriptors of connections to our door
  double tokens_ = 0;        // of the rate
  TimePoint tokens_at_{};
  TimePoint watch_at_{};
  std::uint64_t baseline_resident_ = 0;
  std::uint64_t baseline_accounted_ = 0;
};

}  // namespace starling::net
