// Claim: the simulated network of 64 nodes hands over more than 300,000 frames a second on one thread, so that simulating
// a swarm is a matter of its workers' code. Every frame that arrives is answered by one to a random peer. The reference is
// the event heap alone, with as many tasks waiting.
#include <benchmark/benchmark.h>

#include <vector>

#include "gossip/sim/network.h"

namespace starling::sim {
namespace {

constexpr std::size_t nodes = 64;
constexpr std::size_t frames_under_way = 2048;

NodeId id_of(std::size_t node) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(node + 1);
  return id;
}

void frames(benchmark::State& state, net::Lane lane) {
  Scheduler scheduler;
  SimNetwork network(
      scheduler,
      {.link = {.latency = std::chrono::milliseconds(5), .jitter = std::chrono::milliseconds(5), .loss = 1e-9}},
      Stream(1));
  Stream random(2);
  std::vector<net::Transport*> transports;
  const auto send_on = [&](std::size_t from, Bytes frame) {
    const std::size_t to = (from + 1 + random.below(nodes - 1)) % nodes;
    transports[from]->send(id_of(to), lane, std::move(frame));
  };
  for (std::size_t i = 0; i < nodes; ++i) {
    transports.push_back(&network.add(id_of(i), [&, i](net::TransportEvent event) {
      if (auto* frame = std::get_if<net::Received>(&event)) send_on(i, std::move(frame->frame));
    }));
  }
  for (std::size_t i = 0; i < nodes; ++i) {
    for (std::size_t j = 0; j < nodes; ++j) {
      if (i == j) continue;
      transports[i]->admit(id_of(j));
      transports[i]->set_endpoints(id_of(j), transports[j]->bound());
    }
  }
  for (std::size_t i = 0; i < frames_under_way; ++i) send_on(i % nodes, Bytes(200));
  scheduler.run_until(scheduler.now() + std::chrono::seconds(5));  // all connections stand

  const std::uint64_t before = network.delivered();
  for (auto _ : state) {
    const std::uint64_t target = network.delivered() + 1000;
    while (network.delivered() < target) scheduler.run_one();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(network.delivered() - before));
}
BENCHMARK_CAPTURE(frames, control, net::Lane::control);
BENCHMARK_CAPTURE(frames, bulk, net::Lane::bulk);

void heap_alone(benchmark::State& state) {
  Scheduler scheduler;
  Stream random(2);
  std::uint64_t ran = 0;
  struct Again {
    Scheduler* scheduler;
    Stream* random;
    void operator()() const { scheduler->after(Duration(random->below(10'000'000)), *this); }
  };
  for (std::size_t i = 0; i < frames_under_way; ++i) scheduler.after(Duration(0), Again{&scheduler, &random});
  for (auto _ : state) {
    for (int i = 0; i < 1000; ++i) scheduler.run_one();
    ran += 1000;
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(ran));
}
BENCHMARK(heap_alone);

}  // namespace
}  // namespace starling::sim

BENCHMARK_MAIN();
