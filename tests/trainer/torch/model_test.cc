// The block against a slow reference: the same mathematics in ATen's plain operations, in double, with autograd.
#include "trainer/torch/model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "gossip/base/random.h"
#include "trainer/torch/loss.h"
#include "trainer/worker/stage_memory.h"

namespace starling::trainer {
namespace {

struct Case {
  const char* name;
  std::int64_t hidden, heads, kv_heads, inner, sequences, tokens;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ModelConfig config_of(const Case& c) {
  return {.hidden_size = c.hidden,
          .intermediate_size = c.inner,
          .num_hidden_layers = 1,
          .num_attention_heads = c.heads,
          .num_key_value_heads = c.kv_heads,
          .vocab_size = 50,
          .max_position_embeddings = c.tokens,
          .rms_norm_eps = 1e-3};  // large enough that a wrong place for it shows
}

at::Tensor random_tensor(std::initializer_list<std::int64_t> shape, double deviation, std::uint64_t seed) {
  at::Tensor out = at::empty(at::IntArrayRef(shape), at::kFloat);
  Stream stream(seed);
  for (std::int64_t i = 0; i < out.numel(); ++i) {
    out.mutable_data_ptr<float>()[i] = static_cast<float>(deviation * stream.normal());
  }
  return out;
}

BlockParameters random_block(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t qkv = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim();
  const double deviation = 1.0 / std::sqrt(static_cast<double>(hidden));
  return {.input_norm = random_tensor({hidden}, 1.0, 1),
          .qkv = random_tensor({qkv, hidden}, 2.0 * deviation, 2),
          .output = random_tensor({hidden, hidden}, deviation, 3),
          .post_norm = random_tensor({hidden}, 1.0, 4),
          .gate_up = random_tensor({2 * config.intermediate_size, hidden}, deviation, 5),
          .down = random_tensor({hidden, config.intermediate_size}, deviation, 6)};
}

template <typename F>
BlockParameters each(const BlockParameters& block, const F& f) {
  return {.input_norm = f(block.input_norm),
          .qkv = f(block.qkv),
          .output = f(block.output),
          .post_norm = f(block.post_norm),
          .gate_up = f(block.gate_up),
          .down = f(block.down)};
}

at::Tensor reference_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(x.pow(2).mean(-1, true) + eps) * weight;
}

// x [B, heads, T, d], as transformers' apply_rotary_pos_emb.
at::Tensor reference_rotate(const at::Tensor& x, double theta) {
  const std::int64_t d = x.size(3);
  const at::Tensor frequency = at::pow(theta, at::arange(0, d, 2, at::kDouble) / static_cast<double>(d)).reciprocal();
  const at::Tensor angle = at::outer(at::arange(x.size(2), at::kDouble), frequency);
  const at::Tensor both = at::cat({angle, angle}, 1);
  const at::Tensor turned = at::cat({-x.narrow(3, d / 2, d / 2), x.narrow(3, 0, d / 2)}, 3);
  return x * both.cos() + turned * both.sin();
}

at::Tensor reference_block(const ModelConfig& config, const BlockParameters& w, const at::Tensor& x, const Case& c) {
  const std::int64_t d = config.head_dim();
  const at::Tensor qkv = reference_norm(x, w.input_norm, config.rms_norm_eps).matmul(w.qkv.t());
  const auto heads = [&](std::int64_t first, std::int64_t count) {
    return qkv.narrow(1, first * d, count * d).view({c.sequences, c.tokens, count, d}).transpose(1, 2);
  };
  const std::int64_t group = c.heads / c.kv_heads;
  const at::Tensor q = reference_rotate(heads(0, c.heads), config.rope_theta);
  const at::Tensor k = reference_rotate(heads(c.heads, c.kv_heads), config.rope_theta).repeat_interleave(group, 1);
  const at::Tensor v = heads(c.heads + c.kv_heads, c.kv_heads).repeat_interleave(group, 1);
  const at::Tensor future = at::ones({c.tokens, c.tokens}, at::kBool).triu(1);
  const at::Tensor scores = (q.matmul(k.transpose(2, 3)) / std::sqrt(static_cast<double>(d)))
                                .masked_fill(future, -std::numeric_limits<double>::infinity());
  const at::Tensor attended = at::softmax(scores, -1).matmul(v).transpose(1, 2).reshape({x.size(0), c.heads * d});
  const at::Tensor middle = x + attended.matmul(w.output.t());
  const at::Tensor gate_up = reference_norm(middle, w.post_norm, config.rms_norm_eps).matmul(w.gate_up.t());
  const at::Tensor gate = gate_up.narrow(1, 0, c.inner);
  return middle + (gate * at::sigmoid(gate) * gate_up.narrow(1, c.inner, c.inner)).matmul(w.down.t());
}

// Largest difference, relative to the largest value of the reference.
double distance(const at::Tensor& made, const at::Tensor& reference) {
  return ((made.to(at::kDouble) - reference).abs().max() / reference.abs().max()).item<double>();
}

class BlockTest : public testing::TestWithParam<Case> {};

TEST_P(BlockTest, ForwardAndGradientsAreThoseOfTheReference) {
  const Case c = GetParam();
  const ModelConfig config = config_of(c);
  const std::int64_t rows = c.sequences * c.tokens;
  const BlockParameters weights = random_block(config);
  const at::Tensor x = random_tensor({rows, c.hidden}, 1.5, 7);
  const at::Tensor d_out = random_tensor({rows, c.hidden}, 1.0, 8);

  const auto leaf = [](const at::Tensor& t) { return t.to(at::kDouble).requires_grad_(); };
  const BlockParameters reference_weights = each(weights, leaf);
  const at::Tensor reference_x = leaf(x);
  const at::Tensor reference_out = reference_block(config, reference_weights, reference_x, c);
  reference_out.backward(d_out.to(at::kDouble));

  const c10::InferenceMode no_autograd;
  const Model model(config, {.sequences = c.sequences, .seq_len = c.tokens});
  BlockSaved saved;
  const at::Tensor out = model.block(weights, x, &saved);
  at::Tensor gradient = d_out.clone();
  // Gradients are added: begin with ones and take them away again.
  BlockParameters gradients = each(weights, [](const at::Tensor& t) { return at::ones_like(t); });
  model.block_backward(weights, saved, gradient, gradients);
  gradients = each(gradients, [](const at::Tensor& t) { return t.sub_(1.0); });

  // Sums of up to a few hundred products of fp32 numbers of size 1: errors of some 1e-6.
  EXPECT_LT(distance(out, reference_out), 2e-6);
  EXPECT_TRUE(at::equal(out, model.block(weights, x, nullptr)));
  EXPECT_LT(distance(gradient, reference_x.grad()), 1e-5);
  EXPECT_LT(distance(gradients.input_norm, reference_weights.input_norm.grad()), 1e-5);
  EXPECT_LT(distance(gradients.qkv, reference_weights.qkv.grad()), 1e-5);
  EXPECT_LT(distance(gradients.output, reference_weights.output.grad()), 1e-5);
  EXPECT_LT(distance(gradients.post_norm, reference_weights.post_norm.grad()), 1e-5);
  EXPECT_LT(distance(gradients.gate_up, reference_weights.gate_up.grad()), 1e-5);
  EXPECT_LT(distance(gradients.down, reference_weights.down.grad()), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Shapes, BlockTest,
                         testing::Values(Case{"even", 32, 2, 2, 48, 2, 32},     // all sizes multiples of the lanes
                                         Case{"odd", 30, 5, 5, 37, 3, 21},      // none of them
                                         Case{"grouped", 48, 6, 2, 64, 2, 40},  // three query heads share a key head
                                         Case{"one_key_head", 32, 4, 1, 40, 1, 17},  //
                                         Case{"several_attention_blocks", 32, 2, 1, 48, 1,
                                              150},  // rows beyond attention_rows, and a rest
                                         Case{"one_token", 16, 2, 2, 24, 2, 1}));

TEST(HeadLoss, IsThatOfTheReference) {
  const std::int64_t rows = 37;
  const std::int64_t hidden = 24;
  const std::int64_t vocab = 53;
  StageParameters weights;
  weights.final_norm = random_tensor({hidden}, 1.0, 1);
  weights.head = random_tensor({vocab, hidden}, 0.7, 2);
  const at::Tensor x = random_tensor({rows, hidden}, 2.0, 3);
  std::vector<std::int32_t> targets;
  for (std::int64_t row = 0; row < rows; ++row) targets.push_back(static_cast<std::int32_t>(row * 7 % vocab));

  const auto leaf = [](const at::Tensor& t) { return t.to(at::kDouble).requires_grad_(); };
  const at::Tensor reference_norm_weight = leaf(weights.final_norm);
  const at::Tensor reference_head = leaf(weights.head);
  const at::Tensor reference_x = leaf(x);
  const at::Tensor logits = reference_norm(reference_x, reference_norm_weight, 1e-3).matmul(reference_head.t());
  const at::Tensor ids = at::tensor(std::vector<std::int64_t>(targets.begin(), targets.end()));
  const at::Tensor reference = -at::log_softmax(logits, 1).gather(1, ids.unsqueeze(1)).sum();
  reference.backward();

  const c10::InferenceMode no_autograd;
  StageParameters gradients;
  gradients.final_norm = at::zeros_like(weights.final_norm);
  gradients.head = at::zeros_like(weights.head);
  const HeadLoss made = loss_and_gradient(weights, x, targets, 1e-3, gradients);
  EXPECT_NEAR(made.sum / reference.item<double>(), 1.0, 1e-6);
  EXPECT_NEAR(loss_only(weights, x, targets, 1e-3) / made.sum, 1.0, 1e-9);
  EXPECT_LT(distance(made.gradient, reference_x.grad()), 1e-5);
  EXPECT_LT(distance(gradients.final_norm, reference_norm_weight.grad()), 1e-5);
  EXPECT_LT(distance(gradients.head, reference_head.grad()), 1e-5);
}

TEST(HeadLoss, BlocksOfRowsAddUpAndALostOneTakesTheOthersBack) {
  // A vocabulary so large that the rows are worked on in two blocks.
  const c10::InferenceMode no_autograd;
  const std::int64_t rows = 140;
  const std::int64_t hidden = 8;
  const std::int64_t vocab = 40'000;
  ASSERT_LT(logits_rows(rows, vocab), rows);
  StageParameters weights;
  weights.final_norm = random_tensor({hidden}, 1.0, 1);
  weights.head = random_tensor({vocab, hidden}, 0.7, 2);
  at::Tensor x = random_tensor({rows, hidden}, 2.0, 3);
  std::vector<std::int32_t> targets;
  for (std::int32_t row = 0; row < rows; ++row) targets.push_back(row * 7);
  StageParameters gradients;
  gradients.final_norm = at::zeros_like(weights.final_norm);
  gradients.head = at::zeros_like(weights.head);

  const HeadLoss made = loss_and_gradient(weights, x, targets, 1e-3, gradients);
  at::Tensor whole = logits(weights, x, 1e-3);
  EXPECT_NEAR(ops::cross_entropy(whole, targets, ops::Gradient::in_place) / made.sum, 1.0, 1e-9);
  const at::Tensor y = ops::rms_norm(x, weights.final_norm, 1e-3, at::kFloat).y;
  EXPECT_LT(distance(gradients.head, whole.t().mm(y).to(at::kDouble)), 1e-5);
  EXPECT_NEAR(loss_only(weights, x, targets, 1e-3) / made.sum, 1.0, 1e-9);

  const at::Tensor before = gradients.head.clone();
  const at::Tensor norm_before = gradients.final_norm.clone();
  x[rows - 1][0] = std::numeric_limits<float>::quiet_NaN();
  const HeadLoss lost = loss_and_gradient(weights, x, targets, 1e-3, gradients);
  EXPECT_FALSE(std::isfinite(lost.sum));
  EXPECT_FALSE(lost.gradient.defined());
  EXPECT_LT(distance(gradients.head, before.to(at::kDouble)), 1e-5);
  EXPECT_TRUE(at::equal(gradients.final_norm, norm_before));
}

TEST(HeadLoss, SurvivesLogitsOfAnySize) {
  // exp of these overflows without the row's maximum taken off; one of them is right and one wrong by 200 nats.
  const c10::InferenceMode no_autograd;
  at::Tensor logits = at::zeros({2, 3}, at::kFloat);
  logits[0][0] = 200.0F;
  logits[1][0] = 200.0F;
  const std::vector<std::int32_t> targets = {0, 1};
  EXPECT_NEAR(ops::cross_entropy(logits, targets, ops::Gradient::none), 200.0, 1e-4);
  EXPECT_NEAR(ops::cross_entropy(logits, targets, ops::Gradient::in_place), 200.0, 1e-4);
  EXPECT_NEAR(logits[1][1].item<float>(), -1.0F, 1e-6);
}

}  // namespace
}  // namespace starling::trainer
