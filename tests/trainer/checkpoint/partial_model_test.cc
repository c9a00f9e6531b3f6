#include "trainer/checkpoint/partial_model.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/trainer/checkpoint/tensor_files.h"
#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

class PartialModelTest : public testing::TestWithParam<bool> {
 protected:
  PartialModelTest() {
    model_.tie_word_embeddings = GetParam();
    model_.num_hidden_layers = 7;
    cut_ = *cut_into_stages(model_, 3, {2, 3, 2});
    auto writer = SafetensorsWriter::create(folder_.path(single_file),
                                            model_tensors(model_, {0, 7}, 0, WeightDtype::float32), model_metadata());
    EXPECT_TRUE(writer && writer->append(known_stage(model_, {0, 7}, 0)) && writer->finish());
  }
  Result<PartialModel> read(const std::vector<Stage>& skipped) const {
    return read_without(*ModelReader::open(folder_.path(""), model_), model_, cut_, skipped);
  }
  // The values of parameters `named` of the whole model.
  static std::vector<float> values(const std::vector<ParameterSpec>& named) {
    std::vector<float> out;
    for (const ParameterSpec& spec : named) {
      for (std::int64_t i = 0; i < spec.count(); ++i) out.push_back(known_value(spec.name, i));
    }
    return out;
  }

  const ScratchFolder folder_;
  ModelConfig model_ = tiny_model();
  std::vector<StageLayers> cut_;
};

TEST_P(PartialModelTest, WithoutNothingIsTheWholeModel) {
  const auto whole = read({});
  ASSERT_TRUE(whole) << whole.error().message;
  EXPECT_EQ(whole->model.num_hidden_layers, 7);
  EXPECT_EQ(whole->weights, known_stage(model_, {0, 7}, 0));
}

TEST_P(PartialModelTest, WithoutAStageTheOthersFollowEachOther) {
  const auto left = read({1});
  ASSERT_TRUE(left) << left.error().message;
  EXPECT_EQ(left->model.num_hidden_layers, 4);
  std::vector<ParameterSpec> expected;
  for (const ParameterSpec& spec : stage_parameters(model_, {0, 7}, 0)) {
    const bool skipped = spec.name.starts_with("model.layers.2.") || spec.name.starts_with("model.layers.3.") ||
                         spec.name.starts_with("model.layers.4.");
    if (!skipped) expected.push_back(spec);
  }
  EXPECT_EQ(left->weights, values(expected));
  EXPECT_EQ(static_cast<std::int64_t>(left->weights.size()), parameter_count(left->model, {0, 4}, 0));
}

TEST_P(PartialModelTest, StageZeroAloneIsLeft) {
  const auto left = read({2, 1});
  ASSERT_TRUE(left) << left.error().message;
  EXPECT_EQ(left->model.num_hidden_layers, 2);
  EXPECT_EQ(left->weights, known_stage(left->model, {0, 2}, 0));
}

TEST_P(PartialModelTest, RefusesStagesThatCannotBeLeftOut) {
  const auto refusal = [&](const std::vector<Stage>& skipped) {
    const auto left = read(skipped);
    EXPECT_TRUE(left || left.error().code == ErrorCode::usage);
    return left ? "accepted" : left.error().message;
  };
  EXPECT_EQ(refusal({0}), "stage 0 cannot be skipped: it has the embedding and the head");
  EXPECT_EQ(refusal({3}), "there is no stage 3: expected 1 to 2");
  EXPECT_EQ(refusal({-1}), "there is no stage -1: expected 1 to 2");
  EXPECT_EQ(refusal({1, 1}), "stage 1 is named twice");
  cut_ = *cut_into_stages(model_, 1, {});
  EXPECT_EQ(refusal({1}), "there is no stage 1: the model is in one stage, which cannot be skipped");
}

INSTANTIATE_TEST_SUITE_P(Head, PartialModelTest, testing::Bool());

}  // namespace
}  // namespace starling::trainer
