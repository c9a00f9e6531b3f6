#include "trainer/torch/stage.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "gossip/base/random.h"
#include "trainer/torch/init.h"

namespace starling::trainer {
namespace {

MicrobatchId microbatch(std::uint32_t index) { return {.originator = {}, .boot = 1, .step = 1, .index = index}; }

class StageTest : public testing::Test {
 protected:
  StageConfig config(bool tied = false) const {
    ModelConfig model{.hidden_size = 16,
                      .intermediate_size = 24,
                      .num_hidden_layers = 2,
                      .num_attention_heads = 2,
                      .num_key_value_heads = 1,
                      .vocab_size = 40,
                      .max_position_embeddings = 8};
    model.tie_word_embeddings = tied;
    return {.model = model,
            .layers = {0, 2},
            .stage = 0,
            .batch = {.sequences = 2, .seq_len = 8},
            .optimizer = {.weight_decay = 0.1},
            .max_grad_norm = 1.0e9};
  }
  static std::vector<float> weights_of(const StageConfig& config) {
    return draw_parameters(config.model, config.layers, config.stage, 5);
  }
  TokenBatch tokens(std::uint64_t seed) const {
    Stream stream(seed);
    TokenBatch out;
    for (int i = 0; i < 18; ++i) out.push_back(static_cast<std::int32_t>(stream.below(40)));
    return out;
  }
  // Forward, loss and backward of one microbatch; the loss.
  double pass(StageModel& model, std::uint32_t index) const {
    model.begin(microbatch(index), tokens(index), Pass::train);
    const double loss = model.loss(microbatch(index), {}).sum;
    EXPECT_TRUE(model.backward(microbatch(index), {}).kept);
    return loss;
  }
  static std::vector<float> copy(std::span<const float> values) { return {values.begin(), values.end()}; }

  c10::InferenceMode no_autograd_;
};

TEST_F(StageTest, CheckpointedBlocksGiveTheSameGradients) {
  StageConfig c = config();
  const std::vector<float> weights = weights_of(c);
  StageModel kept(c, weights, {});
  c.activation_checkpointing = true;
  StageModel again(c, weights, {});
  for (Step step = 1; step <= 3; ++step) {
    // Two open at once, and the first runs backward with the weights that it ran forward with.
    for (StageModel* model : {&kept, &again}) {
      model->begin(microbatch(2), tokens(2), Pass::train);
      pass(*model, 1);
      model->step({.step = step, .learning_rate = 1e-2, .body_tokens = 16, .head_tokens = 16});
      model->loss(microbatch(2), {});
      EXPECT_TRUE(model->backward(microbatch(2), {}).kept);
    }
  }
  EXPECT_EQ(copy(kept.theta()), copy(again.theta()));
  EXPECT_EQ(copy(kept.adam_m()), copy(again.adam_m()));
}

class StageGradient : public StageTest, public testing::WithParamInterface<bool> {};

TEST_P(StageGradient, IsThatOfFiniteDifferences) {
  // After one step from zero with beta1 = 0, Adam's m is the gradient itself: all of it, embedding to head, tied or not.
  StageConfig c = config(GetParam());
  c.optimizer.beta1 = 0.0;
  const std::vector<float> weights = weights_of(c);
  StageModel model(c, weights, {});
  pass(model, 1);
  model.step({.step = 1, .learning_rate = 1e-3, .body_tokens = 1, .head_tokens = 1});
  const std::vector<float> gradient = copy(model.adam_m());

  // Along random directions d of length 70: (loss(w + h d) - loss(w - h d)) / 2 h = gradient . d. Losses of about 60 nats
  // in fp32 have errors of 1e-5, which is 0.02 after the division; the next term, in h^2, is below that.
  const auto loss_at = [&](std::vector<float> moved) {
    StageModel there(c, moved, {});
    there.begin(microbatch(1), tokens(1), Pass::eval);
    return there.loss(microbatch(1), {}).sum;
  };
  Stream stream(9);
  for (int trial = 0; trial < 8; ++trial) {
    std::vector<float> ahead = weights;
    std::vector<float> behind = weights;
    double expected = 0.0;
    const double h = 4e-4;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double d = stream.below(2) == 0 ? 1.0 : -1.0;
      ahead[i] += static_cast<float>(h * d);
      behind[i] -= static_cast<float>(h * d);
      expected += d * static_cast<double>(gradient[i]);
    }
    EXPECT_NEAR((loss_at(ahead) - loss_at(behind)) / (2.0 * h), expected, 0.05 + 0.005 * std::abs(expected)) << trial;
  }
}

INSTANTIATE_TEST_SUITE_P(TiedAndUntied, StageGradient, testing::Bool());

TEST_F(StageTest, ViewsFollowTheOrderOfTheParameters) {
  const StageConfig c = config();
  const StageParameters views = view_parameters(
      c.model, c.layers, 0, at::arange(parameter_count(c.model, c.layers, 0), at::TensorOptions(at::kFloat)));
  std::map<std::string, float> first_of;
  std::int64_t offset = 0;
  for (const ParameterSpec& spec : stage_parameters(c.model, c.layers, 0)) {
    first_of[spec.name] = static_cast<float>(offset);
    offset += spec.count();
  }
  const auto first = [](const at::Tensor& view, std::int64_t row) { return view[row].flatten()[0].item<float>(); };
  const BlockParameters& block = views.blocks[1];
  EXPECT_EQ(first(views.embedding, 0), first_of.at("model.embed_tokens.weight"));
  EXPECT_EQ(first(block.input_norm, 0), first_of.at("model.layers.1.input_layernorm.weight"));
  EXPECT_EQ(first(block.qkv, 0), first_of.at("model.layers.1.self_attn.q_proj.weight"));
  EXPECT_EQ(first(block.qkv, 16), first_of.at("model.layers.1.self_attn.k_proj.weight"));
  EXPECT_EQ(first(block.qkv, 24), first_of.at("model.layers.1.self_attn.v_proj.weight"));
  EXPECT_EQ(first(block.output, 0), first_of.at("model.layers.1.self_attn.o_proj.weight"));
  EXPECT_EQ(first(block.post_norm, 0), first_of.at("model.layers.1.post_attention_layernorm.weight"));
  EXPECT_EQ(first(block.gate_up, 0), first_of.at("model.layers.1.mlp.gate_proj.weight"));
  EXPECT_EQ(first(block.gate_up, 24), first_of.at("model.layers.1.mlp.up_proj.weight"));
  EXPECT_EQ(first(block.down, 0), first_of.at("model.layers.1.mlp.down_proj.weight"));
  EXPECT_EQ(first(views.final_norm, 0), first_of.at("model.norm.weight"));
  EXPECT_EQ(first(views.head, 0), first_of.at("lm_head.weight"));
}

TEST_F(StageTest, BodyAndHeadAreDividedByTheirOwnTokens) {
  // With beta1 = 0, Adam's m after a step is the divided gradient.
  StageConfig c = config();
  c.optimizer.beta1 = 0.0;
  const auto gradient = [&](std::int64_t body_tokens, std::int64_t head_tokens) {
    StageModel model(c, weights_of(c), {});
    pass(model, 1);
    EXPECT_TRUE(
        model.step({.step = 1, .learning_rate = 0.0, .body_tokens = body_tokens, .head_tokens = head_tokens}).applied);
    return copy(model.adam_m());
  };
  const std::vector<float> one = gradient(1, 1);
  const std::vector<float> divided = gradient(4, 8);
  const std::size_t head_from = one.size() - 16 - 40 * 16;
  for (std::size_t i = 0; i < one.size(); ++i) {
    EXPECT_FLOAT_EQ(divided[i], one[i] / (i < head_from ? 4.0F : 8.0F)) << i;
  }
}

TEST_F(StageTest, APartWithoutTokensStaysAsItIs) {
  StageConfig c = config();
  const std::vector<float> before = weights_of(c);
  StageModel model(c, before, {});
  pass(model, 1);
  ASSERT_TRUE(model.step({.step = 1, .learning_rate = 1e-2, .body_tokens = 0, .head_tokens = 16}).applied);
  const std::vector<float> after = copy(model.theta());
  const std::size_t head_from = before.size() - 16 - 40 * 16;
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + static_cast<std::ptrdiff_t>(head_from), after.begin()));
  EXPECT_NE(before.back(), after.back());
  // And its gradient does not lie in wait for the next step.
  EXPECT_EQ(model.step({.step = 2, .learning_rate = 1e-2, .body_tokens = 1, .head_tokens = 1}).gradient_norm, 0.0);
}

TEST_F(StageTest, AllIsClippedTogether) {
  StageConfig c = config();
  c.optimizer.beta1 = 0.0;
  StageModel free(c, weights_of(c), {});
  pass(free, 1);
  const OptimizerStep job{.step = 1, .learning_rate = 1e-3, .body_tokens = 2, .head_tokens = 3};
  const double norm = free.step(job).gradient_norm;
  double squares = 0.0;
  for (const float m : free.adam_m()) squares += static_cast<double>(m) * m;
  EXPECT_NEAR(std::sqrt(squares), norm, 1e-5 * norm);

  c.max_grad_norm = norm / 4.0;
  StageModel clipped(c, weights_of(c), {});
  pass(clipped, 1);
  EXPECT_DOUBLE_EQ(clipped.step(job).gradient_norm, norm);  // reported as it was before
  for (std::size_t i = 0; i < free.adam_m().size(); ++i) {
    EXPECT_NEAR(clipped.adam_m()[i], free.adam_m()[i] / 4.0F, 1e-6F * static_cast<float>(norm)) << i;
  }
}

TEST_F(StageTest, NormsDoNotDecay) {
  StageConfig c = config();
  c.optimizer.weight_decay = 0.5;
  std::vector<float> weights = weights_of(c);
  StageModel model(c, weights, {});
  model.step({.step = 1, .learning_rate = 0.1, .body_tokens = 1, .head_tokens = 1});  // a gradient of zero: decay alone
  const std::vector<float> after = copy(model.theta());
  std::size_t offset = 0;
  for (const ParameterSpec& spec : stage_parameters(c.model, c.layers, 0)) {
    const float keep = spec.shape.size() > 1 ? 0.95F : 1.0F;
    EXPECT_FLOAT_EQ(after[offset], weights[offset] * keep) << spec.name;
    offset += static_cast<std::size_t>(spec.count());
  }
}

TEST_F(StageTest, ADivergedStageRefusesItsStep) {
  StageConfig c = config();
  std::vector<float> weights = weights_of(c);
  StageModel model(c, weights, {});
  pass(model, 1);
  at::Tensor infinite = at::full({16, 16}, std::numeric_limits<float>::infinity(), at::kFloat);
  model.begin(microbatch(2), tokens(2), Pass::train);
  model.backward(microbatch(2), infinite);
  const Stepped stepped = model.step({.step = 1, .learning_rate = 1e-2, .body_tokens = 32, .head_tokens = 16});
  EXPECT_FALSE(stepped.applied);
  EXPECT_EQ(copy(model.theta()), weights);
  EXPECT_EQ(model.step({.step = 2, .learning_rate = 0.0, .body_tokens = 1}).gradient_norm, 0.0);
}

// With a border, what comes behind it does not depend on what stands before it; and blocks that run forward twice see the
// same borders both times.
TEST_F(StageTest, DocumentsDoNotSeeEachOther) {
  const std::vector<std::uint32_t> borders{3, 11};
  TokenBatch text = tokens(1);
  TokenBatch other = text;
  for (const std::size_t i : {0, 1, 2, 9, 10, 11}) other[i] = (other[i] + 7) % 40;  // the first document of each sequence
  StageConfig c = config();
  const auto rows = [&](const TokenBatch& batch, std::int64_t first, std::int64_t count, std::vector<std::uint32_t> cut) {
    StageModel model(c, weights_of(c), {});
    return model.begin(microbatch(1), batch, Pass::train, std::move(cut)).narrow(0, first, count);
  };
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{3, 5}, {11, 5}}) {
    EXPECT_TRUE(at::equal(rows(text, first, count, borders), rows(other, first, count, borders)));
    EXPECT_FALSE(at::equal(rows(text, first, count, {}), rows(other, first, count, {})));
  }
  const auto gradient = [&](bool checkpointing) {
    c.activation_checkpointing = checkpointing;
    StageModel model(c, weights_of(c), {});
    model.begin(microbatch(1), text, Pass::train, borders);
    model.loss(microbatch(1), {});
    EXPECT_TRUE(model.backward(microbatch(1), {}).kept);
    EXPECT_TRUE(model.step({.step = 1, .learning_rate = 1e-2, .body_tokens = 16, .head_tokens = 16}).applied);
    return copy(model.adam_m());
  };
  EXPECT_EQ(gradient(true), gradient(false));
}

// Weights change in place only when no graph ran with them.
TEST_F(StageTest, AnOpenMicrobatchKeepsItsWeights) {
  const StageConfig c = config();
  const OptimizerStep step{.step = 1, .learning_rate = 1e-2, .body_tokens = 16, .head_tokens = 16};
  struct Outcome {
    double loss;
    double norm;
  };
  enum class Stepped { not_at_all, while_it_is_open, before_it };
  const auto outcome = [&](Stepped when) {
    StageModel model(c, weights_of(c), {});
    const auto train_another = [&] {
      pass(model, 2);
      EXPECT_TRUE(model.step(step).applied);
    };
    if (when == Stepped::before_it) train_another();
    model.begin(microbatch(1), tokens(1), Pass::train);
    if (when == Stepped::while_it_is_open) train_another();
    const double loss = model.loss(microbatch(1), {}).sum;
    EXPECT_TRUE(model.backward(microbatch(1), {}).kept);
    return Outcome{loss, model.step(step).gradient_norm};
  };
  const Outcome alone = outcome(Stepped::not_at_all);
  const Outcome open = outcome(Stepped::while_it_is_open);
  EXPECT_EQ(open.loss, alone.loss);
  EXPECT_EQ(open.norm, alone.norm);
  EXPECT_NE(outcome(Stepped::before_it).loss, alone.loss);
}

TEST_F(StageTest, BeginningAgainReplacesTheGraph) {
  const StageConfig c = config();
  StageModel model(c, weights_of(c), {});
  model.begin(microbatch(1), tokens(1), Pass::train);
  model.begin(microbatch(1), tokens(1), Pass::train);
  EXPECT_EQ(model.kept(), 1u);
  model.loss(microbatch(1), {});
  model.backward(microbatch(1), {});
  EXPECT_EQ(model.kept(), 0u);
}

}  // namespace
}  // namespace starling::trainer
