#include "trainer/checkpoint/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/trainer/checkpoint/tensor_files.h"
#include "tests/trainer/data/scratch_files.h"
#include "trainer/checkpoint/hf_config.h"

namespace starling::trainer {
namespace {

using testing::HasSubstr;

void write_file(const std::filesystem::path& path, const std::vector<TensorPlan>& tensors) {
  auto writer = SafetensorsWriter::create(path, tensors, model_metadata());
  ASSERT_TRUE(writer) << writer.error().message;
  for (const TensorPlan& tensor : tensors) {
    std::vector<float> values;
    for (std::int64_t i = 0; i < tensor.count(); ++i) values.push_back(known_value(tensor.name, i));
    ASSERT_TRUE(writer->append(values));
  }
  ASSERT_TRUE(writer->finish());
}

class ModelFiles : public testing::Test {
 protected:
  void write_stages(const ModelConfig& model, std::int64_t stages, WeightDtype dtype = WeightDtype::float32) {
    const auto cut = *cut_into_stages(model, stages, {});
    for (std::size_t i = 0; i < cut.size(); ++i) {
      const auto stage = static_cast<Stage>(i);
      write_file(folder_.path(model_file_name(stage, stages)), model_tensors(model, cut[i], stage, dtype));
    }
    folder_.write(index_file, index_text(model, cut, dtype));
  }
  // model.safetensors of these tensors.
  void write_single(const std::vector<TensorPlan>& tensors) { write_file(folder_.path(single_file), tensors); }
  static std::vector<TensorPlan> all(const ModelConfig& model) {
    return model_tensors(model, {0, model.num_hidden_layers}, 0, WeightDtype::float32);
  }
  std::string refusal(const ModelConfig& model) const {
    const auto read = ModelReader::open(folder_.path(""), model);
    return read ? "accepted" : read.error().message;
  }
  void expect_known(const std::filesystem::path& directory, const ModelConfig& model, std::int64_t stages) const {
    const auto reader = ModelReader::open(directory, model);
    ASSERT_TRUE(reader) << reader.error().message;
    const auto cut = *cut_into_stages(model, stages, {});
    for (std::size_t i = 0; i < cut.size(); ++i) {
      const auto values = reader->stage(cut[i], static_cast<Stage>(i));
      ASSERT_TRUE(values) << values.error().message;
      EXPECT_EQ(*values, known_stage(model, cut[i], static_cast<Stage>(i))) << i;
    }
  }

  const ScratchFolder folder_;
  ModelConfig model_ = tiny_model();
};

TEST_F(ModelFiles, AnyCutIsReadFromAnyFiles) {
  for (const bool tied : {false, true}) {
    for (const std::int64_t written : {1, 2, 3}) {
      for (const WeightDtype dtype : {WeightDtype::float32, WeightDtype::bfloat16}) {
        for (const auto& entry : std::filesystem::directory_iterator(folder_.path(""))) std::filesystem::remove(entry);
        model_.tie_word_embeddings = tied;
        write_stages(model_, written, dtype);
        for (const std::int64_t read : {1, 2, 3}) expect_known(folder_.path(""), model_, read);
      }
    }
  }
}

// Directories that transformers saved: untied in one file, tied and sharded.
TEST_F(ModelFiles, ReadsWhatTransformersWrote) {
  const auto golden = std::filesystem::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden/safetensors";
  for (const char* name : {"untied", "tied"}) {
    const auto config = read_hf_config(golden / name);
    ASSERT_TRUE(config) << config.error().message;
    for (const std::int64_t stages : {1, 3}) expect_known(golden / name, config->model, stages);
  }
  EXPECT_FALSE(std::filesystem::exists(golden / "tied" / single_file)) << "it is the sharded one";
}

TEST_F(ModelFiles, TheIndexCountsItsBytes) {
  const auto cut = *cut_into_stages(model_, 2, {});
  const auto index = nlohmann::json::parse(index_text(model_, cut, WeightDtype::bfloat16));
  EXPECT_EQ(index["metadata"]["total_size"], 2 * parameter_count(model_, {0, 3}, 0));
  EXPECT_EQ(index["weight_map"].size(), all(model_).size());
  EXPECT_EQ(index["weight_map"]["model.layers.2.mlp.up_proj.weight"], "model-00002-of-00002.safetensors");
  EXPECT_EQ(index["weight_map"]["lm_head.weight"], "model-00001-of-00002.safetensors");
}

TEST_F(ModelFiles, ATensorThatIsMissingSurplusOrOfAnotherShape) {
  auto tensors = all(model_);
  EXPECT_THAT(refusal(model_),
              HasSubstr("expected model.safetensors or model.safetensors.index.json there, got neither"));
  tensors.erase(tensors.begin() + 3, tensors.begin() + 9);
  write_single(tensors);
  EXPECT_THAT(refusal(model_), HasSubstr("6 tensors (model.layers.0."));
  EXPECT_THAT(refusal(model_), HasSubstr(", ...) missing"));
  std::filesystem::remove(folder_.path(single_file));
  tensors = all(model_);
  tensors.push_back({"model.layers.0.self_attn.q_proj.bias", WeightDtype::float32, {16}});
  write_single(tensors);
  EXPECT_THAT(refusal(model_), HasSubstr("1 tensor (model.layers.0.self_attn.q_proj.bias) that no Llama model"));
  std::filesystem::remove(folder_.path(single_file));
  tensors.back().name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  write_single(tensors);
  EXPECT_EQ(refusal(model_), "accepted");
  ModelConfig wider = model_;
  wider.intermediate_size = 32;
  EXPECT_THAT(refusal(wider), HasSubstr("config.json asks for shape [16, 32], got [16, 24]"));
}

TEST_F(ModelFiles, ATensorThatIsNoWeight) {
  auto tensors = all(model_);
  write_single(tensors);
  // The same bytes under the name of integers.
  std::string text = read_text(folder_.path(single_file));
  const std::size_t at = text.find("F32");
  text.replace(at, 3, "I32");
  folder_.write(single_file, text);
  EXPECT_THAT(refusal(model_), HasSubstr("expected weights of F32, BF16 or F16, got I32"));
}

TEST_F(ModelFiles, AHeadBesideATieMustBeTheEmbedding) {
  model_.tie_word_embeddings = true;
  auto tensors = all(model_);
  tensors.push_back({"lm_head.weight", WeightDtype::float32, {32, 16}});
  write_single(tensors);
  const auto reader = ModelReader::open(folder_.path(""), model_);
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_THAT(reader->stage({0, 3}, 0).error().message,
              HasSubstr("lm_head.weight differs from model.embed_tokens.weight"));
  // The head's bytes become the embedding's.
  std::string text = read_text(folder_.path(single_file));
  const std::size_t bytes = 32 * 16 * sizeof(float);
  const std::size_t data =
      text.size() - static_cast<std::size_t>(parameter_count(model_, {0, 3}, 0)) * sizeof(float) - bytes;
  text.replace(text.size() - bytes, bytes, text.substr(data, bytes));
  folder_.write(single_file, text);
  expect_known(folder_.path(""), model_, 1);
  // And a model without a tie needs the head.
  std::filesystem::remove(folder_.path(single_file));
  write_single(all(model_));
  model_.tie_word_embeddings = false;
  EXPECT_THAT(refusal(model_),
              HasSubstr("lm_head.weight is missing; a model without it has tie_word_embeddings: true"));
}

TEST_F(ModelFiles, ValuesThatAreNotFiniteAreNamed) {
  write_stages(model_, 2);
  const std::string path = folder_.path(model_file_name(1, 2));
  std::string text = read_text(path);
  const float bad = std::numeric_limits<float>::infinity();
  std::memcpy(text.data() + text.size() - sizeof bad, &bad, sizeof bad);
  folder_.write(model_file_name(1, 2), text);
  const auto reader = ModelReader::open(folder_.path(""), model_);
  ASSERT_TRUE(reader);
  const auto cut = *cut_into_stages(model_, 2, {});
  EXPECT_TRUE(reader->stage(cut[0], 0));
  EXPECT_THAT(reader->stage(cut[1], 1).error().message,
              HasSubstr(path + ": tensor 'model.layers.2.mlp.down_proj.weight'"));
}

TEST_F(ModelFiles, AnIndexThatIsNoneOrLeadsElsewhere) {
  write_stages(model_, 2);
  const auto good = nlohmann::json::parse(read_text(folder_.path(index_file)));
  const auto with = [&](auto change) {
    auto index = good;
    change(index);
    folder_.write(index_file, index.dump());
    return refusal(model_);
  };
  const char* const tensor = "model.layers.2.mlp.up_proj.weight";
  EXPECT_EQ(with([](auto&) {}), "accepted");
  EXPECT_THAT(with([](auto& i) { i.erase("weight_map"); }), HasSubstr("expected an object weight_map"));
  EXPECT_THAT(with([](auto& i) { i["weight_map"] = {"a"}; }), HasSubstr("expected an object weight_map"));
  for (const char* elsewhere : {"../x.safetensors", "/etc/passwd", "..", ""}) {
    EXPECT_THAT(with([&](auto& i) { i["weight_map"][tensor] = elsewhere; }),
                HasSubstr("expected the name of a file in this directory"));
  }
  EXPECT_THAT(with([&](auto& i) { i["weight_map"][tensor] = 3; }),
              HasSubstr("expected the name of a file in this directory, got 3"));
  EXPECT_THAT(with([&](auto& i) { i["weight_map"][tensor] = "none.safetensors"; }),
              HasSubstr("says is in none.safetensors"));
  EXPECT_THAT(with([&](auto& i) { i["weight_map"][tensor] = "model-00001-of-00002.safetensors"; }),
              HasSubstr("says is in model-00001"));
  EXPECT_THAT(with([&](auto& i) { i["weight_map"].erase(tensor); }), HasSubstr("does not know"));
  folder_.write(index_file, "{");
  EXPECT_THAT(refusal(model_), HasSubstr("expected a JSON object"));
}

}  // namespace
}  // namespace starling::trainer
