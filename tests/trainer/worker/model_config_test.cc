#include "trainer/worker/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <set>

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ModelConfig small() {
  return {.hidden_size = 32,
          .intermediate_size = 48,
          .num_hidden_layers = 3,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .vocab_size = 256,
          .max_position_embeddings = 64};
}

std::vector<std::int64_t> counts(const std::vector<StageLayers>& cut) {
  std::vector<std::int64_t> out;
  for (const StageLayers& stage : cut) out.push_back(stage.last - stage.first);
  return out;
}

TEST(ModelConfig, DefaultsCanBeBuilt) { EXPECT_THAT(ModelConfig{}.validate(), IsEmpty()); }

TEST(ModelConfig, EveryProblemIsNamed) {
  ModelConfig model = small();
  model.model_type = "gpt2";
  model.hidden_size = 0;
  model.vocab_size = -1;
  model.rope_theta = 0.0;
  model.rms_norm_eps = 0.0;
  EXPECT_THAT(model.validate(),
              ElementsAre(HasSubstr("model_type: expected llama, got 'gpt2'"), HasSubstr("hidden_size: expected 1 to"),
                          HasSubstr("vocab_size: expected 1 to"), HasSubstr("rope_theta"), HasSubstr("rms_norm_eps")));
}

TEST(ModelConfig, RopeScalingIsChecked) {
  ModelConfig model = small();
  model.rope_scaling.emplace();
  EXPECT_THAT(model.validate(), IsEmpty());
  model.rope_scaling = {
      .factor = 0.5, .low_freq_factor = 4.0, .high_freq_factor = 4.0, .original_max_position_embeddings = 0};
  EXPECT_THAT(model.validate(),
              ElementsAre(HasSubstr("rope_scaling: factor: expected a number from 1 up, got 0.5"),
                          HasSubstr("rope_scaling: high_freq_factor: expected more than low_freq_factor 4, got 4"),
                          HasSubstr("rope_scaling: original_max_position_embeddings: expected 1 to")));
}

TEST(ModelConfig, HeadsMustDivide) {
  ModelConfig model = small();
  model.num_attention_heads = 5;
  model.num_key_value_heads = 3;
  EXPECT_THAT(model.validate(), ElementsAre(HasSubstr("num_attention_heads: expected a divisor of hidden_size 32"),
                                            HasSubstr("num_key_value_heads: expected a divisor")));
}

TEST(ModelConfig, HeadsOfOddWidthCannotBeRotated) {
  ModelConfig model = small();
  model.hidden_size = 12;
  EXPECT_THAT(model.validate(), ElementsAre(HasSubstr("odd width 3")));
}

TEST(CutIntoStages, RemainderGoesToMiddleStages) {
  ModelConfig model = small();
  model.num_hidden_layers = 14;
  EXPECT_THAT(counts(*cut_into_stages(model, 4, {})), ElementsAre(3, 4, 4, 3));
  EXPECT_THAT(counts(*cut_into_stages(model, 1, {})), ElementsAre(14));
}

TEST(CutIntoStages, TakesTheGivenCut) { EXPECT_THAT(counts(*cut_into_stages(small(), 2, {1, 2})), ElementsAre(1, 2)); }

TEST(CutIntoStages, RefusesWhatDoesNotFit) {
  const auto message = [](std::int64_t stages, std::vector<std::int64_t> layers) {
    return cut_into_stages(small(), stages, layers).error().message;
  };
  EXPECT_THAT(message(4, {}), HasSubstr("stages: expected 1 to 3"));
  EXPECT_THAT(message(0, {}), HasSubstr("stages: expected 1 to 3"));
  EXPECT_THAT(message(2, {1, 1, 1}), HasSubstr("expected 2 numbers"));
  EXPECT_THAT(message(2, {3, 0}), HasSubstr("blocks in each stage, got 0"));
  EXPECT_THAT(message(2, {1, 1}), HasSubstr("expected a sum of 3"));
}

RC_GTEST_PROP(CutIntoStages, CoversEveryBlockOnce, ()) {
  ModelConfig model = small();
  model.num_hidden_layers = *rc::gen::inRange<std::int64_t>(1, 200);
  const auto stages = *rc::gen::inRange<std::int64_t>(1, model.num_hidden_layers + 1);
  const auto cut = cut_into_stages(model, stages, {});
  RC_ASSERT(cut.has_value());
  RC_ASSERT(static_cast<std::int64_t>(cut->size()) == stages);
  std::int64_t next = 0;
  for (const StageLayers& stage : *cut) {
    RC_ASSERT(stage.first == next);
    RC_ASSERT(stage.last - stage.first >= cut->front().last - cut->front().first);  // stage 0 has the fewest
    RC_ASSERT(stage.last - stage.first <= cut->front().last - cut->front().first + 1);
    next = stage.last;
  }
  RC_ASSERT(next == model.num_hidden_layers);
}

TEST(StageParameters, HaveHuggingFaceNamesAndShapes) {
  const auto specs = stage_parameters(small(), {0, 1}, 0);
  std::vector<std::string> names;
  for (const ParameterSpec& spec : specs) names.push_back(spec.name);
  EXPECT_THAT(names, ElementsAre("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
                                 "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight",
                                 "model.layers.0.self_attn.v_proj.weight", "model.layers.0.self_attn.o_proj.weight",
                                 "model.layers.0.post_attention_layernorm.weight",
                                 "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
                                 "model.layers.0.mlp.down_proj.weight", "model.norm.weight", "lm_head.weight"));
  EXPECT_THAT(specs[0].shape, ElementsAre(256, 32));
  EXPECT_THAT(specs[3].shape, ElementsAre(16, 32));  // 2 key heads of width 8
  EXPECT_THAT(specs[7].shape, ElementsAre(48, 32));
  EXPECT_THAT(specs[9].shape, ElementsAre(32, 48));
}

TEST(StageParameters, ATiedHeadHasNoParameter) {
  ModelConfig model = small();
  model.tie_word_embeddings = true;
  EXPECT_EQ(stage_parameters(model, {0, 1}, 0).back().name, "model.norm.weight");
}

// Six for each weight of a matrix and, for attention, six for each of the T / 2 keys and values that a token sees on average.
TEST(TrainFlops, AreSixAWeightAndToken) {
  const ModelConfig model = small();
  std::int64_t weights = 0;
  for (const ParameterSpec& spec : stage_parameters(model, {0, 2}, 1)) weights += spec.shape.size() > 1 ? spec.count() : 0;
  const std::int64_t seen = 2 * 2 * (100 / 2) * model.num_attention_heads * model.head_dim();  // in both blocks: keys, values
  EXPECT_DOUBLE_EQ(train_flops_per_token(model, {0, 2}, 100), 6.0 * static_cast<double>(weights + seen));
  EXPECT_DOUBLE_EQ(head_train_flops_per_token(model), 6.0 * static_cast<double>(model.vocab_size * model.hidden_size));
}

TEST(StageParameters, AnyCutHasTheSameParametersInAll) {
  std::multiset<std::string> whole;
  for (const ParameterSpec& spec : stage_parameters(small(), {0, 3}, 0)) whole.insert(spec.name);
  std::multiset<std::string> pieces;
  const auto cut = *cut_into_stages(small(), 3, {});
  std::int64_t count = 0;
  for (Stage stage = 0; stage < 3; ++stage) {
    const StageLayers& layers = cut[static_cast<std::size_t>(stage)];
    for (const ParameterSpec& spec : stage_parameters(small(), layers, stage)) pieces.insert(spec.name);
    count += parameter_count(small(), layers, stage);
  }
  EXPECT_EQ(pieces, whole);
  EXPECT_EQ(count, parameter_count(small(), {0, 3}, 0));
  // Embedding and head 2 * 256 * 32, final norm 32, and three blocks of two norms, q and o, k and v, three of the MLP.
  EXPECT_EQ(count, 2 * 256 * 32 + 32 + 3 * (2 * 32 + 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32));
}

}  // namespace
}  // namespace starling::trainer
