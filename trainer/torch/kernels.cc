#include "trainer/torch/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "trainer/torch/blas.h"
#include "trainer/torch/clones.h"
#include "trainer/torch/lanes.h"

namespace starling::trainer::kernels {
namespace {

STARLING_INLINE float sum_of_squares(const float* x, std::int64_t count) {
  float part[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) part[l] += x[i + l] * x[i + l];
  }
  for (std::int64_t l = 0; i < count; ++i, ++l) part[l] += x[i] * x[i];
  return fold_sum(part);
}

STARLING_INLINE float dot(const float* a, const float* b, std::int64_t count) {
  float part[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    for (std::int64_t l = 0; l < lanes; ++l) part[l] += a[i + l] * b[i + l];
  }
  for (std::int64_t l = 0; i < count; ++i, ++l) part[l] += a[i] * b[i];
  return fold_sum(part);
}

STARLING_INLINE float sigmoid(float x) { return 1.0F / (1.0F + exponential(-x)); }

// The columns of one head in a row of qkv.
struct HeadColumns {
  std::int64_t query;
  std::int64_t key;
  std::int64_t value;
};
HeadColumns columns_of(const Attention& shape, std::int64_t head, std::int64_t kv_head) {
  return {head * shape.head_dim, (shape.heads + kv_head) * shape.head_dim,
          (shape.heads + shape.kv_heads + kv_head) * shape.head_dim};
}

// Each of these twice: what it makes is float, or bf16 for the product that reads it.

template <typename Out>
STARLING_INLINE void rms_norm_as(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps,
                                 Out* y, float* rstd) {
  for (std::int64_t row = 0; row < rows; ++row, x += width, y += width) {
    const float mean = sum_of_squares(x, width) / static_cast<float>(width);
    const float r = 1.0F / std::sqrt(mean + eps);
    rstd[row] = r;
    for (std::int64_t i = 0; i < width; ++i) y[i] = rounded<Out>(x[i] * r * weight[i]);
  }
}

template <typename Out>
STARLING_INLINE void rms_norm_backward_as(const float* x, const float* weight, const float* rstd, std::int64_t rows,
                                          std::int64_t width, const float* dy, Out* y, float* dx, float* dweight) {
  // With n = x rstd and g = dy weight: dx = rstd (g - n mean(g n)), dweight = dy n.
  for (std::int64_t row = 0; row < rows; ++row, x += width, dy += width, y += width, dx += width) {
    const float r = rstd[row];
    float part[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= width; i += lanes) {
      for (std::int64_t l = 0; l < lanes; ++l) part[l] += dy[i + l] * weight[i + l] * x[i + l];
    }
    for (std::int64_t l = 0; i < width; ++i, ++l) part[l] += dy[i] * weight[i] * x[i];
    const float mean = fold_sum(part) * r / static_cast<float>(width);
#pragma GCC ivdep
    for (i = 0; i < width; ++i) {
      const float n = x[i] * r;
      const float d = dy[i];
      dx[i] += r * (d * weight[i] - n * mean);
      dweight[i] += d * n;
      y[i] = rounded<Out>(n * weight[i]);
    }
  }
}

template <typename Out>
STARLING_INLINE void swiglu_as(const float* gate_up, std::int64_t rows, std::int64_t inner, Out* out) {
  for (std::int64_t row = 0; row < rows; ++row, gate_up += 2 * inner, out += inner) {
    const float* const up = gate_up + inner;
    for (std::int64_t i = 0; i < inner; ++i) out[i] = rounded<Out>(gate_up[i] * sigmoid(gate_up[i]) * up[i]);
  }
}

template <typename Out>
STARLING_INLINE void swiglu_backward_as(const float* gate_up, std::int64_t rows, std::int64_t inner, const float* dout,
                                        Out* out, Out* dgate_up) {
  for (std::int64_t row = 0; row < rows;
       ++row, gate_up += 2 * inner, dgate_up += 2 * inner, dout += inner, out += inner) {
    const float* const up = gate_up + inner;
    Out* const dup = dgate_up + inner;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < inner; ++i) {
      const float gate = gate_up[i];
      const float s = sigmoid(gate);
      const float silu = gate * s;
      const float d = dout[i];
      dgate_up[i] = rounded<Out>(d * up[i] * (s + silu * (1.0F - s)));
      dup[i] = rounded<Out>(d * silu);
      out[i] = rounded<Out>(silu * up[i]);
    }
  }
}

template <typename Out>
STARLING_INLINE double cross_entropy_as(float* logits, const std::int32_t* targets, std::int64_t rows,
                                        std::int64_t vocab, Out* gradient) {
  double loss = 0.0;
  for (std::int64_t row = 0; row < rows; ++row, logits += vocab, gradient += vocab) {
    const float highest = maximum(logits, vocab);
    const double at_target = logits[targets[row]];
    const float sum = exponentials(logits, vocab, highest, logits);
    loss += std::log(static_cast<double>(sum)) + highest - at_target;
    const float scale = 1.0F / sum;
    const float of_target = logits[targets[row]] * scale - 1.0F;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < vocab; ++i) gradient[i] = rounded<Out>(logits[i] * scale);
    gradient[targets[row]] = rounded<Out>(of_target);
  }
  return loss;
}

}  // namespace

void embed(const float* weight, const std::int32_t* ids, std::int64_t rows, std::int64_t width, float* out) {
  for (std::int64_t row = 0; row < rows; ++row) std::copy_n(weight + ids[row] * width, width, out + row * width);
}

STARLING_CLONES void embed_backward(const float* dout, const std::int32_t* ids, std::int64_t rows, std::int64_t width,
                                    float* dweight) {
  for (std::int64_t row = 0; row < rows; ++row, dout += width) {
    float* const to = dweight + ids[row] * width;
    for (std::int64_t i = 0; i < width; ++i) to[i] += dout[i];
  }
}

STARLING_CLONES void rms_norm(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps,
                              float* y, float* rstd) {
  rms_norm_as(x, weight, rows, width, eps, y, rstd);
}
STARLING_CLONES void rms_norm(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps,
                              Bf16* y, float* rstd) {
  rms_norm_as(x, weight, rows, width, eps, y, rstd);
}

STARLING_CLONES void rms_norm_backward(const float* x, const float* weight, const float* rstd, std::int64_t rows,
                                       std::int64_t width, const float* dy, float* y, float* dx, float* dweight) {
  rms_norm_backward_as(x, weight, rstd, rows, width, dy, y, dx, dweight);
}
STARLING_CLONES void rms_norm_backward(const float* x, const float* weight, const float* rstd, std::int64_t rows,
                                       std::int64_t width, const float* dy, Bf16* y, float* dx, float* dweight) {
  rms_norm_backward_as(x, weight, rstd, rows, width, dy, y, dx, dweight);
}

STARLING_CLONES void round(const float* x, std::int64_t count, Bf16* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = rounded<Bf16>(x[i]);
}

STARLING_CLONES void rotate(float* x, std::int64_t first_row, std::int64_t rows, const Rotary& rotary,
                            Rotation rotation) {
  const std::int64_t half = rotary.head_dim / 2;
  const float sign = rotation == Rotation::forward ? 1.0F : -1.0F;
  for (std::int64_t row = first_row; row < first_row + rows; ++row) {
    const float* const cosine = rotary.cosine + (row % rotary.positions) * half;
    const float* const sine = rotary.sine + (row % rotary.positions) * half;
    for (std::int64_t h = 0; h < rotary.heads; ++h) {
      float* const left = x + row * rotary.width + h * rotary.head_dim;
      float* const right = left + half;
#pragma GCC ivdep
      for (std::int64_t i = 0; i < half; ++i) {
        const float a = left[i];
        const float b = right[i];
        const float turn = sign * sine[i];
        left[i] = a * cosine[i] - b * turn;
        right[i] = b * cosine[i] + a * turn;
      }
    }
  }
}

STARLING_CLONES void swiglu(const float* gate_up, std::int64_t rows, std::int64_t inner, float* out) {
  swiglu_as(gate_up, rows, inner, out);
}
STARLING_CLONES void swiglu(const float* gate_up, std::int64_t rows, std::int64_t inner, Bf16* out) {
  swiglu_as(gate_up, rows, inner, out);
}

STARLING_CLONES void swiglu_backward(const float* gate_up, std::int64_t rows, std::int64_t inner, const float* dout,
                                     float* out, float* dgate_up) {
  swiglu_backward_as(gate_up, rows, inner, dout, out, dgate_up);
}
STARLING_CLONES void swiglu_backward(const float* gate_up, std::int64_t rows, std::int64_t inner, const float* dout,
                                     Bf16* out, Bf16* dgate_up) {
  swiglu_backward_as(gate_up, rows, inner, dout, out, dgate_up);
}

STARLING_CLONES double cross_entropy(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab,
                                     float* gradient) {
  return cross_entropy_as(logits, targets, rows, vocab, gradient);
}
STARLING_CLONES double cross_entropy(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab,
                                     Bf16* gradient) {
  return cross_entropy_as(logits, targets, rows, vocab, gradient);
}

STARLING_CLONES double cross_entropy_loss(const float* logits, const std::int32_t* targets, std::int64_t rows,
                                          std::int64_t vocab) {
  double loss = 0.0;
  for (std::int64_t row = 0; row < rows; ++row, logits += vocab) {
    const float highest = maximum(logits, vocab);
    float part[lanes] = {};
    std::int64_t i = 0;
    for (; i + lanes <= vocab; i += lanes) {
      for (std::int64_t l = 0; l < lanes; ++l) part[l] += exponential(logits[i + l] - highest);
    }
    for (std::int64_t l = 0; i < vocab; ++i, ++l) part[l] += exponential(logits[i] - highest);
    loss += std::log(static_cast<double>(fold_sum(part))) + highest - logits[targets[row]];
  }
  return loss;
}

std::int64_t attention_scratch(const Attention& shape) { return 2 * attention_rows * shape.tokens; }

STARLING_CLONES void attention(const Attention& shape, std::int64_t kv_head, const float* qkv, float* out,
                               float* log_sum, float* scratch) {
  const std::int64_t width = shape.qkv_width();
  const float scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  for (std::int64_t head = kv_head * shape.group(); head < (kv_head + 1) * shape.group(); ++head) {
    const HeadColumns columns = columns_of(shape, head, kv_head);
    for (std::int64_t first = 0; first < shape.tokens; first += attention_rows) {
      const std::int64_t rows = std::min(attention_rows, shape.tokens - first);
      const std::int64_t keys = first + rows;
      sgemm(Transpose::no, Transpose::yes, rows, keys, shape.head_dim, scale,
            {qkv + first * width + columns.query, width}, {qkv + columns.key, width}, 0.0F, scratch, keys);
      float inverse[attention_rows];
      for (std::int64_t row = 0; row < rows; ++row) {
        float* const scores = scratch + row * keys;
        const std::int64_t seen = first + row + 1;
        const std::int64_t whole = std::min(keys, (seen + lanes - 1) / lanes * lanes);
        for (std::int64_t i = seen; i < whole; ++i) scores[i] = far_below;
        const float highest = maximum(scores, whole);
        const float sum = exponentials(scores, whole, highest, scores);
        for (std::int64_t i = whole; i < keys; ++i) scores[i] = 0.0F;
        log_sum[head * shape.tokens + first + row] = highest + std::log(sum);
        inverse[row] = 1.0F / sum;
      }
      float* const block = out + first * shape.out_width() + columns.query;
      sgemm(Transpose::no, Transpose::no, rows, shape.head_dim, keys, 1.0F, {scratch, keys},
            {qkv + columns.value, width}, 0.0F, block, shape.out_width());
      for (std::int64_t row = 0; row < rows; ++row) {
        float* const values = block + row * shape.out_width();
        for (std::int64_t i = 0; i < shape.head_dim; ++i) values[i] *= inverse[row];
      }
    }
  }
}

STARLING_CLONES void attention_backward(const Attention& shape, std::int64_t kv_head, const float* qkv,
                                        const float* out, const float* log_sum, const float* dout, float* dqkv,
                                        float* scratch) {
  const std::int64_t width = shape.qkv_width();
  const std::int64_t out_width = shape.out_width();
  const std::int64_t d = shape.head_dim;
  const float scale = 1.0F / std::sqrt(static_cast<float>(d));
  const std::int64_t blocks = (shape.tokens + attention_rows - 1) / attention_rows;
  // The last block sees all keys: it is first, so that it writes their gradients and all others add to them.
  float beta = 0.0F;
  for (std::int64_t head = kv_head * shape.group(); head < (kv_head + 1) * shape.group(); ++head) {
    const HeadColumns columns = columns_of(shape, head, kv_head);
    for (std::int64_t block = blocks - 1; block >= 0; --block) {
      const std::int64_t first = block * attention_rows;
      const std::int64_t rows = std::min(attention_rows, shape.tokens - first);
      const std::int64_t keys = first + rows;
      float* const p = scratch;
      float* const ds = scratch + attention_rows * shape.tokens;
      const MatrixView q{qkv + first * width + columns.query, width};
      const MatrixView k{qkv + columns.key, width};
      const MatrixView v{qkv + columns.value, width};
      const MatrixView d_out{dout + first * out_width + columns.query, out_width};
      sgemm(Transpose::no, Transpose::yes, rows, keys, d, scale, q, k, 0.0F, p, keys);
      sgemm(Transpose::no, Transpose::yes, rows, keys, d, 1.0F, d_out, v, 0.0F, ds, keys);
      for (std::int64_t row = 0; row < rows; ++row) {
        float* const p_row = p + row * keys;
        float* const ds_row = ds + row * keys;
        const std::int64_t seen = first + row + 1;
        const float shift = log_sum[head * shape.tokens + first + row];
        const float drift = dot(d_out.data + row * out_width, out + (first + row) * out_width + columns.query, d);
        const std::int64_t whole = std::min(keys, (seen + lanes - 1) / lanes * lanes);
        for (std::int64_t i = seen; i < whole; ++i) p_row[i] = far_below;
        for (std::int64_t i = 0; i < whole; ++i) {
          p_row[i] = exponential(p_row[i] - shift);
          ds_row[i] = p_row[i] * (ds_row[i] - drift) * scale;
        }
        for (std::int64_t i = whole; i < keys; ++i) p_row[i] = ds_row[i] = 0.0F;
      }
      sgemm(Transpose::yes, Transpose::no, keys, d, rows, 1.0F, {p, keys}, d_out, beta, dqkv + columns.value, width);
      sgemm(Transpose::yes, Transpose::no, keys, d, rows, 1.0F, {ds, keys}, q, beta, dqkv + columns.key, width);
      sgemm(Transpose::no, Transpose::no, rows, d, keys, 1.0F, {ds, keys}, k, 0.0F,
            dqkv + first * width + columns.query, width);
      beta = 1.0F;
    }
  }
}

}  // namespace starling::trainer::kernels
