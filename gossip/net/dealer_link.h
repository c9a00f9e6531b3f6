// One dialled connection: a DEALER to one lane of one peer, and the frames that wait for it.
//
//   absent    --send-->                          dialling    frames wait in a bounded queue, the oldest gives way
//   dialling  --handshake done-->                up          PeerConnected; the queue drains
//   up        --connection lost-->               dialling    what waited is dropped; libzmq dials again by itself
//   dialling  --handshake failed-->              dialling    PeerRefused; libzmq tries again by itself
//   dialling  --told never (ZAP 400, 500)-->     refused     PeerRefused; the queue is dropped, the socket closed:
//                                                            libzmq would take frames for ever and send none
//   refused   --send, ten seconds later-->       dialling
//   up        --unused for a minute (bulk)-->    absent
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/poller.h"
#include "gossip/net/transport.h"
#include "gossip/net/zmq_socket.h"

namespace starling::net {

class DealerLink {
 public:
  struct Config {
    std::uint64_t queue_bytes = 0;
    std::size_t queue_frames = 0;
    int send_frames = 0;  // libzmq's own queue behind ours
    std::uint64_t io_threads = 0;
    Duration redial_after_refusal = std::chrono::seconds(10);
    std::optional<Duration> close_when_idle;
  };
  // What all links of a transport share; outlives them.
  struct World {
    zmq::context_t& context;
    Poller& poller;
    const Clock& clock;
    const CurveKeyPair& key;
    std::vector<TransportEvent>& events;
    TransportCounters& counters;
  };

  // REQUIRES: `endpoint` may be dialled.
  DealerLink(World world, const NodeId& peer, const CurveKey& peer_key, Lane lane, std::string endpoint, Config config);
  ~DealerLink() { close(); }
  DealerLink(const DealerLink&) = delete;
  DealerLink& operator=(const DealerLink&) = delete;

  void send(Bytes frame);
  // The peer moved: dials there; what waits here goes there.
  void move_to(std::string endpoint);
  // Closes what was not used for too long. Result: when to call it again.
  TimePoint tick(TimePoint now);

 private:
  enum class State { absent, dialling, up, refused };

  void dial();
  void close();
  void on_monitor();
  void on_socket();
  void refuse(std::string why);
  void refuse_for_good(int status);
  void drain();
  void enqueue(zmq::message_t message);
  void drop_queue();

  World world_;
  NodeId peer_;
  CurveKey peer_key_;
  Lane lane_;
  std::string endpoint_;
  Config config_;

  State state_ = State::absent;
  TimePoint last_used_{};
  TimePoint redial_at_{};
  std::optional<TimePoint> last_refusal_;
  std::optional<zmq::socket_t> socket_;
  std::optional<SocketMonitor> monitor_;
  Poller::Key socket_watch_ = 0;
  Poller::Key monitor_watch_ = 0;
  std::deque<zmq::message_t> queue_;
  std::uint64_t queued_bytes_ = 0;
};

}  // namespace starling::net
