// Claim: a 64 MiB buffer crosses from one process to another through the whole stack (offer, credit, pulls of 252 KiB
// chunks, XXH3-128 on both sides, CURVE) at 0.2 of raw TCP or better.
//
// Two processes on one machine, over its loopback. Each round sends the buffer once through a TCP connection between
// the same two processes (the reference: nothing but send and recv of 252 KiB, which the receiver forgets), once more so
// that it stands in the receiver's memory at the end, as after a transfer (`raw_kept`), once as bare chunks through the
// transport (`chunks`: CURVE and XXH3, no offers and pulls), and once through the whole stack (`stack`). A time ends
// when the receiver says that it has, and has checked, the last byte. Connections stand before the first round.
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/real_env.h"
#include "gossip/net/bulk.h"
#include "gossip/net/zmq_transport.h"

namespace starling::net {
namespace {

constexpr std::size_t buffer_bytes = 64 << 20;
constexpr Duration patience = std::chrono::seconds(60);

void check(bool condition) { STARLING_CHECK(condition, "the benchmark's own plumbing works"); }

// What tells the two processes apart and together.
struct Both {
  NodeKey sender = NodeKey::generate();
  NodeKey receiver = NodeKey::generate();
  CurveKeyPair lobby = CurveKeyPair::generate();
};

std::string exchange_line(int fd, const std::string& mine) {
  const std::string line = mine + "\n";
  check(::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size()));
  std::string theirs;
  for (char c = 0; ::read(fd, &c, 1) == 1 && c != '\n';) theirs.push_back(c);
  return theirs;
}

// One process's end: transport and bulk, and the few lines of a worker that carry actions out.
class End {
 public:
  End(const NodeKey& key, const NodeKey& peer, const CurveKeyPair& lobby, int pipe)
      : self_(key.id()), peer_(peer.id()), bulk_({}, key.id(), 1) {
    ZmqTransport::Config config;
    config.network.listen = "tcp://127.0.0.1:0";
    config.network.listen_is_default = false;
    auto transport = ZmqTransport::open(config, key, lobby, clock_);
    check(transport.has_value());
    transport_ = std::move(*transport);
    transport_->admit(peer_);
    Endpoints other;
    other.control = exchange_line(pipe, transport_->bound().control);
    other.bulk = exchange_line(pipe, transport_->bound().bulk);
    other.lobby = exchange_line(pipe, transport_->bound().lobby);
    transport_->set_endpoints(peer_, other);
    carry_out(bulk_.on(Bulk::PeerUp{peer_}, clock_.now()));
  }

  // The buffer as bare chunks, until the receiver has counted and hashed the last of them.
  void send_chunks(const Bytes& buffer) {
    const Hash128 hash = xxh3_128(buffer);
    benchmark::DoNotOptimize(hash);
    const TransferId transfer{self_, bare_boot, 1};
    for (std::size_t at = 0; at < buffer.size(); at += max_chunk_payload_bytes) {
      const std::size_t size = std::min(max_chunk_payload_bytes, buffer.size() - at);
      // The transport's queue is bounded and nobody pulls here, so half of it may be under way.
      while (bare_sent_ - bare_acknowledged_ > bare_window) step();
      transport_->send(peer_, Lane::bulk, encode_chunk(transfer, at, ByteView(buffer).subspan(at, size)));
      bare_sent_ += size;
    }
    while (bare_acknowledged_ < bare_sent_) step();
  }
  void receive_chunks(std::uint64_t bytes) {
    for (const std::uint64_t target = bare_received_ + bytes; bare_received_ < target;) step();
  }

  void send_through_stack(Buffer buffer) {
    const std::size_t target = released_ + 1;
    const Hash128 hash = xxh3_128(*buffer);
    carry_out(
        bulk_.on(Bulk::OfferBuffer{peer_, bulk_.next_transfer(), StatePart{}, std::move(buffer), hash}, clock_.now()));
    while (released_ < target) step();
  }
  void receive_through_stack() {
    for (const std::size_t target = delivered_ + 1; delivered_ < target;) step();
  }

 private:
  void step() {
    const TimePoint now = clock_.now();
    const TimePoint next = bulk_.next_deadline();
    for (auto& event : transport_->poll(next == never ? patience : next - now)) {
      if (const auto* frame = std::get_if<Received>(&event)) on_frame(*frame);
    }
    if (clock_.now() >= bulk_.next_deadline()) carry_out(bulk_.on(Bulk::Tick{}, clock_.now()));
  }

  // Bare chunks are told from the stack's by a boot that no transfer of the stack has, and acknowledged by Done.
  static constexpr Boot bare_boot = 99;
  static constexpr std::uint64_t bare_window = 8 << 20;

  void on_frame(const Received& frame) {
    if (frame.lane == Lane::bulk) {
      const auto chunk = decode_chunk(frame.frame, frame.from);
      check(chunk.has_value());
      if (chunk->transfer.boot != bare_boot) return carry_out(bulk_.on(Bulk::ChunkCame{*chunk}, clock_.now()));
      benchmark::DoNotOptimize(xxh3_128(chunk->payload));
      bare_received_ += chunk->payload.size();
      const Done counted{bare_boot, static_cast<Step>(bare_received_)};
      return transport_->send(peer_, Lane::control, encode(counted));
    }
    auto message = decode(frame.frame, frame.from, self_);
    check(message.has_value());
    std::visit([&](auto& m) { on_message(m); }, *message);
  }
  template <typename M>
  void on_message(const M&) {}
  void on_message(const Offer& m) { carry_out(bulk_.on(Bulk::OfferCame{peer_, m}, clock_.now())); }
  void on_message(const Pull& m) { carry_out(bulk_.on(Bulk::PullCame{peer_, m}, clock_.now())); }
  void on_message(const Refuse& m) { carry_out(bulk_.on(Bulk::RefuseCame{peer_, m}, clock_.now())); }
  void on_message(const Release& m) {
    ++released_;
    carry_out(bulk_.on(Bulk::ReleaseCame{peer_, m.transfer}, clock_.now()));
  }
  void on_message(const Credit& m) { carry_out(bulk_.on(Bulk::CreditCame{peer_, m}, clock_.now())); }
  void on_message(const Done& m) { bare_acknowledged_ = static_cast<std::uint64_t>(m.step); }

  void carry_out(std::vector<Bulk::Action> actions) {
    for (auto& action : actions) std::visit([&](auto& a) { act(a); }, action);
  }
  void act(const Bulk::SendControl& a) { transport_->send(a.to, Lane::control, encode(a.message)); }
  void act(const Bulk::SendChunk& a) {
    const ByteView payload = ByteView(*a.buffer).subspan(a.offset, a.bytes);
    transport_->send(a.to, Lane::bulk, encode_chunk(a.transfer, a.offset, payload));
  }
  void act(const Bulk::OfferAnnounced& a) { carry_out(bulk_.on(Bulk::OfferTaken{a.from, a.offer}, clock_.now())); }
  void act(const Bulk::Delivered& a) {
    ++delivered_;
    carry_out(bulk_.on(Bulk::Answered{a.from, a.offer.transfer, std::nullopt}, clock_.now()));
  }
  void act(const Bulk::ReceiveFailed&) { check(false); }
  void act(const Bulk::SendEnded&) { check(false); }

  RealClock clock_;
  NodeId self_;
  NodeId peer_;
  Bulk bulk_;
  std::unique_ptr<ZmqTransport> transport_;
  std::size_t released_ = 0;
  std::size_t delivered_ = 0;
  std::uint64_t bare_sent_ = 0;
  std::uint64_t bare_acknowledged_ = 0;
  std::uint64_t bare_received_ = 0;
};

// ---- the reference
int listen_on_loopback(std::uint16_t& port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  check(::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0 && ::listen(fd, 1) == 0);
  check(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port = ntohs(address.sin_port);
  return fd;
}

int dial_loopback(std::uint16_t port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  check(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

void send_raw(int fd, const Bytes& buffer) {
  for (std::size_t at = 0; at < buffer.size();) {
    const ssize_t n =
        ::send(fd, buffer.data() + at, std::min(max_chunk_payload_bytes, buffer.size() - at), MSG_NOSIGNAL);
    check(n > 0);
    at += static_cast<std::size_t>(n);
  }
  char done = 0;
  check(::recv(fd, &done, 1, 0) == 1);
}

void receive_raw(int fd, std::size_t bytes) {
  Bytes scratch(max_chunk_payload_bytes);
  while (bytes > 0) {
    const ssize_t n = ::recv(fd, scratch.data(), std::min(bytes, scratch.size()), 0);
    check(n > 0);
    bytes -= static_cast<std::size_t>(n);
  }
  check(::send(fd, "d", 1, MSG_NOSIGNAL) == 1);
}

void receive_raw_and_keep(int fd, std::size_t bytes) {
  const auto kept = std::make_unique_for_overwrite<std::byte[]>(bytes);
  for (std::size_t at = 0; at < bytes;) {
    const ssize_t n = ::recv(fd, kept.get() + at, std::min(max_chunk_payload_bytes, bytes - at), 0);
    check(n > 0);
    at += static_cast<std::size_t>(n);
  }
  check(::send(fd, "d", 1, MSG_NOSIGNAL) == 1);
}

// ---- the two processes
enum class Command : char { raw = 'r', raw_kept = 'k', chunks = 'c', stack = 's' };

// Until the pipe closes.
[[noreturn]] void be_receiver(const Both& both, int pipe) {
  {
    End end(both.receiver, both.sender, both.lobby, pipe);
    std::uint16_t port = 0;
    const int listener = listen_on_loopback(port);
    exchange_line(pipe, std::to_string(port));
    const int raw = ::accept(listener, nullptr, nullptr);
    for (char command = 0; ::read(pipe, &command, 1) == 1;) {
      switch (static_cast<Command>(command)) {
        case Command::raw:
          receive_raw(raw, buffer_bytes);
          break;
        case Command::raw_kept:
          receive_raw_and_keep(raw, buffer_bytes);
          break;
        case Command::chunks:
          end.receive_chunks(buffer_bytes);
          break;
        case Command::stack:
          end.receive_through_stack();
          break;
      }
    }
  }
  ::_exit(0);
}

double seconds_of_clock(clockid_t clock) {
  timespec time{};
  check(::clock_gettime(clock, &time) == 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Of this process and its child, all threads.
double processor_seconds(pid_t child) {
  clockid_t clock{};
  check(::clock_getcpuclockid(child, &clock) == 0);
  return seconds_of_clock(CLOCK_PROCESS_CPUTIME_ID) + seconds_of_clock(clock);
}

struct Spent {
  double wall = 0.0;
  double processor = 0.0;
};

void sixty_four_mib(benchmark::State& state) {
  const Both both;
  int pipes[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM, 0, pipes) == 0);
  const pid_t child = ::fork();
  check(child >= 0);
  if (child == 0) {
    ::close(pipes[0]);
    be_receiver(both, pipes[1]);
  }
  ::close(pipes[1]);
  {
    End end(both.sender, both.receiver, both.lobby, pipes[0]);
    const int raw = dial_loopback(static_cast<std::uint16_t>(std::stoi(exchange_line(pipes[0], "port?"))));
    const Buffer buffer = std::make_shared<const Bytes>(buffer_bytes, std::byte{3});
    const auto timed = [&](Command command, Spent& sum, const std::function<void()>& work) {
      const char c = static_cast<char>(command);
      check(::write(pipes[0], &c, 1) == 1);
      const double processor = processor_seconds(child);
      const auto start = std::chrono::steady_clock::now();
      work();
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      sum.wall += took.count();
      sum.processor += processor_seconds(child) - processor;
      return took.count();
    };
    Spent of_raw;
    Spent of_kept;
    Spent of_chunks;
    Spent of_stack;
    const auto round = [&] {
      timed(Command::raw, of_raw, [&] { send_raw(raw, *buffer); });
      timed(Command::raw_kept, of_kept, [&] { send_raw(raw, *buffer); });
      timed(Command::chunks, of_chunks, [&] { end.send_chunks(*buffer); });
      return timed(Command::stack, of_stack, [&] { end.send_through_stack(buffer); });
    };
    // Handshakes, first credit, and pages that were never touched are not part of the claim.
    round();
    of_raw = of_kept = of_chunks = of_stack = {};
    for (auto _ : state) state.SetIterationTime(round());
    state.SetBytesProcessed(static_cast<std::int64_t>(buffer_bytes) * state.iterations());
    state.counters["chunks_of_raw_tcp"] = of_raw.wall / of_chunks.wall;
    state.counters["stack_of_raw_tcp"] = of_raw.wall / of_stack.wall;
    state.counters["stack_of_raw_kept"] = of_kept.wall / of_stack.wall;
    // On a machine that others use too, these are steadier.
    state.counters["stack_of_raw_tcp_cpu"] = of_raw.processor / of_stack.processor;
    state.counters["stack_of_raw_kept_cpu"] = of_kept.processor / of_stack.processor;
    const double bits = 8.0 * static_cast<double>(buffer_bytes) * static_cast<double>(state.iterations());
    state.counters["raw_gbit_s"] = bits / of_raw.wall / 1e9;
    state.counters["stack_gbit_s"] = bits / of_stack.wall / 1e9;
    state.counters["stack_cpu_ms"] = 1e3 * of_stack.processor / static_cast<double>(state.iterations());
    ::close(raw);
  }
  ::close(pipes[0]);
  ::waitpid(child, nullptr, 0);
}
BENCHMARK(sixty_four_mib)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace starling::net

BENCHMARK_MAIN();
