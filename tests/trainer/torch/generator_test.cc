#include "trainer/torch/generator.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "trainer/torch/evaluator.h"
#include "trainer/torch/init.h"
#include "trainer/torch/loss.h"
#include "trainer/torch/model.h"
#include "trainer/torch/ops.h"
#include "trainer/torch/parameters.h"
#include "trainer/torch/token_kernels.h"

namespace starling::trainer {
namespace {

struct Case {
  const char* name;
  ModelConfig model;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

ModelConfig model_of(std::int64_t hidden, std::int64_t inner, std::int64_t layers, std::int64_t heads,
                     std::int64_t kv_heads, std::int64_t vocab, bool tied = false) {
  return {.hidden_size = hidden,
          .intermediate_size = inner,
          .num_hidden_layers = layers,
          .num_attention_heads = heads,
          .num_key_value_heads = kv_heads,
          .vocab_size = vocab,
          .max_position_embeddings = 80,
          .tie_word_embeddings = tied};
}

// Ten times as large as at the start of a run: what blocks add then matters, and the likeliest token changes.
std::vector<float> weights_of(const ModelConfig& model) {
  std::vector<float> weights = draw_parameters(model, {0, model.num_hidden_layers}, 0, 7);
  for (float& weight : weights) weight = weight == 1.0F ? 1.0F : 10.0F * weight;
  return weights;
}

std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

std::int32_t likeliest(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
}

// The slow reference: all tokens through the blocks that training uses, each time anew.
std::vector<float> full_forward(const ModelConfig& model, std::vector<float>& weights,
                                const std::vector<std::int32_t>& ids) {
  const c10::InferenceMode no_autograd;
  const auto count = static_cast<std::int64_t>(ids.size());
  const StageParameters views =
      view_parameters(model, {0, model.num_hidden_layers}, 0,
                      at::from_blob(weights.data(), {static_cast<std::int64_t>(weights.size())}, at::kFloat));
  const Model blocks(model, {.sequences = 1, .seq_len = count});
  at::Tensor x = ops::embed(views.embedding, ids, at::kFloat);
  for (const BlockParameters& block : views.blocks) x = blocks.block(block, x, nullptr);
  const at::Tensor last = logits(views, x.narrow(0, count - 1, 1).contiguous(), model.rms_norm_eps);
  return copy_of({last.const_data_ptr<float>(), static_cast<std::size_t>(model.vocab_size)});
}

// Largest difference, relative to the largest value of the reference.
double distance(std::span<const float> made, const std::vector<float>& reference) {
  double difference = 0.0;
  double largest = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(made[i]) - static_cast<double>(reference[i])));
    largest = std::max(largest, std::abs(static_cast<double>(reference[i])));
  }
  return difference / largest;
}

class GeneratorTest : public testing::TestWithParam<Case> {};

TEST_P(GeneratorTest, GreedyIsThatOfAFullForwardWithoutACache) {
  const ModelConfig& model = GetParam().model;
  std::vector<float> weights = weights_of(model);
  Generator generator(model, weights, model.max_position_embeddings, 2);
  std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
  std::vector<float> made = copy_of(generator.begin(ids));
  std::vector<std::int32_t> seen;
  while (true) {
    const std::vector<float> reference = full_forward(model, weights, ids);
    // Sums of some hundred products of fp32 numbers, a few blocks deep.
    ASSERT_LT(distance(made, reference), 2e-5) << "after " << ids.size() << " tokens";
    ASSERT_EQ(likeliest(made), likeliest(reference)) << "after " << ids.size() << " tokens";
    if (generator.length() == generator.positions()) break;
    ids.push_back(likeliest(made));
    seen.push_back(ids.back());
    made = copy_of(generator.next(ids.back()));
  }
  EXPECT_EQ(static_cast<std::int64_t>(ids.size()), model.max_position_embeddings);
  // Not one token over and over: that would be equal by little.
  std::ranges::sort(seen);
  EXPECT_GT(std::ranges::unique(seen).begin() - seen.begin(), 3);
}

TEST_P(GeneratorTest, PromptAtOnceIsThePromptTokenByToken) {
  const ModelConfig& model = GetParam().model;
  const std::vector<float> weights = weights_of(model);
  const std::vector<std::int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5};
  Generator at_once(model, weights, 20, 1);
  Generator one_by_one(model, weights, 20, 1);
  at_once.begin(ids);
  one_by_one.begin(std::vector<std::int32_t>{ids.front()});
  for (std::size_t i = 1; i < ids.size(); ++i) one_by_one.next(ids[i]);
  EXPECT_EQ(at_once.length(), one_by_one.length());
  EXPECT_LT(distance(at_once.next(8), copy_of(one_by_one.next(8))), 2e-5);
}

TEST_P(GeneratorTest, ThreadsChangeNoBit) {
  const ModelConfig& model = GetParam().model;
  const std::vector<float> weights = weights_of(model);
  Generator one(model, weights, 30, 1);
  Generator three(model, weights, 30, 3);
  one.begin(std::vector<std::int32_t>{2});
  three.begin(std::vector<std::int32_t>{2});
  for (std::int32_t id = 0; id < 29; ++id) {
    const std::int32_t next = id * 5 % 16;
    ASSERT_EQ(copy_of(one.next(next)), copy_of(three.next(next))) << "token " << id;
  }
}

TEST_P(GeneratorTest, ANewTextForgetsTheOldOne) {
  const ModelConfig& model = GetParam().model;
  const std::vector<float> weights = weights_of(model);
  const std::vector<std::int32_t> ids = {3, 1, 4};
  Generator fresh(model, weights, 20, 1);
  Generator used(model, weights, 20, 1);
  used.begin(std::vector<std::int32_t>{9, 2, 6, 5, 3, 5, 8, 9, 7});
  used.next(9);
  used.begin(ids);
  fresh.begin(ids);
  EXPECT_EQ(used.length(), 3);
  EXPECT_EQ(copy_of(used.next(1)), copy_of(fresh.next(1)));
}

TEST_P(GeneratorTest, LossIsThatOfTheLogits) {
  const ModelConfig& model = GetParam().model;
  std::vector<float> weights = weights_of(model);
  const std::vector<std::int32_t> first = {3, 1, 4, 1, 5, 9, 2};
  const std::vector<std::int32_t> second = {6, 5, 3, 5, 8, 9, 7};
  double expected = 0.0;
  for (const auto& window : {first, second}) {
    for (std::size_t seen = 1; seen < window.size(); ++seen) {
      const auto logits =
          full_forward(model, weights, {window.begin(), window.begin() + static_cast<std::ptrdiff_t>(seen)});
      double sum = 0.0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      expected += std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(window[seen])]);
    }
  }
  const Evaluator evaluator(model, weights, 6, 1);
  std::vector<std::int32_t> both = first;
  both.insert(both.end(), second.begin(), second.end());
  EXPECT_NEAR(evaluator.loss(both) / expected, 1.0, 1e-5);
  EXPECT_NEAR((evaluator.loss(first) + evaluator.loss(second)) / expected, 1.0, 1e-5);
}

ModelConfig with_llama3_rope() {
  ModelConfig model = model_of(48, 40, 2, 6, 2, 53);
  model.rope_theta = 500.0;
  model.rope_scaling = RopeScaling{.factor = 4.0, .original_max_position_embeddings = 32};
  return model;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GeneratorTest,
    testing::Values(Case{"even", model_of(64, 128, 3, 4, 4, 256)},        // all multiples of the lanes
                    Case{"odd", model_of(30, 37, 2, 5, 5, 53)},           // none of them
                    Case{"grouped", model_of(96, 80, 2, 6, 2, 70)},       // three heads share a key head
                    Case{"one_key_head", model_of(32, 40, 2, 4, 1, 41)},  // fewer key heads than threads
                    Case{"tied", model_of(64, 96, 2, 2, 1, 128, true)}, Case{"llama3_rope", with_llama3_rope()}));

TEST(TokenKernels, MatrixTimesVectorForAnySize) {
  for (const std::int64_t width : {1, 15, 16, 17, 64, 100}) {
    for (const std::int64_t rows : {1, 3, 4, 5, 9}) {
      const std::int64_t stride = width + 3;
      std::vector<float> matrix;
      std::vector<float> x;
      for (std::int64_t i = 0; i < rows * stride; ++i) matrix.push_back(static_cast<float>(i * 7 % 11 - 5));
      for (std::int64_t i = 0; i < width; ++i) x.push_back(static_cast<float>(i * 5 % 7 - 3));
      std::vector<float> out(static_cast<std::size_t>(rows), 100.0F);
      std::vector<float> sum = out;
      kernels::matrix_vector(matrix.data(), stride, x.data(), rows, width, kernels::Into::replace, out.data());
      kernels::matrix_vector(matrix.data(), stride, x.data(), rows, width, kernels::Into::add, sum.data());
      for (std::int64_t r = 0; r < rows; ++r) {
        float expected = 0.0F;  // small whole numbers: exact
        for (std::int64_t i = 0; i < width; ++i) {
          expected += matrix[static_cast<std::size_t>(r * stride + i)] * x[static_cast<std::size_t>(i)];
        }
        EXPECT_EQ(out[static_cast<std::size_t>(r)], expected) << rows << " x " << width;
        EXPECT_EQ(sum[static_cast<std::size_t>(r)], 100.0F + expected) << rows << " x " << width;
      }
    }
  }
}

TEST(TokenKernels, ExponentialsOfAnySizeAddUp) {
  std::vector<float> x = {300.0F, 299.0F, -300.0F};
  const float sum = kernels::scaled_exponentials(x.data(), 3, 0.5F);
  EXPECT_NEAR(sum, 1.0 + std::exp(-0.5), 1e-6);
  EXPECT_EQ(x[0], 1.0F);
  EXPECT_EQ(x[2], 0.0F);
}

}  // namespace
}  // namespace starling::trainer
