// The outer optimizer on plain fp32 spans.
//
//   delta_i <- alpha delta_i + beta mean(Delta) - gamma (phi_i - mean(phi));   phi_i <- phi_i + delta_i
//
// with means over the group (self included), Delta_i = theta_i - phi_i. Source: NoLoCo (arXiv 2506.10911) Eq. 2 with the
// sign of its proof (Eq. 32) and code: +beta, where Eq. 2 prints -beta. Heavy ball, not Nesterov. With all replicas in the
// group the gamma term sums to nothing over them and the rule is DiLoCo's; alone (n = 1) the gamma term is zero.
// Names here: momentum = delta_i, delta = Delta_i.
//
// Two versions under one test: `outer_step_reference` says it in the order of the equation, `outer_step` is one fused pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/outer/outer_config.h"

namespace starling::outer {

struct OuterCoefficients {
  float alpha = 0.5F;
  float beta = 0.7F;
  float gamma = 0.7F;
};

// What one member of the group brings; all spans of the same length N.
struct Contribution {
  std::span<const float> phi;
  std::span<const float> delta;
};

// phi [N] and momentum [N] of self are updated in place; `delta` [N] is self's own. REQUIRES: equal lengths.
void outer_step(std::span<float> phi, std::span<float> momentum, std::span<const float> delta,
                std::span<const Contribution> others, const OuterCoefficients& coefficients);
void outer_step_reference(std::span<float> phi, std::span<float> momentum, std::span<const float> delta,
                          std::span<const Contribution> others, const OuterCoefficients& coefficients);

// ||a - b|| / ||a||; 0 when a is zero. Sums in double, in index order.
double relative_distance(std::span<const float> a, std::span<const float> b);

// Sums in double: finite exactly when every value is.
double norm(std::span<const float> values);

// Screens a partner's contribution before it may touch anything.
enum class Screen { good, non_finite, norm };
// norm: ||other.phi|| outside [1/4, 4] x ||phi||, or ||other.delta|| above 16 x max(||own delta||, 1e-3 ||phi||).
Screen screen(std::span<const float> phi, std::span<const float> delta, const Contribution& other);

}  // namespace starling::outer
