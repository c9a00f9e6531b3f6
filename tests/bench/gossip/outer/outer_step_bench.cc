// Claim: a pair's outer step and the bf16 codec run at the speed of memory.
//
// The reference is memcpy over as many bytes as the work must move (read and write counted), timed in turn with it in the
// same loop, so that both see the same machine. `of_memcpy` is memcpy's time over ours: 1 means as fast as memcpy.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <functional>

#include "gossip/outer/compress.h"
#include "gossip/outer/outer_step.h"

namespace starling::outer {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Runs `work`, which moves `moved_bytes`, and the memcpy that moves as many.
void against_memcpy(benchmark::State& state, std::size_t moved_bytes, const std::function<void()>& work) {
  Bytes from(moved_bytes / 2, std::byte{1});
  Bytes to(moved_bytes / 2);
  double ours = 0.0;
  double memcpys = 0.0;
  for (auto _ : state) {
    const double took = seconds_of(work);
    memcpys += seconds_of([&] {
      std::memcpy(to.data(), from.data(), from.size());
      benchmark::DoNotOptimize(to.data());
    });
    ours += took;
    state.SetIterationTime(took);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(moved_bytes) * state.iterations());
  state.counters["of_memcpy"] = memcpys / ours;
}

struct Pair {
  explicit Pair(std::size_t count)
      : phi(count, 1.0F),
        momentum(count, 0.5F),
        delta(count, 0.25F),
        other_phi(count, 1.5F),
        other_delta(count, 0.125F) {}
  std::vector<float> phi, momentum, delta, other_phi, other_delta;
};

// Reads phi, momentum, delta and the other's two; writes phi and momentum.
constexpr std::size_t arrays_moved = 7;

void pair_step(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  Pair pair(count);
  const std::vector<Contribution> others{{pair.other_phi, pair.other_delta}};
  against_memcpy(state, arrays_moved * count * sizeof(float),
                 [&] { outer_step(pair.phi, pair.momentum, pair.delta, others, {}); });
}

void pair_step_reference(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  Pair pair(count);
  const std::vector<Contribution> others{{pair.other_phi, pair.other_delta}};
  against_memcpy(state, arrays_moved * count * sizeof(float),
                 [&] { outer_step_reference(pair.phi, pair.momentum, pair.delta, others, {}); });
}

void screen_partner(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const Pair pair(count);
  against_memcpy(state, 4 * count * sizeof(float), [&] {
    benchmark::DoNotOptimize(screen(pair.phi, pair.delta, {pair.other_phi, pair.other_delta}));
  });
}

void bf16_encode(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const std::vector<float> values(count, 1.7F);
  Bytes out;
  against_memcpy(state, count * (sizeof(float) + 2), [&] {
    out.clear();
    compress(values, Compression::bf16, out);
  });
}

void bf16_decode(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<float> values(count, 1.7F);
  Bytes bytes;
  compress(values, Compression::bf16, bytes);
  against_memcpy(state, count * (sizeof(float) + 2), [&] { decompress(bytes, Compression::bf16, values); });
}

// A stage of a small model, inside the caches, and a larger one outside of them.
void sizes(benchmark::internal::Benchmark* b) { b->Arg(250'000)->Arg(8'000'000)->UseManualTime(); }
BENCHMARK(pair_step)->Apply(sizes);
BENCHMARK(pair_step_reference)->Apply(sizes);
BENCHMARK(screen_partner)->Apply(sizes);
BENCHMARK(bf16_encode)->Apply(sizes);
BENCHMARK(bf16_decode)->Apply(sizes);

}  // namespace
}  // namespace starling::outer

BENCHMARK_MAIN();
