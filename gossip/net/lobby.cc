#include "gossip/net/lobby.h"

#include <malloc.h>
#include <zmq.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "gossip/base/log.h"

namespace starling::net {
namespace {

constexpr int router_events = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL;
constexpr int asked_events = ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_DISCONNECTED;
constexpr int frames_per_stranger = 4;
constexpr int requests_per_round = 16;
constexpr Duration reopen_every = std::chrono::seconds(1);

std::string text(const zmq::message_t& message) { return std::string(as_text(view(message))); }

}  // namespace

Lobby::Lobby(World world, Config config) : world_(world), config_(std::move(config)) {
  STARLING_CHECK(config_.resident_bytes && config_.accounted_bytes, "the lobby needs somebody who measures memory");
  tokens_ = static_cast<double>(config_.max_waiting);
  tokens_at_ = world_.clock.now();
}

Result<BindOutcome> Lobby::open(const std::string& endpoint) {
  auto room = std::make_unique<Room>(config_.max_sockets);
  auto zap = ZapHandler::open(room->context, [this](std::string_view domain, const CurveKey& key) {
    const bool known = domain == lobby_domain && key == world_.lobby_key.public_key();
    if (!known) ++world_.counters.rejected_bad_auth;
    return known ? ZapHandler::Verdict{ZapHandler::Status::let_in, "lobby"}
                 : ZapHandler::Verdict{ZapHandler::Status::never, {}};
  });
  if (!zap) return tl::unexpected(zap.error());
  room->zap = std::move(*zap);
  auto router =
      make_router(room->context, {world_.node_key, lobby_domain, max_lobby_request_bytes, frames_per_stranger, 0});
  if (!router) return tl::unexpected(router.error());
  room->router = std::move(*router);
  auto monitor = SocketMonitor::open(room->context, *room->router, router_events);
  if (!monitor) return tl::unexpected(monitor.error());
  room->monitor = std::move(*monitor);
  const auto outcome = bind(*room->router, endpoint);
  if (!outcome || *outcome == BindOutcome::taken) return outcome;

  room_ = std::move(room);
  endpoint_ = bound_endpoint(*room_->router);
  room_->zap_watch =
      world_.poller.watch(room_->zap->descriptor(), Poller::Rank::authentication, [this] { room_->zap->serve(); });
  room_->monitor_watch =
      world_.poller.watch(room_->monitor->descriptor(), Poller::Rank::lobby, [this] { on_monitor(); });
  room_->router_watch = world_.poller.watch(descriptor(*room_->router), Poller::Rank::lobby, [this] { on_request(); });
  set_baseline();
  return BindOutcome::bound;
}

void Lobby::close(int linger_ms) {
  for (auto& [number, asked] : asked_) {
    world_.poller.unwatch(asked.watch);
    world_.poller.unwatch(asked.monitor_watch);
    asked.socket.set(zmq::sockopt::linger, 0);
  }
  asked_.clear();
  if (!room_) return;
  world_.poller.unwatch(room_->zap_watch);
  world_.poller.unwatch(room_->monitor_watch);
  world_.poller.unwatch(room_->router_watch);
  room_->router->set(zmq::sockopt::linger, linger_ms);
  room_->monitor.reset();
  room_->router.reset();
  room_->zap.reset();
  room_.reset();
  waiting_.clear();
  waiting_ids_.clear();
  strangers_.clear();
}

void Lobby::reset() {
  ++world_.counters.lobby_resets;
  log_warning("the lobby was closed and opened again: somebody with a join token filled {} MiB of memory",
              excess_bytes() >> 20);
  while (!asked_.empty()) {
    finish(asked_.begin()->first, fail(ErrorCode::unreachable, "our own lobby was reset; ask again"));
  }
  close(0);
  // What the strangers filled goes back to the system, not only to malloc, or the next reading would count it again.
  ::malloc_trim(0);
  watch_at_ = world_.clock.now();
  set_baseline();
}

TimePoint Lobby::tick() {
  const TimePoint now = world_.clock.now();
  while (!waiting_.empty() && waiting_.begin()->second.until <= now) {
    waiting_ids_.erase(waiting_.begin()->second.routing_id);
    waiting_.erase(waiting_.begin());
  }
  while (!asked_.empty() && asked_.begin()->second.until <= now) {
    finish(asked_.begin()->first,
           fail(ErrorCode::unreachable, "the seed did not answer; is it running, and is its port open?"));
  }
  if (room_ && now >= watch_at_) {
    watch_at_ = now + (strangers_.empty() ? config_.baseline_every : config_.watch_every);
    // Memory that grows while nobody is at the door is not the door's.
    if (strangers_.empty()) {
      set_baseline();
    } else if (excess_bytes() > config_.max_excess_bytes) {
      reset();
    }
  }
  TimePoint next = never;
  if (!room_) {
    if (now >= watch_at_) {
      const std::string same_port = endpoint_;
      const auto outcome = open(same_port);
      watch_at_ = outcome && *outcome == BindOutcome::bound ? now : now + reopen_every;
    }
    next = watch_at_;
  } else if (!strangers_.empty()) {
    next = watch_at_;
  }
  // Both tables fill in the order of time, so their first entry ends first.
  if (!waiting_.empty()) next = earliest(next, waiting_.begin()->second.until);
  if (!asked_.empty()) next = earliest(next, asked_.begin()->second.until);
  return next;
}

void Lobby::set_baseline() {
  baseline_resident_ = config_.resident_bytes();
  baseline_accounted_ = config_.accounted_bytes();
}

std::uint64_t Lobby::excess_bytes() {
  const auto signed_bytes = [](std::uint64_t bytes) { return static_cast<std::int64_t>(bytes); };
  const std::int64_t resident = signed_bytes(config_.resident_bytes()) - signed_bytes(baseline_resident_);
  const std::int64_t accounted = signed_bytes(config_.accounted_bytes()) - signed_bytes(baseline_accounted_);
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, resident - accounted));
}

void Lobby::on_monitor() {
  while (const auto event = room_->monitor->next()) {
    if (event->kind == ZMQ_EVENT_ACCEPTED) {
      // The first stranger ends the time in which memory is nobody's; take the last reading before him.
      if (strangers_.empty()) watch_at_ = world_.clock.now() + config_.watch_every;
      strangers_.insert(event->value);
    } else if (event->kind == ZMQ_EVENT_DISCONNECTED) {
      strangers_.erase(event->value);
    } else {
      ++world_.counters.rejected_bad_auth;
    }
  }
}

bool Lobby::is_within_rate(TimePoint now) {
  tokens_ = std::min(static_cast<double>(config_.max_waiting),
                     tokens_ + config_.requests_per_second * seconds(now - tokens_at_));
  tokens_at_ = now;
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

void Lobby::on_request() {
  for (int i = 0; i < requests_per_round; ++i) {
    zmq::message_t routing_id;
    if (!receive_now(*room_->router, routing_id)) return;
    zmq::message_t frame;
    if (!routing_id.more() || !receive_now(*room_->router, frame)) continue;
    if (frame.more()) {
      drop_rest(*room_->router, frame);
      ++world_.counters.rejected_oversize;
      continue;
    }
    const TimePoint now = world_.clock.now();
    const std::string from = text(routing_id);
    if (waiting_.size() >= config_.max_waiting || waiting_ids_.contains(from) || !is_within_rate(now)) {
      ++world_.counters.dropped_full;
      continue;
    }
    const LobbyRequestId number = ++last_number_;
    waiting_.emplace(number, Waiting{from, now + config_.answer_within});
    waiting_ids_.insert(from);
    const ByteView bytes = view(frame);
    world_.counters.received_bytes += bytes.size();
    world_.events.push_back(LobbyRequested{number, Bytes(bytes.begin(), bytes.end())});
  }
  world_.poller.again(room_->router_watch);
}

void Lobby::answer(LobbyRequestId request, Bytes frame) {
  STARLING_CHECK(frame.size() <= max_lobby_answer_bytes, "a lobby answer is within its limit");
  const auto waiting = waiting_.find(request);
  if (waiting == waiting_.end()) return;
  zmq::message_t to(waiting->second.routing_id.data(), waiting->second.routing_id.size());
  zmq::message_t body = to_message(std::move(frame));
  const std::size_t size = body.size();
  // A stranger who left is unreachable: nobody waits for this answer any more.
  if (send_now(*room_->router, to, zmq::send_flags::sndmore) == SendOutcome::sent &&
      send_now(*room_->router, body) == SendOutcome::sent) {
    world_.counters.sent_bytes += size;
  }
  waiting_ids_.erase(waiting->second.routing_id);
  waiting_.erase(waiting);
  world_.poller.again(room_->router_watch);
}

void Lobby::request(const NodeId& seed, const std::string& lobby_endpoint, Bytes frame) {
  STARLING_CHECK(frame.size() <= max_lobby_request_bytes, "a lobby request is within its limit");
  const auto give_up = [&](ErrorCode code, std::string why) {
    world_.events.push_back(LobbyAnswered{seed, fail(code, std::move(why))});
  };
  if (asked_.size() >= config_.max_asked) return give_up(ErrorCode::limit, "too many lobbies are being asked at once");
  if (!room_) return give_up(ErrorCode::unreachable, "our own lobby was reset; ask again");
  const auto key = curve_key_of(seed);
  if (!key) return give_up(key.error().code, key.error().message);
  auto socket = make_dealer(room_->context, {world_.lobby_key, *key, max_lobby_answer_bytes, 1, 0});
  if (!socket) return give_up(socket.error().code, socket.error().message);
  auto monitor = SocketMonitor::open(room_->context, *socket, asked_events);
  if (!monitor) return give_up(monitor.error().code, monitor.error().message);
  if (Status dialled = connect(*socket, lobby_endpoint); !dialled)
    return give_up(dialled.error().code, dialled.error().message);
  const std::uint64_t number = ++last_number_;
  auto [asked, inserted] = asked_.try_emplace(number);
  asked->second.seed = seed;
  asked->second.socket = std::move(*socket);
  asked->second.monitor = std::move(*monitor);
  asked->second.frame = to_message(std::move(frame));
  asked->second.until = world_.clock.now() + config_.ask_for;
  asked->second.watch =
      world_.poller.watch(descriptor(asked->second.socket), Poller::Rank::lobby, [this, number] { on_answer(number); });
  asked->second.monitor_watch = world_.poller.watch(asked->second.monitor->descriptor(), Poller::Rank::lobby,
                                                    [this, number] { on_asked_monitor(number); });
}

void Lobby::on_asked_monitor(std::uint64_t number) {
  while (const auto event = asked_.at(number).monitor->next()) {
    if (event->kind == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH && event->value >= 400) {
      return finish(number, fail(ErrorCode::unauthenticated,
                                 "the seed does not know the token's lobby key: the token is for another run; ask the "
                                 "owner of the run for a new one"));
    }
    // Until it was sent, libzmq dials again by itself. An answer that is already here came before the end.
    if (event->kind == ZMQ_EVENT_DISCONNECTED && asked_.at(number).sent) {
      on_answer(number);
      if (!asked_.contains(number)) return;
      return finish(number,
                    fail(ErrorCode::unreachable, "the seed closed the connection without an answer; ask again"));
    }
  }
}

void Lobby::on_answer(std::uint64_t number) {
  Asked& asked = asked_.at(number);
  if (!asked.sent) {
    const std::size_t size = asked.frame.size();
    static_cast<void>(asked.socket.get(zmq::sockopt::events));
    asked.sent = send_now(asked.socket, asked.frame) == SendOutcome::sent;
    if (asked.sent) world_.counters.sent_bytes += size;
  }
  zmq::message_t frame;
  if (!receive_now(asked.socket, frame)) return;
  if (drop_rest(asked.socket, frame) > 0) {
    ++world_.counters.rejected_oversize;
    return finish(number, fail(ErrorCode::bad_input, "the seed's answer has more than one frame"));
  }
  const ByteView bytes = view(frame);
  world_.counters.received_bytes += bytes.size();
  finish(number, Bytes(bytes.begin(), bytes.end()));
}

void Lobby::finish(std::uint64_t number, Result<Bytes> frame) {
  const auto asked = asked_.find(number);
  world_.poller.unwatch(asked->second.watch);
  world_.poller.unwatch(asked->second.monitor_watch);
  asked->second.socket.set(zmq::sockopt::linger, 0);
  world_.events.push_back(LobbyAnswered{asked->second.seed, std::move(frame)});
  asked_.erase(asked);
}

}  // namespace starling::net
