#include "trainer/torch/token_kernels.h"

#include <cstring>

#include "trainer/torch/clones.h"
#include "trainer/torch/lanes.h"

namespace starling::trainer::kernels {
namespace {

using Lanes = float __attribute__((vector_size(lanes * sizeof(float))));

STARLING_INLINE void add_products(const float* a, const Lanes& x, Lanes& sum) {
  Lanes values;
  std::memcpy(&values, a, sizeof values);
  sum += values * x;
}

// `many` rows at a time.
template <std::int64_t many>
STARLING_INLINE void rows_together(const float* matrix, std::int64_t stride, const float* x, std::int64_t width,
                                   Into into, float* out) {
  Lanes sums[many] = {};
  std::int64_t i = 0;
  for (; i + lanes <= width; i += lanes) {
    Lanes values;
    std::memcpy(&values, x + i, sizeof values);
    for (std::int64_t r = 0; r < many; ++r) add_products(matrix + r * stride + i, values, sums[r]);
  }
  for (std::int64_t r = 0; r < many; ++r) {
    float part[lanes];
    std::memcpy(part, &sums[r], sizeof part);
    for (std::int64_t rest = i, l = 0; rest < width; ++rest, ++l) part[l] += matrix[r * stride + rest] * x[rest];
    const float sum = fold_sum(part);
    out[r] = into == Into::add ? out[r] + sum : sum;
  }
}

}  // namespace

STARLING_CLONES void matrix_vector(const float* matrix, std::int64_t stride, const float* x, std::int64_t rows,
                                   std::int64_t width, Into into, float* out) {
  constexpr std::int64_t many = 4;
  std::int64_t row = 0;
  for (; row + many <= rows; row += many) rows_together<many>(matrix + row * stride, stride, x, width, into, out + row);
  for (; row < rows; ++row) rows_together<1>(matrix + row * stride, stride, x, width, into, out + row);
}

STARLING_CLONES float scaled_exponentials(float* x, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
  return exponentials(x, count, maximum(x, count), x);
}

STARLING_CLONES void scale(float* x, std::int64_t count, float factor) {
  for (std::int64_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace starling::trainer::kernels
