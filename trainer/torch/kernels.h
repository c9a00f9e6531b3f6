// What a Llama block does between its matrix products, for fp32 on a CPU: plain loops over floats, no torch, no threads.
//
// Why by hand: at a million parameters half of the time of a step goes to these, when each is a chain of library calls
// (measured: attention alone 45 %). Each kernel is one pass over rows, written so that the compiler vectorises it; it is
// compiled for three generations of x86 and chosen when the program starts. No multiply-add is contracted, so all three
// give the same numbers. trainer/torch/ops calls them piece by piece, and has the slow reference of each beside it.
//
// What a product reads next comes in the type that it is multiplied in: float, or bf16 rounded from it on the way out.
//
// Legend: rows = B * T (sequences times tokens), D width of the model, H query heads, K key and value heads, d width of a
// head, I inner width of the MLP, V vocabulary.
#pragma once

#include <cstdint>

#include "trainer/torch/lanes.h"

namespace starling::trainer::kernels {

// out [rows, D] = the rows of weight [V, D] that `ids` names. REQUIRES: ids inside [0, V).
void embed(const float* weight, const std::int32_t* ids, std::int64_t rows, std::int64_t width, float* out);
// dweight [V, D] += the gradient of embed, row after row.
void embed_backward(const float* dout, const std::int32_t* ids, std::int64_t rows, std::int64_t width, float* dweight);

// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + eps) for each row. x, y [rows, D]; rstd [rows]; weight [D].
void rms_norm(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps, float* y,
              float* rstd);
void rms_norm(const float* x, const float* weight, std::int64_t rows, std::int64_t width, float eps, Bf16* y,
              float* rstd);

// dx += the gradient of rms_norm; dweight [D] += its; and y = what the forward pass gave, for the products that need it
// once more. dy, y [rows, D]; they may be the same array.
void rms_norm_backward(const float* x, const float* weight, const float* rstd, std::int64_t rows, std::int64_t width,
                       const float* dy, float* y, float* dx, float* dweight);
void rms_norm_backward(const float* x, const float* weight, const float* rstd, std::int64_t rows, std::int64_t width,
                       const float* dy, Bf16* y, float* dx, float* dweight);

void round(const float* x, std::int64_t count, Bf16* out);

enum class Rotation { forward, backward };

// Rotary position embedding in place (Llama's "rotate half": value i of a head is paired with value i + d/2). Of every row
// of `width` values the first heads * d are rotated; row r is at position r mod positions. x [.., width]; cosine, sine
// [positions, d / 2].
struct Rotary {
  std::int64_t width;
  std::int64_t heads;
  std::int64_t head_dim;  // d
  std::int64_t positions;
  const float* cosine;
  const float* sine;
};
void rotate(float* x, std::int64_t first_row, std::int64_t rows, const Rotary& rotary, Rotation rotation);

// out = silu(gate) * up. gate_up [rows, 2 I], gate first; out [rows, I].
void swiglu(const float* gate_up, std::int64_t rows, std::int64_t inner, float* out);
void swiglu(const float* gate_up, std::int64_t rows, std::int64_t inner, Bf16* out);

// dgate_up [rows, 2 I] = the gradient of swiglu; and out = what the forward pass gave. dout, out [rows, I]; they may be the
// same array.
void swiglu_backward(const float* gate_up, std::int64_t rows, std::int64_t inner, const float* dout, float* out,
                     float* dgate_up);
void swiglu_backward(const float* gate_up, std::int64_t rows, std::int64_t inner, const float* dout, Bf16* out,
                     Bf16* dgate_up);

// Returns the sum of -log softmax(logits)[target] over the rows; gradient [rows, V] = its gradient. The logits [rows, V]
// are spent; `gradient` may be the same array.
double cross_entropy(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab,
                     float* gradient);
double cross_entropy(float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab, Bf16* gradient);
// The same without the gradient; the logits are left as they are.
double cross_entropy_loss(const float* logits, const std::int32_t* targets, std::int64_t rows, std::int64_t vocab);

// Causal attention of one sequence, and of the query heads that share one key head.
// qkv [T, (H + 2 K) d]: a row holds the queries of all heads, the keys, the values.
struct Attention {
  std::int64_t tokens;    // T
  std::int64_t heads;     // H
  std::int64_t kv_heads;  // K
  std::int64_t head_dim;  // d
  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
  std::int64_t out_width() const { return heads * head_dim; }
  std::int64_t group() const { return heads / kv_heads; }
};
// Query rows that are worked on together; what is beyond the diagonal of their last row is never computed.
inline constexpr std::int64_t attention_rows = 64;
// Floats of scratch that a call needs.
std::int64_t attention_scratch(const Attention& shape);

// out [T, H d]: the columns of the heads of `kv_head`; log_sum [H, T]: their rows, log of the sum of exponentials.
void attention(const Attention& shape, std::int64_t kv_head, const float* qkv, float* out, float* log_sum,
               float* scratch);
// dqkv [T, (H + 2 K) d]: the columns of these heads, overwritten.
void attention_backward(const Attention& shape, std::int64_t kv_head, const float* qkv, const float* out,
                        const float* log_sum, const float* dout, float* dqkv, float* scratch);

}  // namespace starling::trainer::kernels
