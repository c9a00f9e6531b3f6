// Claim: what it costs to send a microbatch through processes instead of computing it in one: messages, bytes and time of
// the loop threads per microbatch, and the time of a step in four processes against the same step in one. With --size=32M
// at least 0.9 of the tokens for each second of a core.
//
// The run is that of `starling launch` with four stages of one replica on the loopback. It is made twice, once with more
// steps: what both have in common (start, first exchange of views, end) cancels out of the difference. The reference is
// the whole model in this process, without a network, with one thread and with all cores.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/real_env.h"
#include "launcher/config_yaml.h"
#include "metrics/event_log.h"
#include "tests/e2e/launched_run.h"
#include "trainer/data/source.h"
#include "trainer/torch/job_runner.h"

namespace starling {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t stages = 4;

struct Size {
  std::string_view name;
  std::string_view model;  // and the shape of a microbatch, as YAML
  Step few_steps;
  Step many_steps;
};
// 32M: as in throughput_bench.
constexpr Size sizes[] = {
    {"0.6M",
     R"(model: {model_type: llama, hidden_size: 96, intermediate_size: 192, num_hidden_layers: 8, num_attention_heads: 4,
        num_key_value_heads: 2, vocab_size: 256, max_position_embeddings: 64}
training: {seq_len: 64, micro_batch_size: 2, microbatches: 16, max_steps: 5, dtype: float32}
)",
     5, 25},
    {"32M",
     R"(model: {model_type: llama, hidden_size: 512, intermediate_size: 1536, num_hidden_layers: 8, num_attention_heads: 8,
        num_key_value_heads: 4, vocab_size: 8192, max_position_embeddings: 256}
training: {seq_len: 256, micro_batch_size: 4, microbatches: 16, max_steps: 5, dtype: float32}
)",
     3, 9},
};

struct Totals {
  double microbatches = 0.0;
  double messages = 0.0;
  double bytes = 0.0;
  double loop_seconds = 0.0;
  double cpu_seconds = 0.0;  // of all processes, the observer's too
};

Totals operator-(const Totals& a, const Totals& b) {
  return {a.microbatches - b.microbatches, a.messages - b.messages, a.bytes - b.bytes, a.loop_seconds - b.loop_seconds,
          a.cpu_seconds - b.cpu_seconds};
}

// Of all children that have ended, and of theirs.
double children_cpu_seconds() {
  rusage used{};
  STARLING_CHECK(::getrusage(RUSAGE_CHILDREN, &used) == 0, "a process may ask for its own use");
  const auto in_seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return in_seconds(used.ru_utime) + in_seconds(used.ru_stime);
}

// Of all workers of a run that has ended.
Totals read_totals(const std::filesystem::path& events) {
  Totals out;
  const auto lines = metrics::read_events(events);
  STARLING_CHECK(lines, "a run leaves its events");
  for (const metrics::EventLine& line : lines->lines) {
    if (line.event != "totals") continue;
    std::map<std::string, double> fields;
    for (const EventField& field : line.fields) {
      if (const auto* whole = std::get_if<std::int64_t>(&field.value)) fields[field.name] = static_cast<double>(*whole);
      if (const auto* real = std::get_if<double>(&field.value)) fields[field.name] = *real;
    }
    out.microbatches += fields.at("microbatches");
    out.messages += fields.at("messages_sent");
    out.bytes += fields.at("bytes_sent");
    out.loop_seconds += fields.at("loop_seconds");
  }
  return out;
}

// Seconds between two closed steps of the originator, over the last `steps` of the run.
double step_seconds(const std::filesystem::path& metrics_file, Step steps) {
  const auto lines = metrics::read_metrics(metrics_file);
  STARLING_CHECK(lines, "a run leaves its metrics");
  std::map<Step, double> closed;
  for (const metrics::MetricsLine& line : lines->lines) {
    if (line.loss) closed[line.step] = line.time;
  }
  const double last = closed.rbegin()->second;
  return (last - closed.at(closed.rbegin()->first - steps)) / static_cast<double>(steps);
}

class Workplace {
 public:
  explicit Workplace(const Size& size)
      : directory_(std::filesystem::temp_directory_path() / ("microbatch_bench." + std::to_string(::getpid()))) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    write_text(directory_ / "text.txt");
    std::ofstream(run_file()) << R"(version: 1
run: {name: bench, seed: 11}
tokenizer: {path: byte}
data: {train: [)" << (directory_ / "text.txt").string()
                              << R"(]}
optimizer: {lr: 4.0e-3}
lr_scheduler: {warmup_steps: 2, min_lr: 4.0e-4}
parallelism: {stages: 4, replicas: 1}
eval: {interval: 0, batches: 1}
logging: {log_interval: 1}
)" << size.model;
  }
  ~Workplace() { std::filesystem::remove_all(directory_); }
  std::string run_file() const { return (directory_ / "run.yaml").string(); }

  struct Ran {
    std::filesystem::path directory;
    Totals cost;
  };
  // Runs it to its end.
  Ran launch(Step steps) const {
    const std::string name = "steps-" + std::to_string(steps);
    const double before = children_cpu_seconds();
    LaunchedRun run(directory_, run_file(), {"run.name=" + name, "training.max_steps=" + std::to_string(steps)},
                    stages);
    STARLING_CHECK(run.wait(900s) == 0, "the run reaches its end");
    Ran out{directory_ / name, read_totals(directory_ / name / "events.jsonl")};
    out.cost.cpu_seconds = children_cpu_seconds() - before;
    return out;
  }

 private:
  const std::filesystem::path directory_;
};

// The fastest of a few steps of the whole model in this process: as many as fit into two seconds. (Threads that spin for
// each other on cores that others use too take minutes for what takes one of them a second.)
double step_seconds_in_one_process(const launcher::RunConfig& config, int threads) {
  auto source = trainer::Source::open(config.data, {config.training.micro_batch_size, config.training.seq_len},
                                      config.model.vocab_size);
  STARLING_CHECK(source, "the text is long enough");
  trainer::JobRunner device({.model = config.model,
                             .cut = *trainer::cut_into_stages(config.model, 1, {}),
                             .training = config.training,
                             .optimizer = config.optimizer,
                             .activation_encoding = trainer::Encoding::fp32,
                             .seed = config.run.seed,
                             .threads = threads},
                            std::make_shared<const trainer::Source>(std::move(*source)));
  device.adopt_thread(RealClock());
  device.run(trainer::Load{.stage = 0});
  double best = std::numeric_limits<double>::max();
  const auto enough = std::chrono::steady_clock::now() + 2s;
  for (Step k = 1; k <= 2 || std::chrono::steady_clock::now() < enough; ++k) {
    const auto start = std::chrono::steady_clock::now();
    std::int64_t tokens = 0;
    for (std::uint32_t index = 0; index < config.training.microbatches; ++index) {
      const MicrobatchId id{{}, 1, k, index};
      device.run(trainer::Begin{.microbatch = id, .slot = 0});
      tokens += std::get<trainer::LossMade>(device.run(trainer::Loss{.microbatch = id})).tokens;
      device.run(trainer::Backward{.microbatch = id});
    }
    device.run(trainer::OptimizerStep{.step = k, .learning_rate = 1e-3, .body_tokens = tokens, .head_tokens = tokens});
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

void four_processes(benchmark::State& state, const Size& size) {
  const Workplace workplace(size);
  const auto reading = launcher::load_config(workplace.run_file(), {});
  STARLING_CHECK(reading.ok(), "the benchmark's own run file is good");
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  for (auto _ : state) {
    const auto few = workplace.launch(size.few_steps);
    const auto many = workplace.launch(size.many_steps);
    const Totals cost = many.cost - few.cost;
    const Step steps = size.many_steps - size.few_steps;
    const double step = step_seconds(many.directory / "metrics.jsonl", steps);
    state.SetIterationTime(step);
    const double one_thread = step_seconds_in_one_process(reading.config, 1);
    const double all_cores = step_seconds_in_one_process(reading.config, cores);
    state.counters["messages_per_microbatch"] = cost.messages / cost.microbatches;
    state.counters["kB_per_microbatch"] = cost.bytes / cost.microbatches / 1000.0;
    state.counters["loop_ms_per_microbatch"] = 1000.0 * cost.loop_seconds / cost.microbatches;
    state.counters["step_of_one_thread"] = step / one_thread;
    state.counters["one_thread_step_ms"] = 1000.0 * one_thread;
    // Tokens for each second of a core: of all cores that are there, and of those that worked.
    state.counters["tokens_per_core_second"] =
        static_cast<double>(reading.config.training.tokens_per_microbatch() * reading.config.training.microbatches) /
        (step * cores);
    state.counters["of_one_process"] = all_cores / step;
    state.counters["of_one_thread_per_cpu"] = one_thread / (cost.cpu_seconds / static_cast<double>(steps));
    state.counters["cores_busy"] = cost.cpu_seconds / static_cast<double>(steps) / (step * cores);
  }
}
int main_of(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string_view wanted = sizes[0].name;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with("--size=")) wanted = argument.substr(7);
  }
  for (const Size& size : sizes) {
    if (size.name != wanted) continue;
    benchmark::RegisterBenchmark("four_processes", four_processes, size)
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace starling

int main(int argc, char** argv) { return starling::main_of(argc, argv); }
