// The loss of a model that is held whole, without gradients. Torch-free header.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "trainer/worker/model_config.h"

namespace starling::trainer {

class Evaluator {
 public:
  // `weights`: the flat array of a stage 0 that has all blocks. REQUIRES: it outlives the evaluator; threads >= 1.
  // Sets the threads of the calling thread's torch.
  Evaluator(const ModelConfig& model, std::span<const float> weights, std::int64_t seq_len, int threads);
  ~Evaluator();

  // The sum of the token losses, in nats, of whole windows of seq_len + 1 tokens: the first seq_len are the input, the last
  // seq_len the targets. Not finite: the weights have diverged. REQUIRES: at least one window, ids inside the vocabulary.
  // `borders`: rows of the inputs at which a document begins inside of a window, rising; attention does not look across.
  double loss(std::span<const std::int32_t> windows, std::span<const std::uint32_t> borders = {}) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace starling::trainer
