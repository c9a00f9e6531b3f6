#include "trainer/torch/token_kernels.h"

#include <cstring>

#include "trainer/torch/clones.h"
#include "trainer/torch/lanes.h"

namespace starling::trainer::kernels {
namespace {

// Registers as values. Arithmetic on them is by lane, so the numbers do not depend on what the machine has.
using Lanes = float __attribute__((vector_size(lanes * sizeof(float))));
using Eight = float __attribute__((vector_size(8 * sizeof(float))));
using Four = float __attribute__((vector_size(4 * sizeof(float))));

STARLING_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof to); }
// The first `count` lanes; zeros after them.
STARLING_INLINE void load_some(const float* from, std::int64_t count, Lanes& to) {
  float padded[lanes] = {};
  for (std::int64_t l = 0; l < count; ++l) padded[l] = from[l];
  load(padded, to);
}

// The first steps of fold_sum.
STARLING_INLINE void fold_to_four(const Lanes& part, Four& to) {
  const Eight half = __builtin_shufflevector(part, part, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(part, part, 8, 9, 10, 11, 12, 13, 14, 15);
  to = __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
}

// fold_sum of four rows at once: what is left of each becomes a column.
STARLING_INLINE void fold_four(const Lanes (&parts)[4], Four& to) {
  Four a, b, c, d;
  fold_to_four(parts[0], a);
  fold_to_four(parts[1], b);
  fold_to_four(parts[2], c);
  fold_to_four(parts[3], d);
  const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Four ab = ab_low + ab_high;  // a0 + a2, b0 + b2, a1 + a3, b1 + b3
  const Four cd = cd_low + cd_high;
  to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

template <std::int64_t rows>
STARLING_INLINE void add_products(const float* matrix, std::int64_t stride, const float* x, std::int64_t width,
                                  Lanes (&sums)[rows]) {
  std::int64_t i = 0;
  Lanes values;
  Lanes weights;
  for (; i + lanes <= width; i += lanes) {
    load(x + i, values);
    for (std::int64_t r = 0; r < rows; ++r) {
      load(matrix + r * stride + i, weights);
      sums[r] += weights * values;
    }
  }
  if (i == width) return;
  load_some(x + i, width - i, values);
  for (std::int64_t r = 0; r < rows; ++r) {
    load_some(matrix + r * stride + i, width - i, weights);
    sums[r] += weights * values;
  }
}

}  // namespace

STARLING_CLONES void matrix_vector(const float* matrix, std::int64_t stride, const float* x, std::int64_t rows,
                                   std::int64_t width, Into into, float* out) {
  const std::int64_t quarter = rows / 4;
  for (std::int64_t row = 0; row < quarter; ++row) {
    Lanes sums[4] = {};
    add_products(matrix + row * stride, quarter * stride, x, width, sums);
    Four four;
    fold_four(sums, four);
    for (std::int64_t i = 0; i < 4; ++i) {
      float& to = out[i * quarter + row];
      to = into == Into::add ? to + four[i] : four[i];
    }
  }
  for (std::int64_t row = 4 * quarter; row < rows; ++row) {
    Lanes sums[1] = {};
    add_products(matrix + row * stride, stride, x, width, sums);
    float part[lanes];
    std::memcpy(part, &sums[0], sizeof part);
    const float sum = fold_sum(part);
    out[row] = into == Into::add ? out[row] + sum : sum;
  }
}

STARLING_CLONES float scaled_exponentials(float* x, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
  return exponentials(x, count, maximum(x, count), x);
}

STARLING_CLONES void scale(float* x, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace starling::trainer::kernels
