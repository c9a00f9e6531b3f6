#include "trainer/worker/stage_memory.h"

#include <gtest/gtest.h>

namespace starling::trainer {
namespace {

const ModelConfig model{.hidden_size = 32,
                        .intermediate_size = 48,
                        .num_hidden_layers = 4,
                        .num_attention_heads = 4,
                        .num_key_value_heads = 2,
                        .vocab_size = 256,
                        .max_position_embeddings = 32};
const TrainingConfig training{.seq_len = 24, .micro_batch_size = 2};

TEST(StageMemory, OfAMiddleStage) {
  const StageLayers layers{1, 3};
  const std::int64_t n = parameter_count(model, layers, 1);
  const StageMemory memory = stage_memory(model, training, layers, 1, 3);
  EXPECT_EQ(memory.weights, 4 * n);
  EXPECT_EQ(memory.versions, 4 * n);
  EXPECT_EQ(memory.gradients, 4 * n);
  EXPECT_EQ(memory.adam, 8 * n);
  EXPECT_EQ(memory.slow, 8 * n);
  // Per row and block: x and x2 (2 D), two rstd, qkv (64), attended (32), log sums (4 heads), gate and up (96).
  EXPECT_EQ(memory.kept, 3 * 2 * 48 * 262 * 4);
  EXPECT_EQ(memory.logits, 0);
  // The gradient that goes down, and a, that of gate and up, h of the MLP.
  EXPECT_EQ(memory.scratch, 48 * (32 + 3 * 48 + 32) * 4);
  EXPECT_EQ(memory.total(), 28 * n + memory.kept + memory.scratch);
}

TEST(StageMemory, OfAnOriginator) {
  const StageLayers layers{0, 2};
  const StageMemory memory = stage_memory(model, training, layers, 0, 1);
  EXPECT_EQ(memory.kept, 2 * 48 * 262 * 4 + 48 * (32 + 2) * 4) << "and what its blocks made, inputs and targets";
  EXPECT_EQ(memory.logits, 48 * 256 * 4);
  ModelConfig tied = model;
  tied.tie_word_embeddings = true;
  const std::int64_t head = 256 * 32 * 4;
  EXPECT_EQ(memory.gradients - stage_memory(tied, training, layers, 0, 1).gradients, 0)
      << "a tied head gathers in an array of its own";
  EXPECT_EQ(memory.weights - stage_memory(tied, training, layers, 0, 1).weights, head);
}

TEST(StageMemory, CheckpointedBlocksKeepTheirInput) {
  TrainingConfig again = training;
  again.activation_checkpointing = true;
  const StageMemory memory = stage_memory(model, again, {1, 3}, 1, 3);
  EXPECT_EQ(memory.kept, 3 * 2 * 48 * 32 * 4);
  EXPECT_EQ(memory.scratch - stage_memory(model, training, {1, 3}, 1, 3).scratch, 48 * 262 * 4)
      << "one block, run again";
}

TEST(StageMemory, AWholeModelHasNothingOpenWhenItSteps) {
  const StageMemory memory = stage_memory(model, training, {0, 4}, 0, 1);
  const std::int64_t moving = memory.kept + memory.logits + memory.scratch;
  EXPECT_EQ(memory.versions, 0) << "what was open took more";
  EXPECT_EQ(memory.total(), memory.weights + memory.gradients + memory.adam + memory.slow + moving);
  ModelConfig large = model;
  large.vocab_size = 1 << 20;
  const StageMemory wide = stage_memory(large, {.seq_len = 1, .micro_batch_size = 1}, {0, 4}, 0, 1);
  EXPECT_EQ(wide.versions + wide.kept + wide.logits + wide.scratch, wide.weights);
}

TEST(StageMemory, LogitsStandSomeRowsAtATime) {
  EXPECT_EQ(logits_rows(512, 256), 512);
  EXPECT_EQ(logits_rows(100'000, 256), 16'384);
  EXPECT_EQ(logits_rows(8192, 32'000), 131);
  EXPECT_EQ(logits_rows(8192, 1 << 24), 128);
}

}  // namespace
}  // namespace starling::trainer
