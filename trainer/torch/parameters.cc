#include "trainer/torch/parameters.h"

#include <ATen/Functions.h>

#include <utility>

#include "gossip/base/error.h"

namespace starling::trainer {
namespace {

// Takes tensors from the front of flat arrays, in the order in which they lie there.
class Cursor {
 public:
  Cursor(const at::Tensor& flat, const at::Tensor& matrices) : flat_(flat), matrices_(matrices) {}
  at::Tensor vector(std::int64_t size) { return next(flat_, size); }
  at::Tensor matrix(std::int64_t rows, std::int64_t columns) {
    return next(matrices_, rows * columns).view({rows, columns});
  }
  bool at_end() const { return taken_ == flat_.numel(); }

 private:
  at::Tensor next(const at::Tensor& from, std::int64_t count) {
    STARLING_CHECK(taken_ + count <= from.numel(), "a flat array that is too short for its stage");
    at::Tensor out = from.narrow(0, taken_, count);
    taken_ += count;
    return out;
  }
  const at::Tensor& flat_;
  const at::Tensor& matrices_;
  std::int64_t taken_ = 0;
};

}  // namespace

StageParameters view_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage, at::Tensor flat,
                                at::Tensor matrices) {
  const std::int64_t hidden = model.hidden_size;
  const std::int64_t queries = model.num_attention_heads * model.head_dim();
  const std::int64_t keys = model.num_key_value_heads * model.head_dim();
  StageParameters out;
  Cursor cursor(flat, matrices);
  if (stage == 0) {
    out.head = cursor.matrix(model.vocab_size, hidden);
    out.embedding = flat.narrow(0, 0, out.head.numel()).view_as(out.head);
  }
  for (std::int64_t layer = layers.first; layer < layers.last; ++layer) {
    BlockParameters block;
    block.input_norm = cursor.vector(hidden);
    block.qkv = cursor.matrix(queries + 2 * keys, hidden);
    block.output = cursor.matrix(hidden, queries);
    block.post_norm = cursor.vector(hidden);
    block.gate_up = cursor.matrix(2 * model.intermediate_size, hidden);
    block.down = cursor.matrix(hidden, model.intermediate_size);
    out.blocks.push_back(std::move(block));
  }
  if (stage == 0) {
    out.final_norm = cursor.vector(hidden);
    if (!model.tie_word_embeddings) out.head = cursor.matrix(model.vocab_size, hidden);
  }
  STARLING_CHECK(cursor.at_end(), "a flat array that is too long for its stage");
  out.flat = std::move(flat);
  out.matrices = std::move(matrices);
  return out;
}

}  // namespace starling::trainer
