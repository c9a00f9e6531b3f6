#include "trainer/torch/model.h"

#include <utility>

namespace starling::trainer {

Model::Model(const ModelConfig& config, const BatchShape& batch, at::Device device)
    : attention_{.tokens = batch.seq_len,
                 .heads = config.num_attention_heads,
                 .kv_heads = config.num_key_value_heads,
                 .head_dim = config.head_dim()},
      eps_(config.rms_norm_eps),
      rows_(batch.sequences * batch.seq_len),
      rotary_(ops::rotary_table(batch.seq_len, config.head_dim(), config.rope_theta, config.rope_scaling)) {
  rotary_.cosine = rotary_.cosine.to(device);
  rotary_.sine = rotary_.sine.to(device);
}

at::Tensor Model::block(const BlockParameters& weights, const at::Tensor& x, BlockSaved* saved, ops::Borders borders) const {
  const at::ScalarType products = weights.qkv.scalar_type();
  ops::Normed normed = ops::rms_norm(x, weights.input_norm, eps_, products);
  at::Tensor qkv = ops::product(normed.y, weights.qkv);
  ops::rotate(qkv, attention_, rotary_, kernels::Rotation::forward);
  ops::Attended attended = ops::attention(qkv, attention_, borders);
  at::Tensor middle = ops::sum_and_product(x, ops::operand(attended.out, products), weights.output);

  ops::Normed middle_normed = ops::rms_norm(middle, weights.post_norm, eps_, products);
  at::Tensor gate_up = ops::product(middle_normed.y, weights.gate_up);
  at::Tensor out = ops::sum_and_product(middle, ops::swiglu(gate_up, products), weights.down);
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
                           BlockParameters& gradients, ops::Borders borders) const {
  const at::ScalarType products = weights.qkv.scalar_type();
  // out = middle + a Wd^T: the gradient of out is also that of middle, so far.
  at::Tensor above = ops::operand(gradient, products);
  at::Tensor a = ops::input_gradient(above, weights.down);
  const at::Tensor d_gate_up = ops::swiglu_backward(saved.gate_up, a, products);
  ops::weight_gradient(gradients.down, above, a);
  at::Tensor h = ops::input_gradient(d_gate_up, weights.gate_up);
  ops::rms_norm_backward(saved.middle, weights.post_norm, saved.middle_rstd, h, gradient, gradients.post_norm,
                         products);
  ops::weight_gradient(gradients.gate_up, d_gate_up, h);

  // middle = x + attended Wo^T, likewise.
  above = ops::operand(gradient, products);
  ops::weight_gradient(gradients.output, above, ops::operand(saved.attended.out, products));
  const at::Tensor d_attended = ops::input_gradient(above, weights.output);
  at::Tensor d_qkv = ops::attention_backward(saved.qkv, saved.attended, d_attended, attention_, borders);
  ops::rotate(d_qkv, attention_, rotary_, kernels::Rotation::backward);
  d_qkv = ops::operand(d_qkv, products);
  h = ops::input_gradient(d_qkv, weights.qkv);
  ops::rms_norm_backward(saved.x, weights.input_norm, saved.rstd, h, gradient, gradients.input_norm, products);
  ops::weight_gradient(gradients.qkv, d_qkv, h);
}

}  // namespace starling::trainer
