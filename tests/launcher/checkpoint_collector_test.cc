#include "launcher/checkpoint_collector.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <limits>

#include "trainer/worker/slow_weights.h"

namespace starling::launcher {
namespace {

using testing::Each;
using testing::HasSubstr;
using trainer::StatePart;

constexpr Duration patience = std::chrono::seconds(30);

class FullDisk : public trainer::Disk {
 public:
  ssize_t write(int file, const void* bytes, std::size_t size) override {
    if (!full) return Disk::write(file, bytes, size);
    errno = ENOSPC;
    return -1;
  }
  int fsync(int file) override {
    if (!broken) return Disk::fsync(file);
    errno = EIO;
    return -1;
  }
  bool full = false;
  bool broken = false;
};

class CheckpointCollectorTest : public testing::Test {
 protected:
  CheckpointCollectorTest() : collector_(config()) { std::filesystem::remove_all(directory_); }
  ~CheckpointCollectorTest() override { std::filesystem::remove_all(directory_); }

  CheckpointCollector::Config config() {
    trainer::ModelConfig model;
    model.hidden_size = 8;
    model.intermediate_size = 8;
    model.num_hidden_layers = 2;
    model.num_attention_heads = 2;
    model.num_key_value_heads = 1;
    model.vocab_size = 16;
    model.max_position_embeddings = 8;
    cut_ = {{0, 1}, {1, 2}};
    model_ = model;
    return {.directory = directory_,
            .keep = 2,
            .plan = {.model = model, .cut = cut_, .special = {}, .run_file = "version: 1\n", .run_id = "ab", .config_hash = "cd"},
            .patience = patience,
            .disk = &disk_};
  }
  static NodeId node(int number) {
    NodeId out;
    out.key[0] = static_cast<std::byte>(number);
    return out;
  }
  std::int64_t parameters(Stage stage) const {
    return trainer::parameter_count(model_, cut_[static_cast<std::size_t>(stage)], stage);
  }
  // A part of `stage` at the end of `round`, a round of ten steps, all its values `value`.
  void send(int from, Stage stage, StatePart part, float value, Round round = 1, std::int32_t replicas = 2) {
    const std::vector<float> values(static_cast<std::size_t>(parameters(stage)), value);
    const Buffer bytes = trainer::encode_values(values, trainer::Encoding::fp32);
    const net::CheckpointPart about{stage, round * 10, round, static_cast<std::uint8_t>(part), 7, replicas};
    if (collector_.wants(about, bytes->size())) collector_.came(node(from), about, *bytes, now_);
  }
  void send_state(int from, Stage stage, Round round = 1) {
    send(from, stage, StatePart::momentum, 0.5F, round);
    send(from, stage, StatePart::adam_m, 0.25F, round);
    send(from, stage, StatePart::adam_v, 0.125F, round);
  }
  void send_all(Round round) {
    for (const Stage stage : {0, 1}) {
      send_state(1 + stage, stage, round);
      send(1 + stage, stage, StatePart::phi, 1.0F, round);
      send(3 + stage, stage, StatePart::phi, 2.0F, round);
    }
  }
  // The next `count` that are told; another thread writes.
  std::vector<CheckpointCollector::Outcome> outcomes(std::size_t count = 1) {
    std::vector<CheckpointCollector::Outcome> out;
    while (out.size() < count) {
      for (auto& told : collector_.look(123, now_)) out.push_back(std::move(told));
    }
    return out;
  }

  std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / ("starling_collector_test." + std::to_string(::getpid()));
  FullDisk disk_;
  trainer::ModelConfig model_;
  std::vector<trainer::StageLayers> cut_;
  CheckpointCollector collector_;
  TimePoint now_ = TimePoint{} + std::chrono::hours(1);
};

TEST_F(CheckpointCollectorTest, EachStageIsTheMeanOfItsReplicas) {
  send_all(1);
  const auto told = outcomes();
  ASSERT_EQ(told.size(), 1U);
  ASSERT_TRUE(told[0].path) << told[0].path.error().message;
  EXPECT_EQ(told[0].step, 10);
  EXPECT_EQ(told[0].missed, "");
  const auto checkpoint = trainer::Checkpoint::open(*told[0].path, &model_);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->manifest().round, 1);
  EXPECT_EQ(checkpoint->manifest().tokens, 123);
  for (const Stage stage : {0, 1}) {
    EXPECT_THAT(checkpoint->weights().stage(cut_[static_cast<std::size_t>(stage)], stage).value(), Each(1.5F));
    EXPECT_THAT(checkpoint->array(stage, "momentum").value(), Each(0.5F));
    EXPECT_THAT(checkpoint->array(stage, "adam_m").value(), Each(0.25F));
    EXPECT_THAT(checkpoint->array(stage, "adam_v").value(), Each(0.125F));
    EXPECT_THAT(checkpoint->scalars(stage), HasSubstr("\"adam_steps\": 7"));
  }
}

TEST_F(CheckpointCollectorTest, WaitsForAReplicaAndThenSaysWhatIsMissing) {
  send_all(1);
  send_state(1, 0, 2);
  send(1, 0, StatePart::phi, 1.0F, 2);
  send(2, 1, StatePart::phi, 1.0F, 2);
  EXPECT_EQ(outcomes().size(), 1U);  // the first round only
  EXPECT_TRUE(collector_.collects());
  now_ += patience;
  const auto told = outcomes();
  ASSERT_EQ(told.size(), 1U);
  ASSERT_TRUE(told[0].path);
  EXPECT_THAT(told[0].missed, HasSubstr("stage 0: slow weights of 1 of 2 replicas"));
  EXPECT_THAT(told[0].missed, HasSubstr("stage 1: momentum, adam_m, adam_v"));
  EXPECT_EQ(trainer::Checkpoint::open(*told[0].path)->manifest().missed.size(), 2U);
}

TEST_F(CheckpointCollectorTest, WithoutAnyWeightsOfAStageThereIsNoCheckpoint) {
  send(1, 0, StatePart::phi, 1.0F);
  now_ += patience;
  const auto told = outcomes();
  ASSERT_EQ(told.size(), 1U);
  ASSERT_FALSE(told[0].path);
  EXPECT_THAT(told[0].path.error().message, HasSubstr("nobody sent the weights of stage 1"));
}

TEST_F(CheckpointCollectorTest, WhatIsNotFiniteIsLeftOut) {
  send_all(1);
  send(1, 0, StatePart::phi, std::numeric_limits<float>::quiet_NaN(), 2);
  send(3, 0, StatePart::phi, 2.0F, 2);
  send_state(3, 0, 2);
  send_state(2, 1, 2);
  send(2, 1, StatePart::phi, 1.0F, 2);
  send(4, 1, StatePart::phi, 1.0F, 2);
  EXPECT_EQ(outcomes().size(), 1U);
  now_ += patience;
  const auto told = outcomes();
  ASSERT_EQ(told.size(), 1U);
  ASSERT_TRUE(told[0].path);
  EXPECT_THAT(trainer::Checkpoint::open(*told[0].path)->weights().stage(cut_[0], 0).value(), Each(2.0F));
  EXPECT_THAT(told[0].missed, HasSubstr("stage 0: slow weights of 1 of 2 replicas"));
}

TEST_F(CheckpointCollectorTest, AFullDiskOrAFailedSyncEndsThatCheckpointOnly) {
  send_all(1);
  const auto first = outcomes();
  ASSERT_TRUE(first.at(0).path);
  disk_.full = true;
  send_all(2);
  const auto second = outcomes();
  ASSERT_EQ(second.size(), 1U);
  ASSERT_FALSE(second[0].path);
  EXPECT_EQ(second[0].path.error().code, ErrorCode::disk_full);
  disk_.full = false;
  disk_.broken = true;
  send_all(3);
  const auto third = outcomes();
  ASSERT_EQ(third.size(), 1U);
  EXPECT_FALSE(third[0].path);
  disk_.broken = false;
  EXPECT_TRUE(trainer::Checkpoint::open(*first[0].path));
  send_all(4);
  EXPECT_TRUE(outcomes().at(0).path);
}

TEST_F(CheckpointCollectorTest, RefusesWhatDoesNotFit) {
  const auto bytes = static_cast<std::uint64_t>(parameters(0)) * sizeof(float);
  net::CheckpointPart part{.stage = 0, .step = 10, .round = 1, .part = 0, .adam_steps = 0, .replicas = 1};
  EXPECT_TRUE(collector_.wants(part, bytes));
  EXPECT_FALSE(collector_.wants(part, bytes + 4));
  part.stage = 2;
  EXPECT_FALSE(collector_.wants(part, bytes));
  part = {.stage = 0, .step = 10, .round = 1, .part = static_cast<std::uint8_t>(StatePart::theta), .adam_steps = 0, .replicas = 1};
  EXPECT_FALSE(collector_.wants(part, bytes));
  send_all(1);
  outcomes();
  part.part = 0;
  EXPECT_FALSE(collector_.wants(part, bytes)) << "a round that is done with";
}

}  // namespace
}  // namespace starling::launcher
