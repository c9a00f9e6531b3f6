// What the kernels share: sums, maxima and exponentials in lanes. Inlined into each function clone (clones.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#define STARLING_INLINE [[gnu::always_inline]] inline

namespace starling::trainer::kernels {

// Sums and maxima run in this many independent lanes: the order of additions is then the same whatever the width of the
// machine's registers, and the compiler may use them.
inline constexpr std::int64_t lanes = 16;
inline constexpr float far_below = -1.0e30F;  // exp of it is 0, and it is finite

// exp to 2 units in the last place, 0 below -87. Range reduction by ln 2 in two parts, then a polynomial of degree 6
// (the Taylor terms, enough on [-ln 2 / 2, ln 2 / 2]).
STARLING_INLINE float exponential(float x) {
  constexpr float log2_e = 1.44269504088896341F;
  constexpr float ln2_high = 0.693359375F;
  constexpr float ln2_low = -2.12194440e-4F;
  constexpr float round_up = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float bounded = std::min(std::max(x, -87.0F), 88.0F);
  const float shifted = bounded * log2_e + round_up;
  const float n = shifted - round_up;
  const float r = (bounded - n * ln2_high) - n * ln2_low;
  float p = 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const std::int32_t exponent = (std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(round_up)) + 127;
  const float power = std::bit_cast<float>(exponent << 23);
  return x < -87.0F ? 0.0F : p * power;
}

// The upper half of a float, rounded to nearest, ties to even; NaN stays NaN.
struct Bf16 {
  std::uint16_t bits;
};

template <typename T>
STARLING_INLINE T rounded(float x);
template <>
STARLING_INLINE float rounded<float>(float x) {
  return x;
}
template <>
STARLING_INLINE Bf16 rounded<Bf16>(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t up = bits + 0x7fffU + ((bits >> 16) & 1U);
  return {static_cast<std::uint16_t>((x != x ? bits | 0x400000U : up) >> 16)};
}

STARLING_INLINE float fold_sum(float (&part)[lanes]) {
  for (std::int64_t half = lanes / 2; half > 0; half /= 2) {
    for (std::int64_t l = 0; l < half; ++l) part[l] += part[l + half];
  }
  return part[0];
}

STARLING_INLINE float maximum(const float* x, std::int64_t count) {
  float part[lanes];
  for (std::int64_t l = 0; l < lanes; ++l) part[l] = far_below;
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) part[l] = std::max(part[l], x[i + l]);
  }
  for (std::int64_t l = 0; i < count; ++i, ++l) part[l] = std::max(part[l], x[i]);
  float out = part[0];
  for (std::int64_t l = 1; l < lanes; ++l) out = std::max(out, part[l]);
  return out;
}

// out[i] = exp(x[i] - shift); returns the sum.
STARLING_INLINE float exponentials(const float* x, std::int64_t count, float shift, float* out) {
  float part[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) {
      const float e = exponential(x[i + l] - shift);
      out[i + l] = e;
      part[l] += e;
    }
  }
  for (std::int64_t l = 0; i < count; ++i, ++l) {
    out[i] = exponential(x[i] - shift);
    part[l] += out[i];
  }
  return fold_sum(part);
}

}  // namespace starling::trainer::kernels
