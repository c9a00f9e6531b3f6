#include "trainer/worker/stage_memory.h"

#include <algorithm>

namespace starling::trainer {
namespace {

constexpr auto word = static_cast<std::int64_t>(sizeof(float));

// Larger blocks spare the head's gradient, which every block adds to, a trip through memory; smaller ones leave memory to
// other things.
constexpr std::int64_t logits_floats = 1 << 22;
constexpr std::int64_t fewest_logits_rows = 128;

BatchShape batch_of(const TrainingConfig& training) {
  return {.sequences = training.micro_batch_size, .seq_len = training.seq_len};
}

std::int64_t qkv_width(const ModelConfig& model) {
  return (model.num_attention_heads + 2 * model.num_key_value_heads) * model.head_dim();
}

// The largest set of tensors that stand at once in Model::block_backward.
std::int64_t scratch_floats(const ModelConfig& model) {
  const std::int64_t mlp = 3 * model.intermediate_size + model.hidden_size;  // a, the gradient of gate and up, h
  const std::int64_t attention = 2 * model.hidden_size + qkv_width(model);   // likewise of attention
  return model.hidden_size + std::max(mlp, attention);                       // and the gradient that goes down
}

}  // namespace

std::int64_t block_saved_bytes(const ModelConfig& model, const BatchShape& batch) {
  const std::int64_t attended = model.num_attention_heads * model.head_dim();
  const std::int64_t floats_per_row =
      2 * model.hidden_size + 2 + qkv_width(model) + attended + model.num_attention_heads + 2 * model.intermediate_size;
  return batch.sequences * batch.seq_len * floats_per_row * word;
}

std::int64_t block_input_bytes(const ModelConfig& model, const BatchShape& batch) {
  return batch.sequences * batch.seq_len * model.hidden_size * word;
}

std::int64_t microbatch_kept_bytes(const ModelConfig& model, const TrainingConfig& training, const StageLayers& layers,
                                   Stage stage) {
  const BatchShape batch = batch_of(training);
  const std::int64_t block =
      training.activation_checkpointing ? block_input_bytes(model, batch) : block_saved_bytes(model, batch);
  std::int64_t kept = (layers.last - layers.first) * block;
  // An originator also keeps what came out of its own blocks, the inputs and the targets.
  if (stage == 0) kept += block_input_bytes(model, batch) + 2 * batch.sequences * batch.seq_len * word;
  return kept;
}

std::int64_t logits_rows(std::int64_t rows, std::int64_t vocab) {
  return std::min(rows, std::max(fewest_logits_rows, logits_floats / vocab));
}

StageMemory stage_memory(const ModelConfig& model, const TrainingConfig& training, const StageLayers& layers,
                         Stage stage, std::int64_t open) {
  const BatchShape batch = batch_of(training);
  const std::int64_t rows = batch.sequences * batch.seq_len;
  const std::int64_t array = parameter_count(model, layers, stage) * word;
  StageMemory out{.weights = array, .versions = array, .gradients = array, .adam = 2 * array, .slow = 2 * array};
  out.kept = open * microbatch_kept_bytes(model, training, layers, stage);
  out.scratch = rows * scratch_floats(model) * word;
  if (training.activation_checkpointing) out.scratch += block_saved_bytes(model, batch);
  if (stage == 0) {
    if (model.tie_word_embeddings) out.gradients += model.vocab_size * model.hidden_size * word;
    out.logits = logits_rows(rows, model.vocab_size) * model.vocab_size * word;
  }
  const bool may_be_bf16 =
      training.dtype == "bfloat16" || (training.dtype == "auto" && model.hidden_size >= narrowest_for_bf16);
  if (may_be_bf16) {  // what the products read, beside the fp32 weights
    out.weights += array / 2;
    out.versions += array / 2;
  }
  if (layers.last - layers.first == model.num_hidden_layers) {
    // One stage for all blocks: nothing is open when the optimizer steps, so the new set lies where that was.
    out.versions = std::max<std::int64_t>(0, out.versions - out.kept - out.logits - out.scratch);
  }
  return out;
}

}  // namespace starling::trainer
