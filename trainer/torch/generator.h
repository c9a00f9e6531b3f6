// Text token by token from a model that is held whole. Torch-free header.
//
// The prompt goes through the blocks at once, as in training. After it each token is one pass of matrix-vector products
// (token_kernels.h) over preallocated buffers: nothing is allocated and nothing of torch is called. Keys (rotated) and values
// of all positions stay in a cache, so a token costs the weights once and the cache once.
//
// One parallel section per token: the threads of a product take equal shares of its rows and meet at a barrier before
// the next one. How many there are changes no bit, and a product here differs from one of training by rounding alone.
//
// A model from which stages were left out is a model with fewer blocks (trainer/checkpoint/partial_model).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "trainer/worker/model_config.h"

namespace starling::trainer {

class Generator {
 public:
  // `positions`: the longest text, prompt and all; its cache is allocated here. `weights`: the flat array of a stage 0 that
  // has all blocks. REQUIRES: `weights` outlives the generator; 1 <= positions <= model.max_position_embeddings;
  // threads >= 1. Sets the threads of the calling thread's torch.
  Generator(const ModelConfig& model, std::span<const float> weights, std::int64_t positions, int threads);
  ~Generator();

  // Both return the logits [V] of the token that follows, which the next call overwrites.
  // Begins a new text. REQUIRES: 1 <= prompt.size() <= positions, each id inside [0, V).
  std::span<const float> begin(std::span<const std::int32_t> prompt);
  // REQUIRES: begin() was called; length() < positions; id inside [0, V).
  std::span<const float> next(std::int32_t id);

  std::int64_t length() const;     // tokens that were read
  std::int64_t positions() const;  // that there is room for

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace starling::trainer
