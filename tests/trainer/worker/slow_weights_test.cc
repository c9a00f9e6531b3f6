#include "trainer/worker/slow_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <numeric>

namespace starling::trainer {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

// What an outer step means is tested through jobs, by compute_conformance.h; here is what only this file does.

Buffer fp32(const std::vector<float>& values) { return encode_values(values, Encoding::fp32); }

TEST(DecodePart, RefusesAnotherSizeBeforeItAllocates) {
  EXPECT_THAT(decode_part({.bytes = fp32({1, 2})}, std::int64_t{1} << 60).error().message, HasSubstr("got 8 bytes"));
  EXPECT_THAT(decode_part({}, 1).error().message, HasSubstr("got 0 bytes"));
  EXPECT_FALSE(decode_part({.bytes = fp32({1, 2}), .encoding = Encoding::bf16}, 2));
  EXPECT_THAT(*decode_part({.bytes = fp32({1, 2})}, 2), ElementsAre(1, 2));
}

TEST(AllFinite, FindsTheOneThatIsNot) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t at : {0u, 1u, 4095u, 4096u, 9999u}) {
      std::vector<float> values(10'000, std::numeric_limits<float>::max());
      EXPECT_TRUE(all_finite(values));
      values[at] = bad;
      EXPECT_FALSE(all_finite(values)) << at;
    }
  }
  EXPECT_TRUE(all_finite({}));
  EXPECT_TRUE(all_finite(std::vector<float>{-std::numeric_limits<float>::max(), 1e-45F}));
}

TEST(SlowWeights, MomentumCarriesOver) {
  SlowWeights slow({0.0F});
  const std::vector<float> ahead = {1.0F};
  slow.outer_step(ahead, {.alpha = 0.5, .beta = 1.0, .gamma = 0.7});
  EXPECT_THAT(slow.phi(), ElementsAre(1.0F));
  slow.outer_step(slow.phi(), {.alpha = 0.5, .beta = 1.0, .gamma = 0.7});  // no delta: momentum alone
  EXPECT_THAT(slow.phi(), ElementsAre(1.5F));
}

TEST(SlowWeights, AContributionOfAnotherSizeIsLeftOut) {
  SlowWeights slow({1.0F, 1.0F});
  const std::vector<float> theta = {2.0F, 2.0F};
  const OuterStepped out =
      slow.outer_step(theta, {.others = {fp32({1, 1, 1}), nullptr}, .encoding = Encoding::fp32, .beta = 1.0});
  EXPECT_EQ(out.averaged_with, 0);
  EXPECT_EQ(out.rejected_non_finite, 2);
  EXPECT_THAT(slow.phi(), ElementsAre(2.0F, 2.0F));
}

TEST(SlowWeights, ADeltaThatIsNotFiniteIsNone) {
  const std::vector<float> diverged = {2.0F, std::numeric_limits<float>::quiet_NaN()};
  SlowWeights slow({1.0F, 1.0F});
  const Buffer sent = slow.snapshot(diverged, Encoding::fp32);
  EXPECT_EQ(*sent, *fp32({1, 1, 0, 0}));
  slow.outer_step(diverged, {.alpha = 0.5, .beta = 1.0, .gamma = 0.7});
  EXPECT_THAT(slow.phi(), ElementsAre(1.0F, 1.0F));
  slow.outer_step(diverged, {.alpha = 0.5, .beta = 1.0, .gamma = 0.7});
  EXPECT_THAT(slow.phi(), ElementsAre(1.0F, 1.0F));
}

TEST(SlowWeights, ADeltaThatHasLeftEverythingBehindIsNone) {
  const std::vector<float> far = {2.0F, 1.0e12F};
  SlowWeights slow({1.0F, 1.0F});
  EXPECT_EQ(*slow.snapshot(far, Encoding::fp32), *fp32({1, 1, 0, 0}));
  slow.outer_step(far, {.alpha = 0.5, .beta = 1.0, .gamma = 0.7});
  EXPECT_THAT(slow.phi(), ElementsAre(1.0F, 1.0F));
  const std::vector<float> fast = {51.0F, 51.0F};
  EXPECT_EQ(*slow.snapshot(fast, Encoding::fp32), *fp32({1, 1, 50, 50}));
}

class Neighbours : public testing::Test {
 protected:
  Neighbours()
      : model_{.hidden_size = 4,
               .intermediate_size = 4,
               .num_hidden_layers = 6,
               .num_attention_heads = 2,
               .num_key_value_heads = 1,
               .vocab_size = 10,
               .max_position_embeddings = 8},
        cut_(*cut_into_stages(model_, 3, {2, 3, 1})),
        block_(static_cast<std::size_t>(parameter_count(model_, {0, 1}, 1))) {}

  // A flat array whose blocks hold the given values; what surrounds those of stage 0 holds -1.
  Buffer stage_of(Stage stage, const std::vector<float>& blocks) const {
    std::vector<float> flat;
    const std::size_t outside = stage == 0 ? 40 : 0;
    flat.assign(outside, -1.0F);
    for (const float value : blocks) flat.insert(flat.end(), block_, value);
    flat.insert(flat.end(), stage == 0 ? 4 + (model_.tie_word_embeddings ? 0 : 40) : 0, -1.0F);
    EXPECT_EQ(static_cast<std::int64_t>(flat.size()),
              parameter_count(model_, cut_[static_cast<std::size_t>(stage)], stage));
    return fp32(flat);
  }
  // One value per block of the result.
  std::vector<float> blocks_of(const std::vector<float>& flat) const {
    std::vector<float> out;
    for (std::size_t from = 0; from < flat.size(); from += block_) {
      EXPECT_THAT(std::vector<float>(flat.begin() + static_cast<std::ptrdiff_t>(from),
                                     flat.begin() + static_cast<std::ptrdiff_t>(from + block_)),
                  Each(flat[from]));
      out.push_back(flat[from]);
    }
    return out;
  }

  ModelConfig model_;
  std::vector<StageLayers> cut_;
  std::size_t block_;
};

TEST_F(Neighbours, BlocksAreAveragedAndTheLastOneStandsForTheMissing) {
  for (const bool tied : {false, true}) {
    model_.tie_word_embeddings = tied;
    const auto made = average_of_neighbours(model_, cut_,
                                            {.stage = 1,
                                             .left = {stage_of(0, {8, 16}), Encoding::fp32},
                                             .right = EncodedPart{stage_of(2, {4}), Encoding::fp32},
                                             .left_weight = 0.25});
    ASSERT_TRUE(made) << made.error().message;
    EXPECT_THAT(blocks_of(*made), ElementsAre(5, 7, 7));
  }
}

TEST_F(Neighbours, TheLastStageIsACopyOfTheOneBefore) {
  const auto made = average_of_neighbours(
      model_, cut_,
      {.stage = 2, .left = {stage_of(1, {1, 2, 3}), Encoding::fp32}, .right = std::nullopt, .left_weight = 0.3});
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_THAT(blocks_of(*made), ElementsAre(1));
}

TEST_F(Neighbours, WhatCannotBeMadeIsSaid) {
  const EncodedPart good{stage_of(1, {1, 2, 3}), Encoding::fp32};
  const auto message = [&](const LoadFromNeighbours& job) {
    const auto made = average_of_neighbours(model_, cut_, job);
    EXPECT_FALSE(made);
    return made ? std::string() : made.error().message;
  };
  EXPECT_THAT(message({.stage = 0, .left = good}), HasSubstr("stage 0"));
  EXPECT_THAT(message({.stage = 1, .left = good}), HasSubstr("expected"));  // the size of another stage
  EXPECT_THAT(message({.stage = 2, .left = good, .right = good}), HasSubstr("no right neighbour"));
  EXPECT_THAT(message({.stage = 2, .left = good, .right = {}, .left_weight = 1.5}), HasSubstr("weight from 0 to 1"));
}

}  // namespace
}  // namespace starling::trainer
