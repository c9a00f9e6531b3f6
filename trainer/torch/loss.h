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

// x [M, D], targets [M]. The gradients of head and final norm grow.
HeadLoss loss_and_gradient(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                           double eps, StageParameters& gradients);
// The same without gradients.
double loss_only(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                 double eps);

}  // namespace starling::trainer
