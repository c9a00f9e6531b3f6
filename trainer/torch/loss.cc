#include "trainer/torch/loss.h"

#include <ATen/Functions.h>

#include <cmath>

#include "trainer/torch/ops.h"

namespace starling::trainer {

HeadLoss loss_and_gradient(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                           double eps, StageParameters& gradients) {
  ops::Normed normed = ops::rms_norm(x, weights.final_norm, eps);
  at::Tensor logits = at::mm(normed.y, weights.head.t());
  HeadLoss out{.sum = ops::cross_entropy(logits, targets, ops::Gradient::in_place), .gradient = {}};
  if (!std::isfinite(out.sum)) return out;
  const at::Tensor& d_logits = logits;
  gradients.head.addmm_(d_logits.t(), normed.y);
  at::mm_out(normed.y, d_logits, weights.head);
  out.gradient = at::zeros_like(x);
  ops::rms_norm_backward(x, weights.final_norm, normed.rstd, normed.y, out.gradient, gradients.final_norm);
  return out;
}

double loss_only(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                 double eps) {
  at::Tensor logits = at::mm(ops::rms_norm(x, weights.final_norm, eps).y, weights.head.t());
  return ops::cross_entropy(logits, targets, ops::Gradient::none);
}

}  // namespace starling::trainer
