#include "trainer/torch/model.h"

#include <ATen/Functions.h>

#include <utility>

namespace starling::trainer {

Model::Model(const ModelConfig& config, const BatchShape& batch)
    : attention_{.tokens = batch.seq_len,
                 .heads = config.num_attention_heads,
                 .kv_heads = config.num_key_value_heads,
                 .head_dim = config.head_dim()},
      eps_(config.rms_norm_eps),
      rows_(batch.sequences * batch.seq_len),
      rotary_(ops::rotary_table(batch.seq_len, config.head_dim(), config.rope_theta, config.rope_scaling)) {}

at::Tensor Model::block(const BlockParameters& weights, const at::Tensor& x, BlockSaved* saved) const {
  ops::Normed normed = ops::rms_norm(x, weights.input_norm, eps_);
  at::Tensor qkv = at::mm(normed.y, weights.qkv.t());
  ops::rotate(qkv, attention_, rotary_, kernels::Rotation::forward);
  ops::Attended attended = ops::attention(qkv, attention_);
  at::Tensor middle = at::addmm(x, attended.out, weights.output.t());

  ops::Normed middle_normed = ops::rms_norm(middle, weights.post_norm, eps_);
  at::Tensor gate_up = at::mm(middle_normed.y, weights.gate_up.t());
  at::Tensor out = at::addmm(middle, ops::swiglu(gate_up), weights.down.t());
  if (saved != nullptr) {
    *saved = {.x = x,
              .rstd = std::move(normed.rstd),
              .qkv = std::move(qkv),
              .attended = std::move(attended),
              .middle = std::move(middle),
              .middle_rstd = std::move(middle_normed.rstd),
              .gate_up = std::move(gate_up)};
  }
  return out;
}

void Model::block_backward(const BlockParameters& weights, const BlockSaved& saved, at::Tensor& gradient,
                           BlockParameters& gradients) const {
  // out = middle + a Wd^T: the gradient of out is also that of middle, so far.
  at::Tensor a = at::mm(gradient, weights.down);
  const at::Tensor d_gate_up = ops::swiglu_backward(saved.gate_up, a);
  gradients.down.addmm_(gradient.t(), a);
  at::Tensor h = at::mm(d_gate_up, weights.gate_up);
  ops::rms_norm_backward(saved.middle, weights.post_norm, saved.middle_rstd, h, gradient, gradients.post_norm);
  gradients.gate_up.addmm_(d_gate_up.t(), h);

  // middle = x + attended Wo^T, likewise.
  gradients.output.addmm_(gradient.t(), saved.attended.out);
  const at::Tensor d_attended = at::mm(gradient, weights.output);
  at::Tensor d_qkv = ops::attention_backward(saved.qkv, saved.attended, d_attended, attention_);
  ops::rotate(d_qkv, attention_, rotary_, kernels::Rotation::backward);
  h = at::mm(d_qkv, weights.qkv);
  ops::rms_norm_backward(saved.x, weights.input_norm, saved.rstd, h, gradient, gradients.input_norm);
  gradients.qkv.addmm_(d_qkv.t(), h);
}

}  // namespace starling::trainer
