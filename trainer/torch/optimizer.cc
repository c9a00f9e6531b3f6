#include "trainer/torch/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "trainer/torch/clones.h"

namespace starling::trainer {

AdamW adamw(const AdamWStep& step) {
  const double bias1 = 1.0 - std::pow(step.beta1, static_cast<double>(step.steps));
  const double bias2 = 1.0 - std::pow(step.beta2, static_cast<double>(step.steps));
  return {.gradient_scale = static_cast<float>(step.gradient_scale),
          .keep = static_cast<float>(1.0 - step.learning_rate * step.weight_decay),
          .beta1 = static_cast<float>(step.beta1),
          .beta2 = static_cast<float>(step.beta2),
          .step_size = static_cast<float>(step.learning_rate / bias1),
          .inverse_bias2 = static_cast<float>(1.0 / std::sqrt(bias2)),
          .eps = static_cast<float>(step.eps)};
}

STARLING_CLONES void adamw_step(const AdamW& settings, std::span<const float> theta, std::span<float> gradient,
                                std::span<float> m, std::span<float> v, std::span<float> next) {
  const AdamW s = settings;
  const float* const from = theta.data();
  float* const g_of = gradient.data();
  float* const m_of = m.data();
  float* const v_of = v.data();
  float* const to = next.data();
#pragma GCC ivdep
  for (std::size_t i = 0; i < theta.size(); ++i) {
    const float g = g_of[i] * s.gradient_scale;
    const float new_m = s.beta1 * m_of[i] + (1.0F - s.beta1) * g;
    const float new_v = s.beta2 * v_of[i] + (1.0F - s.beta2) * (g * g);
    to[i] = from[i] * s.keep - s.step_size * new_m / (std::sqrt(new_v) * s.inverse_bias2 + s.eps);
    m_of[i] = new_m;
    v_of[i] = new_v;
    g_of[i] = 0.0F;
  }
}

void adamw_step_reference(const AdamW& s, std::span<const float> theta, std::span<float> gradient, std::span<float> m,
                          std::span<float> v, std::span<float> next) {
  for (std::size_t i = 0; i < theta.size(); ++i) {
    const double g = static_cast<double>(gradient[i]) * s.gradient_scale;
    m[i] = static_cast<float>(s.beta1 * m[i] + (1.0 - s.beta1) * g);
    v[i] = static_cast<float>(s.beta2 * v[i] + (1.0 - s.beta2) * g * g);
    const double denominator = std::sqrt(static_cast<double>(v[i])) * s.inverse_bias2 + s.eps;
    next[i] = static_cast<float>(static_cast<double>(theta[i]) * s.keep - s.step_size * m[i] / denominator);
    gradient[i] = 0.0F;
  }
}

STARLING_CLONES double sum_of_squares(std::span<const float> values) {
  constexpr std::size_t lanes = 8;
  double part[lanes] = {};
  const float* const x = values.data();
  std::size_t i = 0;
  for (; i + lanes <= values.size(); i += lanes) {
    for (std::size_t l = 0; l < lanes; ++l) {
      const auto wide = static_cast<double>(x[i + l]);
      part[l] += wide * wide;
    }
  }
  for (std::size_t l = 0; i < values.size(); ++i, ++l) part[l] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0.0;
  for (const double p : part) sum += p;
  return sum;
}

double clipping(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1.0e-6)); }

}  // namespace starling::trainer
