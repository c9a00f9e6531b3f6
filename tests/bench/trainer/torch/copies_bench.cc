// Claim: a middle stage on an accelerator copies activations beside what it computes. Reference: the same passes over tensors
// that lie there already (`computing`). `in_a_row` has its jobs queued, as a busy worker has, and should come near to it;
// `one_by_one` waits for each answer, so that nothing is beside anything.
//
//   build/tests/bench/trainer/torch/copies_bench --device=cuda --wide
//
// Forward and backward of 8 microbatches, bf16 on the wire: one block of width 64, with --wide three of width 768, 16 x 1,024
// tokens each and four threads.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include <cstdint>
#include <memory>
#include <semaphore>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/real_env.h"
#include "trainer/torch/accelerator.h"
#include "trainer/torch/init.h"
#include "trainer/torch/learner.h"
#include "trainer/torch/stage.h"
#include "trainer/worker/slow_weights.h"

namespace starling::trainer {
namespace {

constexpr std::uint32_t microbatches = 8;
DeviceType device = DeviceType::cpu;
bool wide = false;

LearnerConfig config_of_stages() {
  LearnerConfig config;
  config.model = wide ? ModelConfig{.hidden_size = 768,
                                    .intermediate_size = 2048,
                                    .num_hidden_layers = 12,
                                    .num_attention_heads = 12,
                                    .num_key_value_heads = 12,
                                    .vocab_size = 32000,
                                    .max_position_embeddings = 1024}
                      : ModelConfig{.hidden_size = 64,
                                    .intermediate_size = 128,
                                    .num_hidden_layers = 4,
                                    .num_attention_heads = 4,
                                    .num_key_value_heads = 4,
                                    .vocab_size = 256,
                                    .max_position_embeddings = 64};
  config.cut = *cut_into_stages(config.model, 4, {});
  config.training.seq_len = config.model.max_position_embeddings;
  config.training.micro_batch_size = wide ? 16 : 4;
  config.seed = 1;
  config.threads = wide ? 4 : 1;
  config.device = device;
  config.precision = device == DeviceType::cuda ? Precision::bfloat16 : Precision::float32;
  return config;
}

MicrobatchId microbatch(std::uint32_t index) { return {.originator = {}, .boot = 1, .step = 1, .index = index}; }

void computing(benchmark::State& state) {
  const c10::InferenceMode no_autograd;
  const LearnerConfig config = config_of_stages();
  at::set_num_threads(config.threads);
  const bool cuda = device == DeviceType::cuda;
  StageModel model({.model = config.model,
                    .layers = config.cut[1],
                    .stage = 1,
                    .batch = {.sequences = config.training.micro_batch_size, .seq_len = config.training.seq_len},
                    .optimizer = config.optimizer,
                    .device = cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU),
                    .products = cuda ? at::kBFloat16 : at::kFloat},
                   draw_parameters(config.model, config.cut[1], 1, config.seed), {});
  const at::Tensor values = at::ones({model.rows(), model.hidden()}, at::TensorOptions(model.activations()).device(model.device()));
  at::Tensor last;
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < microbatches; ++i) model.forward(microbatch(i), values, Pass::train);
    for (std::uint32_t i = 0; i < microbatches; ++i) last = model.backward(microbatch(i), values.clone()).gradient;
    benchmark::DoNotOptimize(last.sum().item<float>());  // waits for the device
  }
  state.SetItemsProcessed(state.iterations() * microbatches * config.training.tokens_per_microbatch());
}

void learning(benchmark::State& state, bool in_a_row) {
  const LearnerConfig config = config_of_stages();
  const RealClock clock;
  std::counting_semaphore<> answered(0);
  Learner learner(config, nullptr, clock, [&] { answered.release(); });
  const std::vector<float> ones(static_cast<std::size_t>(config.training.tokens_per_microbatch() * config.model.hidden_size), 1.0F);
  const Buffer values = encode_values(ones, Encoding::bf16);
  JobId last = 0;
  const auto wait = [&](std::uint32_t count) {
    for (; count > 0; --count) {
      answered.acquire();
      benchmark::DoNotOptimize(learner.take_completions());  // lets go of what came
    }
  };
  const auto submit = [&](Job job) {
    learner.submit(++last, std::move(job));
    if (!in_a_row) wait(1);
  };
  const auto both_ways = [&] {
    for (std::uint32_t i = 0; i < microbatches; ++i) submit(Forward{.microbatch = microbatch(i), .input = values});
    for (std::uint32_t i = 0; i < microbatches; ++i) submit(Backward{.microbatch = microbatch(i), .gradient = values});
    if (in_a_row) wait(2 * microbatches);
  };
  learner.submit(++last, Load{.stage = 1});
  wait(1);
  both_ways();
  for (auto _ : state) both_ways();
  state.SetItemsProcessed(state.iterations() * microbatches * config.training.tokens_per_microbatch());
}

}  // namespace

int main_of(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--wide") wide = true;
    if (argument == "--device=cuda") {
      const auto opened = open_accelerator(DeviceWish::cuda);
      STARLING_CHECK(opened.has_value(), "a GPU, as --device=cuda says");
      device = opened->type;
    }
  }
  benchmark::RegisterBenchmark("computing", computing)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("in_a_row", learning, true)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("one_by_one", learning, false)->UseRealTime()->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace starling::trainer

int main(int argc, char** argv) { return starling::trainer::main_of(argc, argv); }
