#include "trainer/torch/loss.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <cmath>

#include "trainer/torch/ops.h"
#include "trainer/worker/stage_memory.h"

namespace starling::trainer {
namespace {

std::span<const std::int32_t> part_of(std::span<const std::int32_t> all, std::int64_t first, std::int64_t count) {
  return all.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

// An accelerator wants large products, and waits for each sum of losses.
std::int64_t block_rows(const at::Tensor& x, std::int64_t vocab) {
  constexpr std::int64_t of_an_accelerator = 4096;
  return x.is_cpu() ? logits_rows(x.size(0), vocab) : std::min(x.size(0), of_an_accelerator);
}

}  // namespace

at::Tensor logits(const StageParameters& weights, const at::Tensor& x, double eps) {
  return ops::product(ops::rms_norm(x, weights.final_norm, eps, weights.head.scalar_type()).y, weights.head);
}

HeadLoss loss_and_gradient(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                           double eps, StageParameters& gradients) {
  const at::ScalarType products = weights.head.scalar_type();
  const ops::Normed normed = ops::rms_norm(x, weights.final_norm, eps, products);
  const std::int64_t rows = x.size(0);
  const std::int64_t vocab = weights.head.size(0);
  const at::Tensor block = at::empty({block_rows(x, vocab), vocab}, x.options());
  at::Tensor d_normed = at::empty_like(x);
  // Adds the gradients of one block to the head's, or takes them away again; the block's loss.
  const auto block_loss = [&](std::int64_t first, double sign) {
    const std::int64_t count = std::min(block.size(0), rows - first);
    const at::Tensor y = normed.y.narrow(0, first, count);
    at::Tensor values = block.narrow(0, 0, count);
    ops::product_into(values, y, weights.head);
    const double sum = ops::cross_entropy(values, part_of(targets, first, count), ops::Gradient::in_place, products);
    if (!std::isfinite(sum)) return sum;
    ops::weight_gradient(gradients.head, values, y, sign);
    at::Tensor d_y = d_normed.narrow(0, first, count);
    ops::input_gradient_into(d_y, values, weights.head);
    return sum;
  };
  HeadLoss out;
  for (std::int64_t first = 0; first < rows; first += block.size(0)) {
    out.sum += block_loss(first, 1.0);
    if (std::isfinite(out.sum)) continue;
    for (std::int64_t made = 0; made < first; made += block.size(0)) block_loss(made, -1.0);
    return out;
  }
  out.gradient = at::zeros_like(x);
  ops::rms_norm_backward(x, weights.final_norm, normed.rstd, d_normed, out.gradient, gradients.final_norm, products);
  return out;
}

double loss_only(const StageParameters& weights, const at::Tensor& x, std::span<const std::int32_t> targets,
                 double eps) {
  const std::int64_t step = block_rows(x, weights.head.size(0));
  double sum = 0.0;
  for (std::int64_t first = 0; first < x.size(0); first += step) {
    const std::int64_t count = std::min(step, x.size(0) - first);
    at::Tensor values = logits(weights, x.narrow(0, first, count), eps);
    sum += ops::cross_entropy(values, part_of(targets, first, count), ops::Gradient::none);
  }
  return sum;
}

}  // namespace starling::trainer
