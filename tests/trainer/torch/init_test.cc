#include "trainer/torch/init.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace starling::trainer {
namespace {

ModelConfig small() {
  return {.hidden_size = 64,
          .intermediate_size = 96,
          .num_hidden_layers = 8,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .vocab_size = 256,
          .max_position_embeddings = 64};
}

std::map<std::string, std::vector<float>> by_name(std::int64_t stages, std::uint64_t seed) {
  std::map<std::string, std::vector<float>> out;
  const auto cut = *cut_into_stages(small(), stages, {});
  for (Stage stage = 0; stage < stages; ++stage) {
    const StageLayers& layers = cut[static_cast<std::size_t>(stage)];
    const std::vector<float> flat = draw_parameters(small(), layers, stage, seed);
    std::span<const float> rest(flat);
    for (const ParameterSpec& spec : stage_parameters(small(), layers, stage)) {
      const std::span<const float> values = rest.first(static_cast<std::size_t>(spec.count()));
      out[spec.name] = {values.begin(), values.end()};
      rest = rest.subspan(values.size());
    }
    EXPECT_TRUE(rest.empty());
  }
  return out;
}

double deviation(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST(Init, DoesNotDependOnTheCut) {
  const auto whole = by_name(1, 42);
  EXPECT_EQ(whole, by_name(3, 42));
  EXPECT_EQ(whole, by_name(8, 42));
  EXPECT_NE(whole, by_name(1, 43));
}

TEST(Init, EveryMatrixHasItsOwnNumbersOfTheRightSize) {
  const auto weights = by_name(2, 1);
  EXPECT_NE(weights.at("model.layers.0.self_attn.q_proj.weight"), weights.at("model.layers.1.self_attn.q_proj.weight"));
  // Of n values the deviation is known to 1 / sqrt(2 n): 1 % for 4096 values; five times that.
  EXPECT_NEAR(deviation(weights.at("model.layers.5.self_attn.q_proj.weight")), 0.02, 0.001);
  EXPECT_NEAR(deviation(weights.at("model.embed_tokens.weight")), 0.02, 0.001);
  EXPECT_NEAR(deviation(weights.at("lm_head.weight")), 0.02, 0.001);
  EXPECT_NEAR(deviation(weights.at("model.layers.5.self_attn.o_proj.weight")), 0.02 / 4.0, 0.00025);
  EXPECT_NEAR(deviation(weights.at("model.layers.0.mlp.down_proj.weight")), 0.02 / 4.0, 0.00025);
  EXPECT_EQ(weights.at("model.norm.weight"), std::vector<float>(64, 1.0F));
}

TEST(Init, StaysWhatItWas) {
  // Runs of different versions must agree on their weights; a change here breaks joining a run that began before it.
  const auto weights = by_name(1, 7);
  const std::vector<float>& q = weights.at("model.layers.0.self_attn.q_proj.weight");
  EXPECT_FLOAT_EQ(q[0], 0.016220644F);
  EXPECT_FLOAT_EQ(q[1], -0.0094316183F);
  EXPECT_FLOAT_EQ(q.back(), 0.010454163F);
}

}  // namespace
}  // namespace starling::trainer
