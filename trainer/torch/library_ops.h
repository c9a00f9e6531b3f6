// The operations of ops.h through LibTorch's own kernels: for any device and any floating type. Sums, norms and
// exponentials are in fp32 whatever the type of the operands. On a CPU in fp32 they are the reference that our kernels are
// tested against; an accelerator runs nothing else.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "trainer/torch/ops.h"
#include "trainer/torch/optimizer.h"

namespace starling::trainer::ops::library {

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd, at::Tensor& dy_y,
                       at::Tensor& dx, at::Tensor& dweight);
void rotate(at::Tensor& qkv, const kernels::Attention& shape, const RotaryTable& table, kernels::Rotation rotation);
// bf16 on CUDA: flash attention; else the formula, which holds B * H * T * T scores.
Attended attention(const at::Tensor& qkv, const kernels::Attention& shape);
at::Tensor attention_backward(const at::Tensor& qkv, const Attended& forward, const at::Tensor& dout,
                              const kernels::Attention& shape);
at::Tensor swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_backward(const at::Tensor& gate_up, at::Tensor& dout_out);
at::Tensor embed(const at::Tensor& weight, std::span<const std::int32_t> ids, at::ScalarType type);
void embed_backward(const at::Tensor& dout, std::span<const std::int32_t> ids, at::Tensor& dweight);
double cross_entropy(at::Tensor& logits, std::span<const std::int32_t> targets, Gradient gradient);

// adamw_step of optimizer.h on tensors of one length. All fp32.
void adamw_step(const AdamWStep& step, const at::Tensor& theta, at::Tensor gradient, at::Tensor m, at::Tensor v,
                at::Tensor next);
// In double.
double sum_of_squares(const at::Tensor& values);

}  // namespace starling::trainer::ops::library
