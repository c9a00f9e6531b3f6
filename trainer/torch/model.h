// One Llama block, forward and backward, as functions of a set of weights.
//
// The backward pass is written out instead of being left to autograd: the weight gradients of a microbatch go straight
// into the stage's accumulator (one product each, no copies and no sums), what a graph keeps is exactly the list below,
// and a step costs a fixed dozen of calls per block. tests/trainer/torch/model_test.cc holds the same block in autograd,
// in double, as the reference.
//
//   h  = rms_norm(x)            q, k, v = rotate(h Wqkv^T)     x2 = x + attention(q, k, v) Wo^T
//   h2 = rms_norm(x2)           g, u = h2 Wgu^T                out = x2 + (silu(g) u) Wd^T
//
// Source: Llama 2 (arXiv 2307.09288); names and layout of transformers' LlamaForCausalLM.
// Legend: M = B * T rows (sequences times tokens), D hidden size, H, K, d, I as in kernels.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/data/source.h"
#include "trainer/torch/ops.h"
#include "trainer/torch/parameters.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

// What the backward pass of a block needs. The normalised rows and the MLP's product are made again instead of kept: the
// kernels of the backward pass yield them on their way.
struct BlockSaved {
  at::Tensor x;            // [M, D]
  at::Tensor rstd;         // [M]
  at::Tensor qkv;          // [M, (H + 2 K) d], rotated
  ops::Attended attended;  // [M, H d] and [B, H, T]
  at::Tensor middle;       // [M, D]: x2
  at::Tensor middle_rstd;  // [M]
  at::Tensor gate_up;      // [M, 2 I]
};

class Model {
 public:
  Model(const ModelConfig& config, const BatchShape& batch, at::Device device = at::kCPU);

  // out [M, D]; `saved` null: nothing is kept. `borders`: of the documents, the same in both directions.
  at::Tensor block(const BlockParameters& weights, const at::Tensor& x, BlockSaved* saved, ops::Borders borders = {}) const;
  // `gradient` [M, D] goes in as that of the block's output and comes out as that of its input; `gradients` grow.
  void block_backward(const BlockParameters& weights, const BlockSaved& saved, at::Tensor& gradient,
                      BlockParameters& gradients, ops::Borders borders = {}) const;

  double eps() const { return eps_; }
  std::int64_t rows() const { return rows_; }

 private:
  kernels::Attention attention_;
  double eps_;
  std::int64_t rows_;
  ops::RotaryTable rotary_;
};

}  // namespace starling::trainer
