// What a stage keeps in memory, as arithmetic: torch-free, so that a run can be planned without a device.
//
// On a CPU: fp32, and with training.dtype bfloat16 a copy of the weights that products read. A GPU takes less for what is
// kept, as activations are bf16 there. Legend: N parameters of the stage, M = B * T rows of a microbatch, D hidden size, V vocabulary.
#pragma once

#include <cstdint>

#include "trainer/data/source.h"
#include "trainer/worker/model_config.h"
#include "trainer/worker/training_config.h"

namespace starling::trainer {

// What the backward pass of a block needs (trainer/torch/model.h lists it), in bytes of one microbatch; of the block's
// input alone.
std::int64_t block_saved_bytes(const ModelConfig& model, const BatchShape& batch);
std::int64_t block_input_bytes(const ModelConfig& model, const BatchShape& batch);
// What one microbatch keeps between its forward and its backward pass.
std::int64_t microbatch_kept_bytes(const ModelConfig& model, const TrainingConfig& training, const StageLayers& layers,
                                   Stage stage);
// Rows of logits that a loss of `rows` tokens makes at a time: a function of the shape alone.
std::int64_t logits_rows(std::int64_t rows, std::int64_t vocab);

// All in bytes.
struct StageMemory {
  std::int64_t weights = 0;  // 4 N; with bfloat16 2 N more
  std::int64_t versions =
      0;  // 4 N: the set that an optimizer step makes while the old one stands for open microbatches
  std::int64_t gradients = 0;  // 4 N, and V D for a tied head
  std::int64_t adam = 0;       // 8 N
  std::int64_t slow = 0;       // 8 N: phi and outer momentum
  std::int64_t kept = 0;       // of the open microbatches
  std::int64_t logits = 0;     // stage 0: a block of logits
  std::int64_t scratch = 0;    // of the block that is in its backward pass, above what is kept

  std::int64_t total() const { return weights + versions + gradients + adam + slow + kept + logits + scratch; }
};
// What a worker of `stage` takes above the program itself, with `open` microbatches between forward and backward. An
// exchange adds its buffers for a moment: 8 N, and what travels.
// REQUIRES: valid configs.
StageMemory stage_memory(const ModelConfig& model, const TrainingConfig& training, const StageLayers& layers,
                         Stage stage, std::int64_t open);

}  // namespace starling::trainer
