// The transport of a real process: ZeroMQ with CURVE on three lanes. Single-threaded: every call but `wake` is the loop
// thread's; libzmq's own I/O threads encrypt and move bytes behind it.
//
// Speak on what you dialled, listen on what you bound. A node binds one ROUTER per lane and dials one DEALER per peer
// and lane; the only answers on a ROUTER are the lobby's. So who sent a frame is known on the bound side, where libzmq
// marks it with the id that our own ZAP handler gave to the CURVE key; on the dialled side it is the one key that we
// demanded.
//
//   admit(id)  the key of id is let in (ZAP 200, frames marked with the id)
//   unknown    "not now" (ZAP 300): the dialler tries again every two seconds, so who is admitted late gets in
//   revoke(id) "never" (ZAP 400), and frames on connections that already stand are dropped unread
//
// A certificate that expires is the caller's to notice: it calls revoke, and admit again when a new one comes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/net/dealer_link.h"
#include "gossip/net/identity.h"
#include "gossip/net/lobby.h"
#include "gossip/net/network_config.h"
#include "gossip/net/poller.h"
#include "gossip/net/transport.h"
#include "gossip/net/zap.h"
#include "gossip/net/zmq_socket.h"

namespace starling::net {

class ZmqTransport final : public Transport {
 public:
  struct Config {
    NetworkConfig network;
    std::uint16_t lobby_port = 0;                 // where earlier tokens say the lobby is: kept if it is free; 0: none
    std::size_t max_members = 4096;               // admitted, and revoked, and with endpoints; beyond: ignored
    std::uint64_t control_queue_bytes = 1 << 20;  // per peer, before libzmq's own queue
    std::uint64_t bulk_queue_bytes = 16 << 20;
    std::size_t queue_frames = 4096;
    Duration bulk_idle = std::chrono::seconds(60);
    Duration redial_after_refusal = std::chrono::seconds(10);
    Lobby::Config lobby;  // resident_bytes: by default this process's; accounted_bytes: by default none
  };

  // Binds all three lanes. `clock` outlives the transport.
  // Errors: bad_config (no such address, a port that is taken), io, limit.
  static Result<std::unique_ptr<ZmqTransport>> open(Config config, const NodeKey& key, const CurveKeyPair& lobby_key,
                                                    const Clock& clock);
  ~ZmqTransport() override;

  void admit(const NodeId& member) override;
  void revoke(const NodeId& member) override;
  void set_endpoints(const NodeId& peer, const Endpoints& endpoints) override;
  void forget(const NodeId& peer) override;
  void send(const NodeId& to, Lane lane, Bytes frame) override;
  void request_lobby(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame) override;
  void answer_lobby(LobbyRequestId request, Bytes frame) override;
  const Endpoints& bound() const override { return bound_; }
  TransportCounters counters() const override { return counters_; }

  // Waits until something happened, another thread called `wake`, or `timeout` is over; less when there is work.
  // Result: what happened, in order per peer and lane, possibly nothing. At most a few hundred events a call, control
  // first.
  std::vector<TransportEvent> poll(Duration timeout);

  // Ends a poll, now or the next one. Any thread: completions of compute and disk are announced with it.
  void wake() const { poller_->wake(); }

 private:
  using LinkName = std::pair<NodeId, Lane>;

  ZmqTransport(Config config, const NodeKey& key, const CurveKeyPair& lobby_key, const Clock& clock,
               std::unique_ptr<Poller> poller);

  Status start();
  Status bind_all();
  // False: a port was taken, nothing is bound.
  Result<bool> bind_from(const std::string& host, std::uint16_t port);
  Status watch_router(Lane lane);
  ZapHandler::Verdict judge(std::string_view domain, const CurveKey& key);
  void receive(Lane lane);
  void on_router_monitor(Lane lane);
  DealerLink& link(const NodeId& peer, Lane lane, const std::string& endpoint);
  TimePoint run_timers();

  // A bound lane of members.
  struct Listener {
    std::optional<zmq::socket_t> router;
    std::optional<SocketMonitor> monitor;
    Poller::Key watch = 0;
    Poller::Key monitor_watch = 0;
  };
  Listener& listener(Lane lane) { return lane == Lane::control ? control_ : bulk_; }

  Config config_;
  NodeId self_;
  CurveKeyPair key_;
  CurveKeyPair lobby_key_;
  const Clock& clock_;
  std::unique_ptr<Poller> poller_;
  Endpoints bound_;
  TransportCounters counters_;
  std::vector<TransportEvent> events_;

  // Who is let in. A frame's mark is the hex of its sender's id; an id that is not here is nobody.
  std::map<std::string, NodeId, std::less<>> admitted_;
  std::map<CurveKey, NodeId> admitted_keys_;
  std::set<CurveKey> revoked_keys_;

  std::map<NodeId, Endpoints> endpoints_;

  // Sockets die before their context, links before both; the lobby has a context of its own.
  zmq::context_t context_;
  std::optional<ZapHandler> zap_;
  Poller::Key zap_watch_ = 0;
  Listener control_;
  Listener bulk_;
  std::map<LinkName, std::unique_ptr<DealerLink>> links_;
  std::unique_ptr<Lobby> lobby_;
};

// Resident memory of this process, from the kernel.
std::uint64_t resident_bytes();

}  // namespace starling::net
