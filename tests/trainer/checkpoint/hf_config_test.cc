#include "trainer/checkpoint/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/trainer/checkpoint/tensor_files.h"

namespace starling::trainer {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

json written(const ModelConfig& model = tiny_model(), const SpecialIds& special = {}) {
  return json::parse(hf_config_text(model, special, WeightDtype::float32));
}

HfConfig read(const json& config) {
  const auto out = parse_hf_config(config.dump());
  EXPECT_TRUE(out) << (out ? "" : out.error().message);
  return out.value_or(HfConfig{});
}

std::string refusal(const char* key, json value) {
  json config = written();
  config[key] = std::move(value);
  const auto out = parse_hf_config(config.dump());
  return out ? "accepted" : out.error().message;
}

TEST(HfConfig, WhatIsWrittenIsRead) {
  for (const bool tied : {false, true}) {
    for (const bool scaled : {false, true}) {
      ModelConfig model = tiny_model();
      model.tie_word_embeddings = tied;
      model.rope_theta = 500000.0;
      model.rms_norm_eps = 1e-6;
      if (scaled) model.rope_scaling = RopeScaling{32.0, 1.0, 4.0, 8192};
      const SpecialIds special{.bos = 1, .eos = {2, 7}, .pad = 0};
      const HfConfig back = read(written(model, special));
      EXPECT_THAT(differences(model, back.model, "a", "b"), IsEmpty());
      EXPECT_EQ(back.special, special);
    }
  }
}

TEST(HfConfig, BothSpellingsAreWritten) {
  ModelConfig model = tiny_model();
  model.rope_scaling = RopeScaling{8.0, 1.0, 4.0, 32};
  const json config = written(model);
  EXPECT_EQ(config["rope_theta"], 10000.0);
  EXPECT_EQ(config["rope_scaling"]["rope_type"], "llama3");
  EXPECT_EQ(config["rope_parameters"]["rope_theta"], 10000.0);
  EXPECT_EQ(config["rope_parameters"]["factor"], 8.0);
  EXPECT_EQ(config["torch_dtype"], "float32");
  EXPECT_EQ(config["dtype"], "float32");
  EXPECT_EQ(config["architectures"], json::array({"LlamaForCausalLM"}));
  EXPECT_TRUE(config["eos_token_id"].is_null());
}

TEST(HfConfig, ReadsEitherSpellingAlone) {
  json config = written();
  config.erase("rope_parameters");
  config["rope_theta"] = 5e5;
  EXPECT_EQ(read(config).model.rope_theta, 5e5);
  config["rope_scaling"] = {{"type", "llama3"},
                            {"factor", 2},
                            {"low_freq_factor", 1},
                            {"high_freq_factor", 4},
                            {"original_max_position_embeddings", 64}};
  EXPECT_EQ(read(config).model.rope_scaling, (RopeScaling{2.0, 1.0, 4.0, 64}));
  config = written();
  config.erase("rope_theta");
  config["rope_parameters"] = {{"rope_theta", 7e4}, {"rope_type", "default"}};
  EXPECT_EQ(read(config).model.rope_theta, 7e4);
}

TEST(HfConfig, MissingKeysMeanWhatTheyMeanInTransformers) {
  json config = {{"model_type", "llama"},  {"hidden_size", 64},        {"intermediate_size", 128},
                 {"num_hidden_layers", 2}, {"num_attention_heads", 4}, {"vocab_size", 256}};
  const ModelConfig model = read(config).model;
  EXPECT_EQ(model.num_key_value_heads, 4);
  EXPECT_EQ(model.rope_theta, 10000.0);
  EXPECT_EQ(model.rms_norm_eps, 1e-6);
  EXPECT_EQ(model.max_position_embeddings, 2048);
  EXPECT_FALSE(model.tie_word_embeddings);
  config.erase("hidden_size");
  EXPECT_THAT(parse_hf_config(config.dump()).error().message,
              HasSubstr("hidden_size: expected a whole number, got nothing"));
}

TEST(HfConfig, UnsupportedModelsAreRefusedByFieldAndValue) {
  EXPECT_EQ(refusal("attention_bias", false), "accepted");
  EXPECT_EQ(refusal("transformers_version", "5.0"), "accepted");
  EXPECT_THAT(refusal("model_type", "mistral"), HasSubstr("model_type: only llama is supported, got \"mistral\""));
  EXPECT_THAT(refusal("architectures", {"LlamaForSequenceClassification"}),
              HasSubstr("LlamaForSequenceClassification"));
  EXPECT_THAT(refusal("attention_bias", true), HasSubstr("attention_bias: only false is supported, got true"));
  EXPECT_THAT(refusal("mlp_bias", true), HasSubstr("mlp_bias: only false is supported, got true"));
  EXPECT_THAT(refusal("hidden_act", "gelu"), HasSubstr("hidden_act: only \"silu\" is supported, got \"gelu\""));
  EXPECT_THAT(refusal("sliding_window", 4096), HasSubstr("sliding_window: is not supported, got 4096"));
  EXPECT_THAT(refusal("quantization_config", {{"bits", 4}}), HasSubstr("quantization_config: is not supported"));
  EXPECT_THAT(refusal("head_dim", 8),
              HasSubstr("head_dim: only hidden_size / num_attention_heads = 4 is supported, got 8"));
  EXPECT_THAT(refusal("rope_parameters", {{"rope_type", "yarn"}, {"factor", 2.0}}),
              HasSubstr("rope_parameters.rope_type: only default and llama3 are supported, got \"yarn\""));
  EXPECT_THAT(refusal("rope_scaling", {{"type", "linear"}, {"factor", 2.0}}),
              HasSubstr("rope_scaling.type: only default and llama3"));
  EXPECT_THAT(refusal("rope_parameters", {{"rope_type", "llama3"}, {"factor", 2.0}}),
              HasSubstr("rope_parameters.low_freq_factor: expected a number, got nothing"));
  EXPECT_THAT(refusal("rope_parameters", {{"rope_theta", 5.0}, {"rope_type", "default"}}),
              HasSubstr("contradicts rope_theta"));
  EXPECT_THAT(refusal("partial_rotary_factor", 0.5),
              HasSubstr("partial_rotary_factor: only 1.0 is supported, got 0.5"));
}

TEST(HfConfig, WrongValuesAreRefusedAllAtOnce) {
  EXPECT_THAT(refusal("hidden_size", "16"), HasSubstr("hidden_size: expected a whole number, got \"16\""));
  EXPECT_THAT(refusal("hidden_size", 16.5), HasSubstr("got 16.5"));
  EXPECT_THAT(refusal("hidden_size", 18446744073709551615ULL), HasSubstr("hidden_size: expected a whole number"));
  EXPECT_THAT(refusal("hidden_size", -16), HasSubstr("hidden_size: expected 1 to"));
  EXPECT_THAT(refusal("num_key_value_heads", 3), HasSubstr("num_key_value_heads: expected a divisor"));
  EXPECT_THAT(refusal("tie_word_embeddings", "yes"), HasSubstr("tie_word_embeddings: expected true or false"));
  EXPECT_THAT(refusal("rms_norm_eps", "small"), HasSubstr("rms_norm_eps: expected a number"));
  EXPECT_THAT(refusal("rope_parameters", 3), HasSubstr("rope_parameters: expected an object, got 3"));
  EXPECT_THAT(refusal("eos_token_id", {1, "x"}), HasSubstr("eos_token_id: expected an id, got \"x\""));
  json config = written();
  config["mlp_bias"] = true;
  config["vocab_size"] = nullptr;
  EXPECT_THAT(parse_hf_config(config.dump()).error().message, AllOf(HasSubstr("mlp_bias"), HasSubstr("vocab_size")));
}

TEST(HfConfig, WhatIsNoJsonObjectIsRefused) {
  EXPECT_THAT(parse_hf_config("").error().message, HasSubstr("expected a JSON object"));
  EXPECT_THAT(parse_hf_config("[1]").error().message, HasSubstr("expected a JSON object, got another JSON value"));
  EXPECT_THAT(parse_hf_config(R"({"a": 1, "a": 2})").error().message, HasSubstr("the key 'a' twice"));
  EXPECT_THAT(parse_hf_config("{\"a\": \"\xff\"}").error().message, HasSubstr("text that is none"));
  const std::string deep = "{\"a\":" + std::string(1'000'000, '[');
  EXPECT_THAT(parse_hf_config(deep).error().message, HasSubstr("more than 16 levels"));
}

TEST(HfConfig, DifferencesNameTheFieldAndBothValues) {
  ModelConfig other = tiny_model();
  other.hidden_size = 128;
  other.rope_scaling = RopeScaling{};
  EXPECT_THAT(
      differences(tiny_model(), other, "in the file", "in the run"),
      ElementsAre("hidden_size: 16 in the file, 128 in the run", HasSubstr("rope_scaling: null in the file, {llama3")));
}

TEST(HfConfig, ReadsWhatTransformersWrote) {
  const auto folder = std::filesystem::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden/safetensors";
  const auto untied = read_hf_config(folder / "untied");
  ASSERT_TRUE(untied) << untied.error().message;
  EXPECT_THAT(differences(untied->model, tiny_model(), "a", "b"), IsEmpty());
  EXPECT_EQ(untied->special, (SpecialIds{.bos = 1, .eos = {2}, .pad = std::nullopt}));
  const auto tied = read_hf_config(folder / "tied");
  ASSERT_TRUE(tied) << tied.error().message;
  EXPECT_TRUE(tied->model.tie_word_embeddings);
  EXPECT_EQ(tied->model.rope_theta, 500000.0);
  EXPECT_EQ(tied->model.rope_scaling, (RopeScaling{8.0, 1.0, 4.0, 32}));
  EXPECT_THAT(read_hf_config(folder / "nowhere").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace starling::trainer
