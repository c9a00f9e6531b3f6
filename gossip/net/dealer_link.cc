#include "gossip/net/dealer_link.h"

#include <zmq.h>

#include <algorithm>
#include <utility>

namespace starling::net {
namespace {

constexpr int link_events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                            ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                            ZMQ_EVENT_DISCONNECTED;
// Libzmq tries several times a second where a connection is refused at once; one report is enough.
constexpr Duration between_refusals = std::chrono::seconds(1);
// Members answer on sockets of their own: whatever comes back on a dialled one is never read, so let it be small.
constexpr std::size_t max_returned_bytes = 1024;

}  // namespace

DealerLink::DealerLink(World world, const NodeId& peer, const CurveKey& peer_key, Lane lane, std::string endpoint,
                       Config config)
    : world_(world), peer_(peer), peer_key_(peer_key), lane_(lane), endpoint_(std::move(endpoint)), config_(config) {}

void DealerLink::send(Bytes frame) {
  last_used_ = world_.clock.now();
  if (state_ == State::refused && last_used_ < redial_at_) {
    ++world_.counters.dropped_unroutable;
    return;
  }
  zmq::message_t message = to_message(std::move(frame));
  const std::size_t size = message.size();
  if (state_ == State::up && queue_.empty() && send_now(*socket_, message) == SendOutcome::sent) {
    world_.counters.sent_bytes += size;
    return;
  }
  enqueue(std::move(message));
  if (state_ == State::absent || state_ == State::refused) dial();
}

void DealerLink::enqueue(zmq::message_t message) {
  queued_bytes_ += message.size();
  queue_.push_back(std::move(message));
  while (queued_bytes_ > config_.queue_bytes || queue_.size() > config_.queue_frames) {
    queued_bytes_ -= queue_.front().size();
    queue_.pop_front();
    ++world_.counters.dropped_full;
  }
}

void DealerLink::drop_queue() {
  world_.counters.dropped_unroutable += queue_.size();
  queue_.clear();
  queued_bytes_ = 0;
}

void DealerLink::move_to(std::string endpoint) {
  close();
  endpoint_ = std::move(endpoint);
  if (!queue_.empty()) dial();
}

void DealerLink::dial() {
  auto socket =
      make_dealer(world_.context, {world_.key, peer_key_, max_returned_bytes, config_.send_frames, config_.io_threads});
  if (!socket) return refuse(socket.error().message);  // no more sockets: the queue waits for the next send
  auto monitor = SocketMonitor::open(world_.context, *socket, link_events);
  if (!monitor) return refuse(monitor.error().message);
  socket_ = std::move(*socket);
  monitor_ = std::move(*monitor);
  socket_watch_ = world_.poller.watch(descriptor(*socket_), Poller::Rank::link, [this] { on_socket(); });
  monitor_watch_ = world_.poller.watch(monitor_->descriptor(), Poller::Rank::link, [this] { on_monitor(); });
  // Watched from before the first command, so none can be missed.
  if (Status dialled = connect(*socket_, endpoint_); !dialled) {
    refuse(dialled.error().message);
    return close();
  }
  state_ = State::dialling;
}

void DealerLink::close() {
  world_.poller.unwatch(std::exchange(socket_watch_, 0));
  world_.poller.unwatch(std::exchange(monitor_watch_, 0));
  monitor_.reset();
  if (socket_) socket_->set(zmq::sockopt::linger, 0);
  socket_.reset();
  state_ = State::absent;
}

void DealerLink::on_monitor() {
  while (const auto event = monitor_->next()) {
    switch (event->kind) {
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        state_ = State::up;
        world_.events.push_back(PeerConnected{peer_, lane_});
        drain();
        break;
      case ZMQ_EVENT_DISCONNECTED:
        // What waited was for this life of the peer; a frame from before its restart would only confuse the next.
        if (state_ == State::up) drop_queue();
        state_ = State::dialling;
        break;
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
        if (event->value >= 400) return refuse_for_good(event->value);
        refuse("it does not know our key yet");
        break;
      default:
        refuse(
            "the handshake did not finish: it does not know our key yet, it hangs, or it is not who this address "
            "promises");
    }
  }
}

void DealerLink::on_socket() {
  // Looking at the events is what reads the socket's commands; what comes back over a dialled socket is never received.
  static_cast<void>(socket_->get(zmq::sockopt::events));
  drain();
}

void DealerLink::drain() {
  if (state_ != State::up) return;
  while (!queue_.empty()) {
    const std::size_t size = queue_.front().size();
    if (send_now(*socket_, queue_.front()) != SendOutcome::sent) return;  // the descriptor wakes us
    world_.counters.sent_bytes += size;
    queued_bytes_ -= size;
    queue_.pop_front();
    last_used_ = world_.clock.now();
  }
}

void DealerLink::refuse(std::string why) {
  const TimePoint now = world_.clock.now();
  if (last_refusal_ && now - *last_refusal_ < between_refusals) return;
  last_refusal_ = now;
  world_.events.push_back(PeerRefused{peer_, lane_, std::move(why)});
}

void DealerLink::refuse_for_good(int status) {
  close();
  drop_queue();
  state_ = State::refused;
  redial_at_ = world_.clock.now() + config_.redial_after_refusal;
  last_refusal_.reset();
  refuse("it says that our certificate is expired, revoked or of another run (" + std::to_string(status) + ")");
}

TimePoint DealerLink::tick(TimePoint now) {
  if (!config_.close_when_idle || state_ != State::up || !queue_.empty()) return never;
  const TimePoint idle_at = last_used_ + *config_.close_when_idle;
  if (now < idle_at) return idle_at;
  close();
  return never;
}

}  // namespace starling::net
