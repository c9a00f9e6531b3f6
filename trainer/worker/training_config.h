// What a run trains with: the sections training, optimizer, lr_scheduler, parallelism and eval of the run file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/ids.h"

namespace starling::trainer {

// `dtype: auto` on a CPU is fp32 for models of a smaller hidden size: their time goes elsewhere than to products, and the
// choice would hang on chance.
inline constexpr std::int64_t narrowest_for_bf16 = 256;

struct TrainingConfig {
  std::int64_t seq_len = 1024;
  std::int64_t micro_batch_size = 8;  // sequences in a microbatch
  std::int64_t microbatches = 16;     // per step and target replica: the live originators share microbatches x replicas
  std::optional<std::int64_t> max_steps;
  std::optional<std::int64_t> max_tokens;
  double max_grad_norm = 1.0;
  bool document_attention = false;  // attention stays inside of a document
  // Of the matrix products: auto | float32 | bfloat16. auto: bfloat16 on CUDA, the faster of both on a CPU.
  std::string dtype = "auto";
  bool activation_checkpointing = false;  // keep each block's input alone and run the block again in its backward pass

  std::vector<std::string> validate() const;
  std::int64_t tokens_per_microbatch() const { return seq_len * micro_batch_size; }
};

struct OptimizerConfig {
  std::string name = "adamw";
  double lr = 6.0e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1.0e-8;
  double weight_decay = 0.1;

  std::vector<std::string> validate() const;
};

struct SchedulerConfig {
  std::string name = "cosine";
  std::int64_t warmup_steps = 1000;
  double min_lr = 6.0e-5;

  std::vector<std::string> validate() const;
};

// Learning rate of step k (from 1): linear from lr / warmup_steps up to lr at step warmup_steps, then a cosine down to
// min_lr at max_steps; min_lr after that.
double learning_rate(const OptimizerConfig& optimizer, const SchedulerConfig& scheduler, Step step, Step max_steps);

struct ParallelismConfig {
  std::int64_t stages = 4;
  std::int64_t replicas = 4;               // target per stage; more and fewer are legal
  std::vector<std::int64_t> stage_layers;  // empty: auto

  std::vector<std::string> validate() const;
};

// Collected by the observer at the end of the round that `interval` steps lie in.
struct CheckpointConfig {
  std::string dir = "checkpoints";   // in the run's directory, if it is relative
  std::int64_t interval = 500;       // steps; 0: none while the run lasts
  std::int64_t keep = 3;             // the newest so many
  std::string resume = "auto";       // auto | never: what `launch` does with a run of which nobody is left
  bool export_hf_on_finish = true;   // one more after the last step

  std::vector<std::string> validate() const;
  // Whether the round that ends with step `last` (and began after step `before`) is to be collected.
  bool due(Step before, Step last, bool run_ends) const {
    return (run_ends && export_hf_on_finish) || (interval > 0 && last / interval > before / interval);
  }
};

struct EvalConfig {
  std::int64_t interval = 500;  // steps; 0: only at the end
  std::int64_t batches = 50;    // windows of micro_batch_size sequences

  std::vector<std::string> validate() const;
};

}  // namespace starling::trainer
