#include "launcher/checkpoint_collector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "tests/trainer/data/scratch_files.h"
#include "trainer/worker/compute.h"

namespace starling::launcher {
namespace {

using namespace std::chrono_literals;
using trainer::StatePart;

class CheckpointCollectorTest : public testing::Test {
 protected:
  CheckpointCollector::Config config() const {
    const trainer::ModelConfig model{.hidden_size = 8,
                                     .intermediate_size = 8,
                                     .num_hidden_layers = 2,
                                     .num_attention_heads = 2,
                                     .num_key_value_heads = 1,
                                     .vocab_size = 16,
                                     .max_position_embeddings = 8};
    return {.directory = directory_ / "checkpoints",
            .keep = 2,
            .plan = {.model = model,
                     .cut = {{0, 1}, {1, 2}},
                     .special = {},
                     .run_file = "version: 1\n",
                     .run_id = std::string(32, 'a'),
                     .config_hash = std::string(64, 'b')}};
  }
  static NodeId node(int number) {
    NodeId id;
    id.key.back() = static_cast<std::byte>(number);
    return id;
  }
  std::int64_t count(Stage stage) const {
    const auto plan = config().plan;
    return trainer::parameter_count(plan.model, plan.cut[static_cast<std::size_t>(stage)], stage);
  }
  static net::CheckpointPart part(Stage stage, StatePart which, Round round = 3, std::int32_t replicas = 2) {
    return {.stage = stage, .step = round * 10, .round = round, .part = static_cast<std::uint8_t>(which), .adam_steps = 29,
            .replicas = replicas};
  }
  void give(CheckpointCollector& to, int from, const net::CheckpointPart& about, float value) {
    const std::vector<float> values(static_cast<std::size_t>(count(about.stage)), value);
    Bytes bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    ASSERT_TRUE(to.wants(about, bytes.size()));
    to.came(node(from), about, bytes, now_);
  }
  void give_state(CheckpointCollector& to, int from, Stage stage, Round round = 3) {
    give(to, from, part(stage, StatePart::momentum, round), 0.5F);
    give(to, from, part(stage, StatePart::adam_m, round), 0.25F);
    give(to, from, part(stage, StatePart::adam_v, round), 0.125F);
  }

  trainer::ScratchFolder files_;
  std::filesystem::path directory_ = files_.path("");
  TimePoint now_{};
};

TEST_F(CheckpointCollectorTest, WritesTheMeanOfTheReplicasOfEachStageOnceAllHaveCome) {
  CheckpointCollector collector(config());
  for (const Stage stage : {0, 1}) {
    give(collector, 1, part(stage, StatePart::phi), 1.0F);
    give_state(collector, 1, stage);
  }
  give(collector, 2, part(0, StatePart::phi), 3.0F);
  EXPECT_TRUE(collector.look(1000, now_).empty()) << "stage 1 has another replica";
  EXPECT_TRUE(collector.busy());
  give(collector, 3, part(1, StatePart::phi), 2.0F);
  give(collector, 3, part(1, StatePart::phi), 9.0F);  // said twice, counted once
  const auto written = collector.finish(1000, now_);
  ASSERT_EQ(written.size(), 1U);
  ASSERT_TRUE(written[0].path) << written[0].path.error().message;
  EXPECT_EQ(written[0].step, 30);
  EXPECT_EQ(written[0].missed, "");
  const auto checkpoint = trainer::Checkpoint::open(*written[0].path);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->manifest().step, 30);
  EXPECT_EQ(checkpoint->manifest().round, 3);
  EXPECT_EQ(checkpoint->manifest().tokens, 1000);
  EXPECT_THAT(*checkpoint->weights().stage({0, 1}, 0), testing::Each(2.0F));
  EXPECT_THAT(*checkpoint->weights().stage({1, 2}, 1), testing::Each(1.5F));
  EXPECT_THAT(*checkpoint->array(1, "adam_v"), testing::Each(0.125F));
  EXPECT_THAT(checkpoint->scalars(1), testing::HasSubstr("29"));
  EXPECT_FALSE(collector.wants(part(0, StatePart::phi), static_cast<std::uint64_t>(count(0)) * 4)) << "that round is done";
}

TEST_F(CheckpointCollectorTest, WhatIsLateIsWrittenWithoutTheMissingAndSaysSo) {
  CheckpointCollector collector(config());
  give(collector, 1, part(0, StatePart::phi), 1.0F);
  give_state(collector, 1, 0);
  give(collector, 2, part(1, StatePart::phi, 3, 3), 1.0F);
  EXPECT_TRUE(collector.look(0, now_ + 29s).empty());
  EXPECT_TRUE(collector.look(0, now_ + 30s).empty()) << "it is being written";
  const auto written = collector.finish(0, now_ + 30s);
  ASSERT_EQ(written.size(), 1U);
  ASSERT_TRUE(written[0].path) << written[0].path.error().message;
  EXPECT_EQ(written[0].missed, "stage 0: slow weights of 1 of 2 replicas; stage 1: momentum, adam_m, adam_v, slow weights of "
                               "2 of 3 replicas");
  EXPECT_EQ(trainer::Checkpoint::open(*written[0].path)->manifest().missed.size(), 2U);
}

TEST_F(CheckpointCollectorTest, WithoutAStageThereIsNoCheckpoint) {
  CheckpointCollector collector(config());
  give(collector, 1, part(1, StatePart::phi), 1.0F);
  const auto lost = collector.finish(0, now_);
  ASSERT_EQ(lost.size(), 1U);
  ASSERT_FALSE(lost[0].path);
  EXPECT_THAT(lost[0].path.error().message, testing::HasSubstr("stage 0"));
}

TEST_F(CheckpointCollectorTest, NewerRoundsPushOlderOnesOut) {
  CheckpointCollector collector(config());
  for (const Round round : {3, 4, 5}) give(collector, 1, part(0, StatePart::phi, round), 1.0F);
  const auto lost = collector.look(0, now_);
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_EQ(lost[0].step, 30);
  EXPECT_FALSE(lost[0].path);
}

TEST_F(CheckpointCollectorTest, RefusesWhatFitsNoStage) {
  CheckpointCollector collector(config());
  const auto bytes = static_cast<std::uint64_t>(count(0)) * 4;
  EXPECT_TRUE(collector.wants(part(0, StatePart::phi), bytes));
  EXPECT_FALSE(collector.wants(part(0, StatePart::phi), bytes + 4));
  EXPECT_FALSE(collector.wants(part(2, StatePart::phi), bytes));
  EXPECT_FALSE(collector.wants(part(-1, StatePart::phi), bytes));
  EXPECT_FALSE(collector.wants(part(0, StatePart::theta), bytes));
}

TEST_F(CheckpointCollectorTest, ADiskThatRefusesEndsThatCheckpointAlone) {
  CheckpointCollector::Config blocked = config();
  std::ofstream(directory_ / "checkpoints") << "a file where the folder should be";
  CheckpointCollector collector(blocked);
  for (const Stage stage : {0, 1}) {
    give(collector, 1, part(stage, StatePart::phi, 3, 1), 1.0F);
    give_state(collector, 1, stage);
  }
  const auto lost = collector.finish(0, now_ + 60s);
  ASSERT_EQ(lost.size(), 1U);
  EXPECT_FALSE(lost[0].path);
  EXPECT_FALSE(collector.busy());
}

}  // namespace
}  // namespace starling::launcher
