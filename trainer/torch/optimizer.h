// AdamW on flat fp32 arrays, out of place. Torch-free, no threads: the caller cuts the arrays into pieces.
//
//   m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
//   theta' = theta (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//
// Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (arXiv 1711.05101), in the form of PyTorch's
// AdamW. theta' is a new array: graphs that are open go on with the old one. m, v and the gradient are read by nobody else
// and change in place; the gradient is left at zero for the next step.
#pragma once

#include <cstdint>
#include <span>

namespace starling::trainer {

// One step of weights that are treated alike.
struct AdamWStep {
  double learning_rate = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1.0e-8;
  double weight_decay = 0.0;
  std::int64_t steps = 1;       // counts this one: 1 for the first
  double gradient_scale = 1.0;  // one over the tokens, times the clipping
};

// What all values of a piece have in common.
struct AdamW {
  float gradient_scale = 1.0F;
  float keep = 1.0F;            // 1 - lr * weight decay
  float beta1 = 0.9F;
  float beta2 = 0.95F;
  float step_size = 0.0F;      // lr / (1 - beta1^t)
  float inverse_bias2 = 1.0F;  // 1 / sqrt(1 - beta2^t)
  float eps = 1.0e-8F;
};
AdamW adamw(const AdamWStep& step);

// REQUIRES: spans of one length; `next` is none of the others.
void adamw_step(const AdamW& settings, std::span<const float> theta, std::span<float> gradient, std::span<float> m,
                std::span<float> v, std::span<float> next);
// The same, one value after the other as the formula says it: what the fast one is tested against.
void adamw_step_reference(const AdamW& settings, std::span<const float> theta, std::span<float> gradient,
                          std::span<float> m, std::span<float> v, std::span<float> next);

// In double, so that no finite gradient overflows; not finite exactly when a value is not.
double sum_of_squares(std::span<const float> values);

// What gradients of this norm are multiplied with: 1 up to max_norm, then max_norm / norm (as PyTorch, with its 1e-6).
double clipping(double norm, double max_norm);

}  // namespace starling::trainer
