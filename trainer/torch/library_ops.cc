#include "trainer/torch/library_ops.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cmath>
#include <tuple>

namespace starling::trainer::ops::library {
namespace {

at::Tensor device_ids(std::span<const std::int32_t> ids, const at::Tensor& like) {
  // from_blob takes no const pointer; the copy that follows only reads.
  auto* const data = const_cast<std::int32_t*>(ids.data());
  return at::from_blob(data, {static_cast<std::int64_t>(ids.size())}, at::kInt).to(like.device(), at::kLong);
}

struct Heads {
  at::Tensor q, k, v;  // [B, heads, T, d], views
};

Heads heads_of(const at::Tensor& qkv, const kernels::Attention& shape) {
  const at::Tensor all =
      qkv.view({-1, shape.tokens, shape.heads + 2 * shape.kv_heads, shape.head_dim}).transpose(1, 2);
  return {all.narrow(1, 0, shape.heads), all.narrow(1, shape.heads, shape.kv_heads),
          all.narrow(1, shape.heads + shape.kv_heads, shape.kv_heads)};
}

bool has_flash(const at::Tensor& x) { return x.is_cuda() && x.scalar_type() == at::kBFloat16; }

double scale_of(const kernels::Attention& shape) { return 1.0 / std::sqrt(static_cast<double>(shape.head_dim)); }

// In fp32, key heads repeated for the query heads that share them; what is above the diagonal is minus infinity.
struct Scores {
  Heads wide;
  at::Tensor values;  // [B, H, T, T]
};

Scores scores_of(const at::Tensor& qkv, const kernels::Attention& shape) {
  const Heads heads = heads_of(qkv, shape);
  Scores out;
  out.wide = {heads.q.to(at::kFloat), heads.k.to(at::kFloat).repeat_interleave(shape.group(), 1),
              heads.v.to(at::kFloat).repeat_interleave(shape.group(), 1)};
  const at::Tensor above =
      at::ones({shape.tokens, shape.tokens}, qkv.options().dtype(at::kBool)).triu_(1);
  out.values = at::matmul(out.wide.q, out.wide.k.transpose(-1, -2)).mul_(scale_of(shape)).masked_fill_(above, -INFINITY);
  return out;
}

// [B, H, T, d] as rows of all heads.
at::Tensor rows_of(const at::Tensor& heads, const at::Tensor& like) {
  return heads.transpose(1, 2).reshape({-1, heads.size(1) * heads.size(3)}).to(like.scalar_type());
}

}  // namespace

Normed rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (x.is_cuda()) {
    const auto [y, rstd] = at::_fused_rms_norm(x, {x.size(1)}, weight.to(x.scalar_type()), eps);
    return {y, rstd.view({-1})};
  }
  const at::Tensor wide = x.to(at::kFloat);
  at::Tensor rstd = wide.square().mean(1).add_(eps).rsqrt_();
  return {(wide * rstd.unsqueeze(1)).mul_(weight).to(x.scalar_type()), rstd};
}

// dx = rstd (w dy - n mean(n w dy)) with n = x rstd.
void rms_norm_backward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& rstd, at::Tensor& dy_y,
                       at::Tensor& dx, at::Tensor& dweight) {
  if (x.is_cuda()) {
    const auto [d, dw] = at::_fused_rms_norm_backward(dy_y, x, {x.size(1)}, rstd.view({-1, 1}),
                                                      weight.to(x.scalar_type()), {true, true});
    dx.add_(d);
    dweight.add_(dw);
    at::mul_out(dy_y, x * rstd.unsqueeze(1), weight);
    return;
  }
  const at::Tensor normed = x.to(at::kFloat) * rstd.unsqueeze(1);
  const at::Tensor dy = dy_y.to(at::kFloat);
  dweight.add_((dy * normed).sum(0));
  const at::Tensor weighted = dy * weight;
  const at::Tensor drift = (weighted * normed).mean(1, true);
  dx.add_((weighted - normed * drift).mul_(rstd.unsqueeze(1)));
  dy_y.copy_(normed * weight);
}

void rotate(at::Tensor& qkv, const kernels::Attention& shape, const RotaryTable& table, kernels::Rotation rotation) {
  const std::int64_t half = shape.head_dim / 2;
  at::Tensor heads = qkv.view({-1, shape.tokens, shape.heads + 2 * shape.kv_heads, shape.head_dim})
                         .narrow(2, 0, shape.heads + shape.kv_heads);
  at::Tensor first = heads.narrow(3, 0, half);
  at::Tensor second = heads.narrow(3, half, half);
  const at::Tensor cosine = table.cosine.unsqueeze(1);
  const at::Tensor sine = rotation == kernels::Rotation::forward ? table.sine.unsqueeze(1) : -table.sine.unsqueeze(1);
  const at::Tensor turned = at::mul(first, cosine).addcmul_(second, sine, -1.0);
  second.copy_(at::mul(second, cosine).addcmul_(first, sine));
  first.copy_(turned);
}

Attended attention(const at::Tensor& qkv, const kernels::Attention& shape) {
  if (has_flash(qkv)) {
    const Heads heads = heads_of(qkv, shape);
    const auto made = at::_scaled_dot_product_flash_attention(heads.q, heads.k, heads.v, 0.0, /*is_causal=*/true,
                                                              /*return_debug_mask=*/false, scale_of(shape));
    return {rows_of(std::get<0>(made), qkv), std::get<1>(made), std::get<6>(made), std::get<7>(made)};
  }
  const Scores scores = scores_of(qkv, shape);
  at::Tensor log_sum = scores.values.logsumexp(-1);
  const at::Tensor p = (scores.values - log_sum.unsqueeze(-1)).exp_();
  return {rows_of(at::matmul(p, scores.wide.v), qkv), std::move(log_sum), {}, {}};
}

at::Tensor attention_backward(const at::Tensor& qkv, const Attended& forward, const at::Tensor& dout,
                              const kernels::Attention& shape) {
  const auto as_heads = [&](const at::Tensor& rows) {
    return rows.view({-1, shape.tokens, shape.heads, shape.head_dim}).transpose(1, 2);
  };
  at::Tensor out = at::empty_like(qkv);
  const Heads to = heads_of(out, shape);
  if (has_flash(qkv)) {
    const Heads heads = heads_of(qkv, shape);
    const auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_backward(
        as_heads(dout), heads.q, heads.k, heads.v, as_heads(forward.out), forward.log_sum, {}, {}, shape.tokens,
        shape.tokens, 0.0, /*is_causal=*/true, forward.seed, forward.offset, scale_of(shape));
    to.q.copy_(dq);
    to.k.copy_(dk);
    to.v.copy_(dv);
    return out;
  }
  const Scores scores = scores_of(qkv, shape);
  const at::Tensor p = (scores.values - forward.log_sum.unsqueeze(-1)).exp_();
  const at::Tensor d_out = as_heads(dout).to(at::kFloat);
  const at::Tensor drift = (d_out * as_heads(forward.out).to(at::kFloat)).sum(-1, true);
  const at::Tensor ds =
      (at::matmul(d_out, scores.wide.v.transpose(-1, -2)) - drift).mul_(p).mul_(scale_of(shape));
  const auto summed = [&](const at::Tensor& wide) {  // over the query heads that share a key head
    return wide.view({wide.size(0), shape.kv_heads, shape.group(), shape.tokens, shape.head_dim}).sum(2);
  };
  to.q.copy_(at::matmul(ds, scores.wide.k));
  to.k.copy_(summed(at::matmul(ds.transpose(-1, -2), scores.wide.q)));
  to.v.copy_(summed(at::matmul(p.transpose(-1, -2), d_out)));
  return out;
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const std::int64_t inner = gate_up.size(1) / 2;
  return at::silu(gate_up.narrow(1, 0, inner)).mul_(gate_up.narrow(1, inner, inner));
}

at::Tensor swiglu_backward(const at::Tensor& gate_up, at::Tensor& dout_out) {
  const std::int64_t inner = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, inner);
  const at::Tensor up = gate_up.narrow(1, inner, inner);
  const at::Tensor silu = at::silu(gate);
  at::Tensor out = at::empty_like(gate_up);
  at::Tensor d_gate = out.narrow(1, 0, inner);
  at::Tensor d_up = out.narrow(1, inner, inner);
  at::mul_out(d_up, dout_out, silu);
  at::silu_backward_out(d_gate, dout_out.mul_(up), gate);
  at::mul_out(dout_out, silu, up);
  return out;
}

at::Tensor embed(const at::Tensor& weight, std::span<const std::int32_t> ids, at::ScalarType type) {
  return weight.index_select(0, device_ids(ids, weight)).to(type);
}

void embed_backward(const at::Tensor& dout, std::span<const std::int32_t> ids, at::Tensor& dweight) {
  dweight.index_add_(0, device_ids(ids, dweight), dout.to(dweight.scalar_type()));
}

double cross_entropy(at::Tensor& logits, std::span<const std::int32_t> targets, Gradient gradient) {
  const at::Tensor wanted = device_ids(targets, logits).unsqueeze(1);
  at::Tensor log_p = at::log_softmax(logits, 1, at::kFloat);
  const double sum = -log_p.gather(1, wanted).sum(at::kDouble).item<double>();
  if (gradient == Gradient::in_place) {
    log_p.exp_().scatter_add_(1, wanted, at::full_like(wanted, -1.0, log_p.options()));
    logits.copy_(log_p);
  }
  return sum;
}

void adamw_step(const AdamWStep& step, const at::Tensor& theta, at::Tensor gradient, at::Tensor m, at::Tensor v,
                at::Tensor next) {
  const auto scalar = [&](double value) { return at::full({}, value, theta.options()); };
  next.copy_(theta);
  at::_fused_adamw_({next}, {gradient}, {m}, {v}, {}, {scalar(static_cast<double>(step.steps))}, step.learning_rate,
                    step.beta1, step.beta2, step.weight_decay, step.eps, /*amsgrad=*/false, /*maximize=*/false,
                    scalar(1.0 / step.gradient_scale), scalar(0.0));
  gradient.zero_();
}

double sum_of_squares(const at::Tensor& values) {
  const double norm = at::linalg_vector_norm(values, 2, at::OptionalIntArrayRef{}, false, at::kDouble).item<double>();
  return norm * norm;
}

}  // namespace starling::trainer::ops::library
