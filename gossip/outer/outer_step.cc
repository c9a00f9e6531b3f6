#include "gossip/outer/outer_step.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace starling::outer {
namespace {

// Sums of one block of values stand in the first cache level while the others are added, so every array is read once
// and each loop is plain enough to be vectorised, however many others there are.
constexpr std::size_t block_values = 1024;

void check_lengths(std::size_t count, std::size_t momentum, std::size_t delta, std::span<const Contribution> others) {
  STARLING_CHECK(momentum == count && delta == count, "own arrays of different lengths");
  for (const Contribution& other : others) {
    STARLING_CHECK(other.phi.size() == count && other.delta.size() == count, "a contribution of another length");
  }
}

// Alone: mean(Delta) is the own delta and phi - mean(phi) is zero.
void solo_step(std::span<float> phi, std::span<float> momentum, std::span<const float> delta,
               const OuterCoefficients& coefficients) {
  const float alpha = coefficients.alpha;
  const float beta = coefficients.beta;
  float* __restrict p = phi.data();
  float* __restrict m = momentum.data();
  const float* __restrict d = delta.data();
  for (std::size_t i = 0; i < phi.size(); ++i) {
    m[i] = alpha * m[i] + beta * d[i];
    p[i] += m[i];
  }
}

}  // namespace

void outer_step(std::span<float> phi, std::span<float> momentum, std::span<const float> delta,
                std::span<const Contribution> others, const OuterCoefficients& coefficients) {
  check_lengths(phi.size(), momentum.size(), delta.size(), others);
  if (others.empty()) return solo_step(phi, momentum, delta, coefficients);

  const auto [alpha, beta, gamma] = coefficients;
  const float share = 1.0F / static_cast<float>(others.size() + 1);
  std::array<float, block_values> phi_sum;
  std::array<float, block_values> delta_sum;
  for (std::size_t start = 0; start < phi.size(); start += block_values) {
    const std::size_t count = std::min(block_values, phi.size() - start);
    float* __restrict p = phi.data() + start;
    float* __restrict m = momentum.data() + start;
    std::copy_n(p, count, phi_sum.data());
    std::copy_n(delta.data() + start, count, delta_sum.data());
    for (const Contribution& other : others) {
      const float* __restrict other_phi = other.phi.data() + start;
      const float* __restrict other_delta = other.delta.data() + start;
      for (std::size_t i = 0; i < count; ++i) {
        phi_sum[i] += other_phi[i];
        delta_sum[i] += other_delta[i];
      }
    }
    for (std::size_t i = 0; i < count; ++i) {
      m[i] = alpha * m[i] + beta * (share * delta_sum[i]) - gamma * (p[i] - share * phi_sum[i]);
      p[i] += m[i];
    }
  }
}

void outer_step_reference(std::span<float> phi, std::span<float> momentum, std::span<const float> delta,
                          std::span<const Contribution> others, const OuterCoefficients& coefficients) {
  check_lengths(phi.size(), momentum.size(), delta.size(), others);
  const double group = static_cast<double>(others.size() + 1);
  for (std::size_t i = 0; i < phi.size(); ++i) {
    double mean_phi = phi[i];
    double mean_delta = delta[i];
    for (const Contribution& other : others) {
      mean_phi += other.phi[i];
      mean_delta += other.delta[i];
    }
    mean_phi /= group;
    mean_delta /= group;
    const double next_momentum = coefficients.alpha * static_cast<double>(momentum[i]) +
                                 coefficients.beta * mean_delta - coefficients.gamma * (phi[i] - mean_phi);
    momentum[i] = static_cast<float>(next_momentum);
    phi[i] = static_cast<float>(phi[i] + next_momentum);
  }
}

double relative_distance(std::span<const float> a, std::span<const float> b) {
  STARLING_CHECK(a.size() == b.size(), "arrays of different lengths");
  double difference = 0.0;
  double length = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    difference += d * d;
    length += static_cast<double>(a[i]) * static_cast<double>(a[i]);
  }
  return length > 0.0 ? std::sqrt(difference / length) : 0.0;
}

// In eight interleaved sums: one alone would wait for its own addition at every value.
double norm(std::span<const float> values) {
  constexpr std::size_t lanes = 8;
  std::array<double, lanes> sums{};
  std::size_t i = 0;
  for (; i + lanes <= values.size(); i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const double value = values[i + lane];
      sums[lane] += value * value;
    }
  }
  for (; i < values.size(); ++i) sums[0] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

Screen screen(std::span<const float> phi, std::span<const float> delta, const Contribution& other) {
  // The square of a float is finite in double, and so is the sum of any number of them that fits into memory: the norm
  // is finite exactly when every value is.
  const double other_phi = norm(other.phi);
  const double other_delta = norm(other.delta);
  if (!std::isfinite(other_phi) || !std::isfinite(other_delta)) return Screen::non_finite;
  const double own_phi = norm(phi);
  const double own_delta = norm(delta);
  const bool phi_fits = other_phi >= own_phi / 4.0 && other_phi <= own_phi * 4.0;
  const bool delta_fits = other_delta <= 16.0 * std::max(own_delta, 1e-3 * own_phi);
  return phi_fits && delta_fits ? Screen::good : Screen::norm;
}

}  // namespace starling::outer
