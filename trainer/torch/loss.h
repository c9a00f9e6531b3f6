// Final norm, head and token cross entropy: what an originator does with a microbatch that came home.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "trainer/torch/parameters.h"

namespace starling::trainer {

struct HeadLoss {
  double sum = 0.0;     // nats, over all rows; not finite: the weights have diverged, and no gradient was made
  at::Tensor gradient;  // [M, D], of the sum
};

// [M, V]: what the softmax would be taken of. For a few rows; a whole microbatch of them may be large.
at::Tensor logits(const StageParameters& weights, const at::Tensor& x, double eps);

// x [M, D], targets [M]. Logits are made, used and overwritten some rows at a time: no more than logits_rows() (trainer/worker/stage_memory.h) of them
// stand in memory, and their gradient takes their place. The gradients of head and final norm grow.
HeadLoss loss_and_gradient(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                           double eps, StageParameters& gradients);
// The same without gradients.
double loss_only(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                 double eps);

}  // namespace starling::trainer
