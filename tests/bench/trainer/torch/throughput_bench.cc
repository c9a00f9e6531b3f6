// Claim: a worker trains faster than a lean loop in PyTorch eager on the same threads: 1.3 times at 1M parameters, 1.1 at
// 32M, 1.05 at 150M, fp32. The reference is tests/bench/trainer/eager.py, which runs both by turns and prints the table:
//
//   pip install torch numpy
//   python tests/bench/trainer/eager.py build/tests/bench/trainer/torch/throughput_bench --threads 2
//
// A step here is what the compute thread of a worker with one stage does: Begin, Loss, Backward for each microbatch, then
// OptimizerStep. `gemm` is the machine's own speed, in the type of the products: 1,024 x 1,024 x 4,096, on a GPU eight times
// as long each way. Without --size only the smallest model runs; --dtype=bfloat16, --device=cuda.
#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <c10/core/InferenceMode.h>

#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "gossip/base/error.h"
#include "gossip/base/real_env.h"
#include "trainer/data/source.h"
#include "trainer/torch/accelerator.h"
#include "trainer/torch/job_runner.h"

namespace starling::trainer {
namespace {

struct Shape {
  std::string_view name;
  std::int64_t hidden, inner, layers, heads, kv_heads, vocab;
  std::int64_t seq_len, sequences, microbatches;
};
// The same table stands in eager.py. 1M: configs/quickstart.yaml; 150M: configs/llama-125m.yaml.
constexpr std::array shapes{Shape{"1M", 128, 256, 8, 4, 2, 256, 128, 4, 4},
                            Shape{"32M", 512, 1536, 8, 8, 4, 8192, 256, 4, 1},
                            Shape{"150M", 768, 3072, 12, 12, 4, 32000, 512, 2, 1},
                            Shape{"125M", 768, 2048, 12, 12, 12, 32000, 1024, 16, 1},
                            Shape{"1B", 2048, 5632, 22, 32, 4, 32000, 2048, 4, 1}};
int threads = 1;
DeviceType device = DeviceType::cpu;
std::string dtype = "float32";

LearnerConfig config_of(const Shape& shape) {
  LearnerConfig config;
  config.model = {.hidden_size = shape.hidden,
                  .intermediate_size = shape.inner,
                  .num_hidden_layers = shape.layers,
                  .num_attention_heads = shape.heads,
                  .num_key_value_heads = shape.kv_heads,
                  .vocab_size = shape.vocab,
                  .max_position_embeddings = shape.seq_len};
  config.cut = *cut_into_stages(config.model, 1, {});
  config.training.seq_len = shape.seq_len;
  config.training.micro_batch_size = shape.sequences;
  config.training.dtype = dtype;
  config.seed = 1;
  config.threads = threads;
  config.device = device;
  config.precision = precision_of(dtype, device);
  return config;
}

std::shared_ptr<const Source> source_of(const LearnerConfig& config) {
  const auto path = std::filesystem::temp_directory_path() / ("starling_throughput_" + std::to_string(::getpid()));
  std::ofstream(path) << std::string(1 << 20, 'a');
  Result<Source> source = Source::open(
      {.train = {path.string()}}, {.sequences = config.training.micro_batch_size, .seq_len = config.training.seq_len},
      config.model.vocab_size);
  std::filesystem::remove(path);
  STARLING_CHECK(source.has_value(), "a source of one file");
  return std::make_shared<const Source>(std::move(*source));
}

void train(benchmark::State& state, const Shape& shape) {
  const LearnerConfig config = config_of(shape);
  // The library calls this several times to find the number of iterations; one model serves them all.
  static std::unique_ptr<JobRunner> runner;
  static Step step = 0;
  const std::int64_t tokens = shape.seq_len * shape.sequences * shape.microbatches;
  const auto one = [&] {
    ++step;
    for (std::uint32_t index = 0; index < shape.microbatches; ++index) {
      const MicrobatchId id{.originator = {}, .boot = 1, .step = step, .index = index};
      runner->run(Begin{.microbatch = id, .slot = 0});
      runner->run(Loss{.microbatch = id, .input = nullptr});
      runner->run(Backward{.microbatch = id, .gradient = nullptr});
    }
    runner->run(OptimizerStep{.step = step, .learning_rate = 1e-4, .body_tokens = tokens, .head_tokens = tokens});
  };
  if (!runner) {
    runner = std::make_unique<JobRunner>(config, source_of(config));
    runner->adopt_thread(RealClock());
    runner->run(Load{});
    one();
  }
  for (auto _ : state) one();
  state.SetItemsProcessed(state.iterations() * tokens);
  state.counters["parameters"] = static_cast<double>(parameter_count(config.model, config.cut[0], 0));
}

void gemm(benchmark::State& state) {
  const c10::InferenceMode no_autograd;
  at::set_num_threads(threads);
  const bool bf16 = precision_of(dtype, device) == Precision::bfloat16;
  const std::int64_t size = device == DeviceType::cuda ? 8192 : 1024;
  const auto options = at::TensorOptions(bf16 ? at::kBFloat16 : at::kFloat)
                           .device(device == DeviceType::cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU));
  const at::Tensor a = at::ones({size, size}, options);
  const at::Tensor b = at::ones({4 * size, size}, options);
  at::Tensor c = at::mm(a, b.t());
  for (auto _ : state) {
    at::mm_out(c, a, b.t());
    if (!a.is_cpu()) benchmark::DoNotOptimize(c.narrow(0, 0, 1).sum().item<float>());  // waits for the device
  }
  const auto length = static_cast<double>(size);
  state.counters["gflops"] =
      benchmark::Counter(8.0e-9 * length * length * length, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

int main_of(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string_view size = "1M";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--size=")) size = argument.substr(7);
    if (argument.starts_with("--threads=")) threads = std::atoi(argv[i] + 10);
    if (argument.starts_with("--dtype=")) dtype = argument.substr(8);
    if (argument == "--device=cuda") {
      const auto opened = open_accelerator(DeviceWish::cuda);
      STARLING_CHECK(opened.has_value(), "a GPU, as --device=cuda says");
      device = opened->type;
    }
  }
  benchmark::RegisterBenchmark("gemm", gemm)->UseRealTime();
  for (const Shape& shape : shapes) {
    if (shape.name == size) {
      benchmark::RegisterBenchmark("train", train, shape)->UseRealTime()->Unit(benchmark::kMillisecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace starling::trainer

int main(int argc, char** argv) { return starling::trainer::main_of(argc, argv); }
