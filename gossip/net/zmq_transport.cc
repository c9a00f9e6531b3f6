#include "gossip/net/zmq_transport.h"

#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "gossip/base/log.h"
#include "gossip/net/address.h"

namespace starling::net {
namespace {

constexpr int router_events = ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
constexpr int port_triples_tried = 64;

// Encryption of bulk lanes must not hold up a heartbeat: each has an I/O thread.
constexpr int io_threads = 2;
constexpr std::uint64_t control_thread = 1;
constexpr std::uint64_t bulk_thread = 2;

// libzmq's own queues, per connection: enough to keep a wire busy, no more than a few MiB of the largest frames.
constexpr int control_frames = 256;
constexpr int bulk_frames = 16;
// Frames taken in one poll, so that a flood on one lane leaves the others their turn.
constexpr int control_round = 256;
constexpr int bulk_round = 16;

std::size_t max_frame_bytes(Lane lane) {
  return lane == Lane::control ? max_control_frame_bytes : max_bulk_frame_bytes;
}

}  // namespace

std::uint64_t resident_bytes() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long long size = 0;
  unsigned long long resident = 0;
  const int fields = std::fscanf(file, "%llu %llu", &size, &resident);
  std::fclose(file);
  return fields == 2 ? resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

Result<std::unique_ptr<ZmqTransport>> ZmqTransport::open(Config config, const NodeKey& key,
                                                         const CurveKeyPair& lobby_key, const Clock& clock) {
  keep_freed_frames();
  auto poller = Poller::open();
  if (!poller) return tl::unexpected(poller.error());
  std::unique_ptr<ZmqTransport> transport(
      new ZmqTransport(std::move(config), key, lobby_key, clock, std::move(*poller)));
  if (Status started = transport->start(); !started) return tl::unexpected(started.error());
  return transport;
}

ZmqTransport::ZmqTransport(Config config, const NodeKey& key, const CurveKeyPair& lobby_key, const Clock& clock,
                           std::unique_ptr<Poller> poller)
    : config_(std::move(config)),
      self_(key.id()),
      key_(key.curve()),
      lobby_key_(lobby_key.clone()),
      clock_(clock),
      poller_(std::move(poller)),
      context_(io_threads, raise_socket_limit()) {
  if (!config_.lobby.resident_bytes) config_.lobby.resident_bytes = resident_bytes;
  if (!config_.lobby.accounted_bytes) config_.lobby.accounted_bytes = [] { return std::uint64_t{0}; };
}

ZmqTransport::~ZmqTransport() {
  // Watched descriptors belong to sockets that members declared later destroy first.
  poller_->unwatch(zap_watch_);
  for (Listener* listener : {&control_, &bulk_}) {
    poller_->unwatch(listener->watch);
    poller_->unwatch(listener->monitor_watch);
  }
}

Status ZmqTransport::start() {
  // The gatekeeper first: a socket that is bound before it would turn everybody away, but rules are kept simple.
  auto zap =
      ZapHandler::open(context_, [this](std::string_view domain, const CurveKey& key) { return judge(domain, key); });
  if (!zap) return tl::unexpected(zap.error());
  zap_ = std::move(*zap);
  zap_watch_ = poller_->watch(zap_->descriptor(), Poller::Rank::authentication, [this] { zap_->serve(); });
  lobby_ = std::make_unique<Lobby>(Lobby::World{*poller_, clock_, key_, lobby_key_, events_, counters_}, config_.lobby);
  if (Status bound = bind_all(); !bound) return bound;
  for (const Lane lane : {Lane::control, Lane::bulk}) {
    if (Status watched = watch_router(lane); !watched) return watched;
  }
  return {};
}

Status ZmqTransport::bind_all() {
  const auto listen = parse_endpoint(config_.network.listen);
  if (!listen) return fail(listen.error().code, "network.listen: " + listen.error().message);
  const auto host = numeric_host(listen->host);
  if (!host) return fail(host.error().code, "network.listen: " + host.error().message);
  const auto advertised = advertised_host(*host, config_.network.advertise);
  if (!advertised) return fail(advertised.error().code, "network.advertise: " + advertised.error().message);
  int port = listen->port;
  for (int tried = 0;; ++tried, port += 3) {
    const bool last = !config_.network.listen_is_default || tried + 1 == port_triples_tried || port > 65'533;
    const auto bound = bind_from(*host, static_cast<std::uint16_t>(port > 65'533 ? 0 : port));
    if (!bound) return tl::unexpected(bound.error());
    if (*bound) break;
    if (last) {
      return fail(ErrorCode::bad_config, "network.listen: port " + std::to_string(port) + ", " +
                                             std::to_string(port + 1) + " or " + std::to_string(port + 2) + " on " +
                                             *host + " is taken; set another port, or 0 for any free ones");
    }
  }
  const auto as_advertised = [&](std::string& endpoint) {
    const auto address = parse_endpoint(endpoint);
    STARLING_CHECK(address, "a bound socket names its endpoint");
    endpoint = to_endpoint({*advertised, address->port});
  };
  as_advertised(bound_.control);
  as_advertised(bound_.bulk);
  as_advertised(bound_.lobby);
  if (listen->port != 0 && port != listen->port) {
    log_info("port {} is taken; listening on {} instead", listen->port, bound_.control);
  }
  return {};
}

Result<bool> ZmqTransport::bind_from(const std::string& host, std::uint16_t port) {
  const auto endpoint_of = [&](int lane) {
    return to_endpoint({host, static_cast<std::uint16_t>(port == 0 ? 0 : port + lane)});
  };
  const auto bind_lane = [&](Lane lane, int index, int frames, std::uint64_t threads) -> Result<bool> {
    auto router = make_router(context_, {key_, member_domain, max_frame_bytes(lane), frames, threads});
    if (!router) return tl::unexpected(router.error());
    const auto outcome = net::bind(*router, endpoint_of(index));
    if (!outcome) return tl::unexpected(outcome.error());
    if (*outcome == BindOutcome::taken) return false;
    listener(lane).router = std::move(*router);
    return true;
  };
  const auto give_up = [&] {
    control_.router.reset();
    bulk_.router.reset();
    return false;
  };
  const auto control = bind_lane(Lane::control, 0, control_frames, control_thread);
  if (!control || !*control) return control;
  const auto bulk = bind_lane(Lane::bulk, 1, bulk_frames, bulk_thread);
  if (!bulk) return bulk;
  if (!*bulk) return give_up();
  Result<BindOutcome> lobby = BindOutcome::taken;
  if (config_.lobby_port != 0) lobby = lobby_->open(to_endpoint({host, config_.lobby_port}));
  if (lobby && *lobby == BindOutcome::taken) lobby = lobby_->open(endpoint_of(2));
  if (!lobby) return tl::unexpected(lobby.error());
  if (*lobby == BindOutcome::taken) return give_up();
  bound_ = {bound_endpoint(*control_.router), bound_endpoint(*bulk_.router), lobby_->endpoint()};
  return true;
}

Status ZmqTransport::watch_router(Lane lane) {
  Listener& on = listener(lane);
  auto monitor = SocketMonitor::open(context_, *on.router, router_events);
  if (!monitor) return tl::unexpected(monitor.error());
  on.monitor = std::move(*monitor);
  const auto rank = lane == Lane::control ? Poller::Rank::control : Poller::Rank::bulk;
  on.watch = poller_->watch(descriptor(*on.router), rank, [this, lane] { receive(lane); });
  on.monitor_watch = poller_->watch(on.monitor->descriptor(), rank, [this, lane] { on_router_monitor(lane); });
  return {};
}

ZapHandler::Verdict ZmqTransport::judge(std::string_view domain, const CurveKey& key) {
  using Status = ZapHandler::Status;
  const auto member = admitted_keys_.find(key);
  if (domain == member_domain && member != admitted_keys_.end()) return {Status::let_in, member->second.hex()};
  ++counters_.rejected_bad_auth;
  return {domain != member_domain || revoked_keys_.contains(key) ? Status::never : Status::not_now, {}};
}

void ZmqTransport::admit(const NodeId& member) {
  const auto key = curve_key_of(member);
  if (!key || member == self_ || admitted_.size() >= config_.max_members) return;
  revoked_keys_.erase(*key);
  // An id and its mirror image have one CURVE key: the first stands, or frames of one would bear the name of the other.
  if (admitted_keys_.try_emplace(*key, member).second) admitted_.emplace(member.hex(), member);
}

void ZmqTransport::revoke(const NodeId& member) {
  forget(member);
  admitted_.erase(member.hex());
  const auto key = curve_key_of(member);
  if (!key) return;
  const auto admitted = admitted_keys_.find(*key);
  if (admitted != admitted_keys_.end() && admitted->second == member) admitted_keys_.erase(admitted);
  // A full table only makes the answer milder: who is not admitted never gets in.
  if (revoked_keys_.size() < config_.max_members) revoked_keys_.insert(*key);
}

void ZmqTransport::set_endpoints(const NodeId& peer, const Endpoints& endpoints) {
  if (peer == self_ || !curve_key_of(peer)) return;
  if (!is_dialable(endpoints.control) || !is_dialable(endpoints.bulk)) return forget(peer);
  if (endpoints_.size() >= config_.max_members && !endpoints_.contains(peer)) return;
  Endpoints& known = endpoints_[peer];
  if (known == endpoints) return;
  const auto move = [&](Lane lane, const std::string& from, const std::string& to) {
    const auto found = links_.find({peer, lane});
    if (found != links_.end() && from != to) found->second->move_to(to);
  };
  move(Lane::control, known.control, endpoints.control);
  move(Lane::bulk, known.bulk, endpoints.bulk);
  known = endpoints;
}

void ZmqTransport::forget(const NodeId& peer) {
  links_.erase({peer, Lane::control});
  links_.erase({peer, Lane::bulk});
  endpoints_.erase(peer);
}

DealerLink& ZmqTransport::link(const NodeId& peer, Lane lane, const std::string& endpoint) {
  std::unique_ptr<DealerLink>& link = links_[{peer, lane}];
  if (link) return *link;
  const auto key = curve_key_of(peer);
  STARLING_CHECK(key, "endpoints are kept for keys only");
  DealerLink::Config config;
  config.queue_frames = config_.queue_frames;
  config.redial_after_refusal = config_.redial_after_refusal;
  if (lane == Lane::control) {
    config.queue_bytes = config_.control_queue_bytes;
    config.send_frames = control_frames;
    config.io_threads = control_thread;
  } else {
    config.queue_bytes = config_.bulk_queue_bytes;
    config.send_frames = bulk_frames;
    config.io_threads = bulk_thread;
    config.close_when_idle = config_.bulk_idle;
  }
  link = std::make_unique<DealerLink>(DealerLink::World{context_, *poller_, clock_, key_, events_, counters_}, peer,
                                      *key, lane, endpoint, config);
  return *link;
}

void ZmqTransport::send(const NodeId& to, Lane lane, Bytes frame) {
  STARLING_CHECK(lane != Lane::lobby && frame.size() <= max_frame_bytes(lane), "a frame is within its lane's limit");
  const auto known = endpoints_.find(to);
  if (known == endpoints_.end()) {
    ++counters_.dropped_unroutable;
    return;
  }
  link(to, lane, lane == Lane::control ? known->second.control : known->second.bulk).send(std::move(frame));
}

void ZmqTransport::request_lobby(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame) {
  lobby_->request(seed, lobby_endpoint, std::move(frame));
}

void ZmqTransport::answer_lobby(LobbyRequestId request, Bytes frame) { lobby_->answer(request, std::move(frame)); }

void ZmqTransport::receive(Lane lane) {
  zmq::socket_t& router = *listener(lane).router;
  const int round = lane == Lane::control ? control_round : bulk_round;
  for (int i = 0; i < round; ++i) {
    zmq::message_t routing_id;
    if (!receive_now(router, routing_id)) return;
    zmq::message_t frame;
    if (!routing_id.more() || !receive_now(router, frame)) continue;
    const char* mark = ::zmq_msg_gets(frame.handle(), "User-Id");
    const auto sender = mark == nullptr ? admitted_.end() : admitted_.find(std::string_view(mark));
    if (frame.more()) {
      drop_rest(router, frame);
      ++counters_.rejected_oversize;
    } else if (sender == admitted_.end()) {
      ++counters_.rejected_bad_auth;  // revoked since the handshake
    } else {
      const ByteView bytes = view(frame);
      counters_.received_bytes += bytes.size();
      events_.push_back(Received{sender->second, lane, Bytes(bytes.begin(), bytes.end())});
    }
  }
  poller_->again(listener(lane).watch);
}

void ZmqTransport::on_router_monitor(Lane lane) {
  while (listener(lane).monitor->next()) ++counters_.rejected_bad_auth;
}

TimePoint ZmqTransport::run_timers() {
  TimePoint next = lobby_->tick();
  const TimePoint now = clock_.now();
  for (auto& [name, link] : links_) next = earliest(next, link->tick(now));
  return next;
}

std::vector<TransportEvent> ZmqTransport::poll(Duration timeout) {
  const TimePoint next = run_timers();
  if (!events_.empty()) timeout = Duration::zero();
  if (next != never) timeout = std::min(timeout, next - clock_.now());
  poller_->wait(timeout);
  if (clock_.now() >= next) run_timers();
  return std::exchange(events_, {});
}

}  // namespace starling::net
