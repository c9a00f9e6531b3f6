// Claim: a matrix times a vector, which is what a generated token consists of, takes no longer than LibTorch's product (MKL's),
// and less where the matrix does not fit the caches: it is read as four streams of memory. `ratio` is LibTorch's time by ours,
// both by turns on one thread, over a new part of a set of matrices each time, as a model's blocks are.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include <chrono>
#include <cstdint>

#include "trainer/torch/token_kernels.h"

namespace starling::trainer {
namespace {

// Rows and columns of a matrix and how many there are: a block of 1M, 32M and 150M parameters (trainer/README.md).
void matrix_vector(benchmark::State& state) {
  const c10::InferenceMode no_autograd;
  at::set_num_threads(1);
  const std::int64_t rows = state.range(0);
  const std::int64_t width = state.range(1);
  const std::int64_t count = state.range(2);
  const at::Tensor matrices = at::ones({count, rows, width}, at::kFloat);
  const at::Tensor x = at::ones({width}, at::kFloat);
  at::Tensor ours = at::empty({rows}, at::kFloat);
  at::Tensor theirs = at::empty({rows}, at::kFloat);
  using Clock = std::chrono::steady_clock;
  Clock::duration our_time{};
  Clock::duration their_time{};
  for (auto _ : state) {
    const Clock::time_point begin = Clock::now();
    for (std::int64_t i = 0; i < count; ++i) {
      kernels::matrix_vector(matrices.const_data_ptr<float>() + i * rows * width, width, x.const_data_ptr<float>(),
                             rows, width, kernels::Into::replace, ours.mutable_data_ptr<float>());
    }
    const Clock::time_point between = Clock::now();
    for (std::int64_t i = 0; i < count; ++i) at::mv_out(theirs, matrices[i], x);
    our_time += between - begin;
    their_time += Clock::now() - between;
  }
  if (!at::allclose(ours, theirs)) state.SkipWithError("the products differ");
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  state.counters["ratio"] = seconds(their_time) / seconds(our_time);
  state.counters["GB/s"] = 1e-9 * static_cast<double>(state.iterations()) *
                           static_cast<double>(4 * count * rows * width) / seconds(our_time);
}
BENCHMARK(matrix_vector)->Args({256, 128, 32})->Args({3072, 512, 16})->Args({6144, 768, 8})->UseRealTime();

}  // namespace
}  // namespace starling::trainer

BENCHMARK_MAIN();
