// The kernels on tensors. This is the one place that knows which device a tensor is on: fp32 on a CPU runs
// our own kernels (kernels.h), anything else LibTorch's (library_ops.h).
//
// Work is cut into pieces whose size does not depend on the number of threads, and partial sums are added in the order of
// the pieces: one thread or eight give the same bits.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "trainer/torch/kernels.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer::ops {

// ---- matrix products. Weights [n, k], rows x [m, k], gradients of their product dy [m, n], all of one type.
//
// bf16 on a CPU: sums, results and y are fp32, as is everything else but the operands of products. What a product reads is
// therefore made in `products`, the type of the weights, by the operations below, or rounded by operand().
at::Tensor operand(const at::Tensor& x, at::ScalarType products);
at::Tensor product(const at::Tensor& x, const at::Tensor& weight);                               // x w^T
at::Tensor sum_and_product(const at::Tensor& y, const at::Tensor& x, const at::Tensor& weight);  // y + x w^T
void product_into(at::Tensor& out, const at::Tensor& x, const at::Tensor& weight);
at::Tensor input_gradient(const at::Tensor& dy, const at::Tensor& weight);  // dy w
void input_gradient_into(at::Tensor& out, const at::Tensor& dy, const at::Tensor& weight);
// dweight [n, k], fp32, grows by factor dy^T x.
void weight_gradient(at::Tensor& dweight, const at::Tensor& dy, const at::Tensor& x, double factor = 1.0);

struct Normed {
  at::Tensor y;     // [rows, D], `products`
  at::Tensor rstd;  // [rows]
};
Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, at::ScalarType products);
// dx and dweight grow by their gradients; dy_y [rows, D] goes in as the gradient of y and comes out as y in `products`.
void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd, at::Tensor& dy_y,
                       at::Tensor& dx, at::Tensor& dweight, at::ScalarType products);

// cosine and sine [positions, d / 2] of Llama's rotary embedding, the frequencies scaled as Llama 3 does where asked.
struct RotaryTable {
  at::Tensor cosine;
  at::Tensor sine;
};
RotaryTable rotary_table(std::int64_t positions, std::int64_t head_dim, double theta,
                         const std::optional<RopeScaling>& scaling);
// The queries and keys of qkv [rows, (H + 2 K) d], in place.
void rotate(at::Tensor& qkv, const kernels::Attention& shape, const RotaryTable& table, kernels::Rotation rotation);

struct Attended {
  at::Tensor out;           // [rows, H d]
  at::Tensor log_sum;       // [sequences, H, T]
  at::Tensor seed, offset;  // of flash attention: its backward pass asks for them
  std::vector<Attended> parts;  // LibTorch's kernels where documents end inside of a sequence: of each document, and `out`
};
// Rows at which a document begins inside of a sequence, rising, none of them 0. Attention does not look across. Positions
// run on: rotary embedding makes scores a function of the distance of two positions alone.
using Borders = std::span<const std::uint32_t>;
// Causal attention within each sequence of `shape.tokens` rows, and within each document of it.
Attended attention(const at::Tensor& qkv, const kernels::Attention& shape, Borders borders = {});
// The gradient of qkv.
at::Tensor attention_backward(const at::Tensor& qkv, const Attended& forward, const at::Tensor& dout,
                              const kernels::Attention& shape, Borders borders = {});

at::Tensor swiglu(const at::Tensor& gate_up, at::ScalarType products);
// Returns the gradient of gate_up; dout_out goes in as the gradient of the output and comes out as the output. Both are
// made in `products`.
at::Tensor swiglu_backward(const at::Tensor& gate_up, at::Tensor& dout_out, at::ScalarType products);

// weight [V, D] is fp32; the rows have type `type`.
at::Tensor embed(const at::Tensor& weight, std::span<const std::int32_t> ids, at::ScalarType type);
void embed_backward(const at::Tensor& dout, std::span<const std::int32_t> ids, at::Tensor& dweight);

enum class Gradient { none, in_place };
// Sum of the token losses in nats; in_place: the logits become their gradient in `products`.
double cross_entropy(at::Tensor& logits, std::span<const std::int32_t> targets, Gradient gradient,
                     at::ScalarType products = at::kFloat);

}  // namespace starling::trainer::ops
