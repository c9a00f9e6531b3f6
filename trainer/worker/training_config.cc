#include "trainer/worker/training_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace starling::trainer {
namespace {

// Bounds that keep every product of these numbers far from overflow; no run that could ever end is near them.
constexpr std::int64_t max_seq_len = 1 << 24;
constexpr std::int64_t max_sequences = 1 << 20;
constexpr std::int64_t max_microbatches = 1 << 16;
constexpr std::int64_t max_steps_bound = std::int64_t{1} << 40;
constexpr std::int64_t max_tokens_bound = std::int64_t{1} << 60;
constexpr std::int64_t max_stages = 4096;
constexpr std::int64_t max_replicas = 1 << 16;

using Problems = std::vector<std::string>;

void in_range(Problems& problems, const char* key, std::int64_t value, std::int64_t lowest, std::int64_t highest) {
  if (value < lowest || value > highest) {
    problems.push_back(fmt::format("{}: expected {} to {}, got {}", key, lowest, highest, value));
  }
}

void positive(Problems& problems, const char* key, double value) {
  if (!(value > 0.0) || !std::isfinite(value)) {
    problems.push_back(fmt::format("{}: expected a number above 0, got {}", key, value));
  }
}

// [0, 1)
void fraction(Problems& problems, const char* key, double value) {
  if (!(value >= 0.0 && value < 1.0)) {
    problems.push_back(fmt::format("{}: expected a number from 0 to below 1, got {}", key, value));
  }
}

}  // namespace

std::vector<std::string> TrainingConfig::validate() const {
  Problems problems;
  in_range(problems, "seq_len", seq_len, 1, max_seq_len);
  in_range(problems, "micro_batch_size", micro_batch_size, 1, max_sequences);
  in_range(problems, "microbatches", microbatches, 1, max_microbatches);
  if (max_steps) in_range(problems, "max_steps", *max_steps, 1, max_steps_bound);
  if (max_tokens) in_range(problems, "max_tokens", *max_tokens, 1, max_tokens_bound);
  if (!max_steps && !max_tokens) {
    problems.push_back("max_steps: expected a number of steps, got nothing; set max_steps or max_tokens");
  }
  positive(problems, "max_grad_norm", max_grad_norm);
  if (dtype != "auto" && dtype != "float32" && dtype != "bfloat16") {
    problems.push_back(fmt::format("dtype: expected auto, float32 or bfloat16, got '{}'", dtype));
  }
  return problems;
}

std::vector<std::string> OptimizerConfig::validate() const {
  Problems problems;
  if (name != "adamw") problems.push_back(fmt::format("name: expected adamw, got '{}'", name));
  positive(problems, "lr", lr);
  fraction(problems, "betas[0]", beta1);
  fraction(problems, "betas[1]", beta2);
  positive(problems, "eps", eps);
  if (!(weight_decay >= 0.0) || !std::isfinite(weight_decay)) {
    problems.push_back(fmt::format("weight_decay: expected 0 or more, got {}", weight_decay));
  }
  return problems;
}

std::vector<std::string> SchedulerConfig::validate() const {
  Problems problems;
  if (name != "cosine") problems.push_back(fmt::format("name: expected cosine, got '{}'", name));
  in_range(problems, "warmup_steps", warmup_steps, 0, max_steps_bound);
  if (!(min_lr >= 0.0) || !std::isfinite(min_lr)) {
    problems.push_back(fmt::format("min_lr: expected 0 or more, got {}", min_lr));
  }
  return problems;
}

double learning_rate(const OptimizerConfig& optimizer, const SchedulerConfig& scheduler, Step step, Step max_steps) {
  if (step < scheduler.warmup_steps) {
    const Step counted = std::max<Step>(step, 0);
    return optimizer.lr * static_cast<double>(counted) / static_cast<double>(scheduler.warmup_steps);
  }
  if (step >= max_steps) return scheduler.min_lr;
  const double progress =
      static_cast<double>(step - scheduler.warmup_steps) / static_cast<double>(max_steps - scheduler.warmup_steps);
  const double cosine = 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  return scheduler.min_lr + (optimizer.lr - scheduler.min_lr) * cosine;
}

std::vector<std::string> ParallelismConfig::validate() const {
  Problems problems;
  in_range(problems, "stages", stages, 1, max_stages);
  in_range(problems, "replicas", replicas, 1, max_replicas);
  if (!stage_layers.empty() && static_cast<std::int64_t>(stage_layers.size()) != stages) {
    problems.push_back(
        fmt::format("stage_layers: expected auto or {} numbers (stages), got {}", stages, stage_layers.size()));
  }
  for (const std::int64_t layers : stage_layers) {
    if (layers < 1) problems.push_back(fmt::format("stage_layers: expected 1 or more blocks a stage, got {}", layers));
  }
  return problems;
}

std::vector<std::string> CheckpointConfig::validate() const {
  Problems problems;
  if (dir.empty()) problems.push_back("dir: expected a folder, got nothing; set checkpoints");
  in_range(problems, "interval", interval, 0, max_steps_bound);
  in_range(problems, "keep", keep, 1, 1'000'000);
  if (resume != "auto" && resume != "never") {
    problems.push_back(fmt::format("resume: expected auto or never, got '{}'", resume));
  }
  return problems;
}

std::vector<std::string> EvalConfig::validate() const {
  Problems problems;
  in_range(problems, "interval", interval, 0, max_steps_bound);
  in_range(problems, "batches", batches, 1, max_sequences);
  return problems;
}

}  // namespace starling::trainer
