#include "trainer/checkpoint/checkpoint_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <limits>

#include "tests/trainer/checkpoint/tensor_files.h"
#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

// A disk that breaks at its nth write or fsync and is well again afterwards.
class BadDisk final : public Disk {
 public:
  ssize_t write(int file, const void* bytes, std::size_t size) override {
    if (++writes == failing_write) {
      errno = ENOSPC;
      return -1;
    }
    // Short, as a system may: the rest follows.
    return Disk::write(file, bytes, (size + 1) / 2);
  }
  int fsync(int) override {
    if (++syncs != failing_sync) return 0;
    errno = EIO;
    return -1;
  }
  int writes = 0;
  int syncs = 0;
  int failing_write = 0;
  int failing_sync = 0;
};

class CheckpointDirectory : public testing::Test {
 protected:
  fs::path at(Step step) const { return checkpoints_ / checkpoint_name(step); }

  CheckpointPlan plan(Step step) const {
    return {.model = model_,
            .cut = cut_,
            .special = {.bos = 1, .eos = {2}, .pad = std::nullopt},
            .run_file = "version: 1\n",
            .run_id = "ab",
            .config_hash = "cd",
            .step = step,
            .round = step / 10,
            .tokens = step * 100};
  }
  static std::vector<float> array(Step step, float salt) { return {static_cast<float>(step), salt, -0.0F}; }

  // As a collector would: stage by stage, in pieces, the two files of a stage interleaved.
  Result<fs::path> write(Step step, Disk& disk = Disk::real()) const {
    auto writer = CheckpointWriter::begin(checkpoints_, plan(step), disk);
    if (!writer) return tl::unexpected(writer.error());
    for (const Stage stage : {1, 0}) {
      const StagePlan parts{.stage = stage,
                            .arrays = {{"adam_m", 3}, {"momentum", 3}},
                            .scalars = R"({"adam_steps": 7})",
                            .missed = stage == 1 ? "weights of step 9" : ""};
      if (Status ok = writer->begin_stage(parts); !ok) return tl::unexpected(ok.error());
      const std::vector<float> weights = known_stage(model_, cut_[static_cast<std::size_t>(stage)], stage);
      const std::span<const float> all(weights);
      if (Status ok = writer->weights(all.first(100)); !ok) return tl::unexpected(ok.error());
      if (Status ok = writer->state(array(step, 1.5F)); !ok) return tl::unexpected(ok.error());
      if (Status ok = writer->weights(all.subspan(100)); !ok) return tl::unexpected(ok.error());
      if (Status ok = writer->state(array(step, 2.5F)); !ok) return tl::unexpected(ok.error());
      if (Status ok = writer->end_stage(); !ok) return tl::unexpected(ok.error());
    }
    return writer->commit();
  }
  void write_good(Step step) const {
    const auto done = write(step);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_EQ(*done, at(step));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : fs::directory_iterator(checkpoints_)) out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }
  void flip(const fs::path& path, std::size_t from_end) const {
    std::string text = read_text(path);
    text[text.size() - from_end] = static_cast<char>(text[text.size() - from_end] ^ 4);
    std::ofstream(path, std::ios::binary) << text;
  }
  // What is wrong with the newest; the one before is found instead.
  std::string why_passed_over() const {
    const auto good = newest_good(checkpoints_, &model_);
    if (!good) return "none is good: " + good.error().message;
    EXPECT_EQ(good->checkpoint.manifest().step, 10);
    return good->passed_over.empty() ? "nothing" : good->passed_over.front();
  }

  const ScratchFolder folder_;
  const fs::path checkpoints_ = folder_.path("checkpoints");
  const ModelConfig model_ = tiny_model();
  const std::vector<StageLayers> cut_ = *cut_into_stages(model_, 2, {});
};

TEST_F(CheckpointDirectory, WhatIsWrittenIsRead) {
  write_good(20);
  const auto good = newest_good(checkpoints_, &model_);
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_THAT(good->passed_over, IsEmpty());
  const Checkpoint& checkpoint = good->checkpoint;
  EXPECT_EQ(checkpoint.path(), at(20));
  EXPECT_EQ(checkpoint.manifest().step, 20);
  EXPECT_EQ(checkpoint.manifest().round, 2);
  EXPECT_EQ(checkpoint.manifest().tokens, 2000);
  EXPECT_EQ(checkpoint.manifest().run_id, "ab");
  EXPECT_THAT(checkpoint.manifest().missed, ElementsAre(Missed{1, "weights of step 9"}));
  EXPECT_EQ(checkpoint.special().bos, 1);
  for (const Stage stage : {0, 1}) {
    const StageLayers& layers = cut_[static_cast<std::size_t>(stage)];
    EXPECT_EQ(*checkpoint.weights().stage(layers, stage), known_stage(model_, layers, stage));
    EXPECT_EQ(*checkpoint.array(stage, "adam_m"), array(20, 1.5F));
    EXPECT_EQ(*checkpoint.array(stage, "momentum"), array(20, 2.5F));
    EXPECT_EQ(checkpoint.array(stage, "adam_v").error().code, ErrorCode::not_found);
    EXPECT_THAT(checkpoint.arrays(stage), SizeIs(2));
    EXPECT_EQ(checkpoint.scalars(stage), R"({"adam_steps": 7})");
  }
  EXPECT_EQ(read_text(at(20) / "run.yaml"), "version: 1\n");
  EXPECT_THAT(names(), ElementsAre("step-000020"));
}

TEST_F(CheckpointDirectory, TheNewestGoodOneIsFound) {
  EXPECT_THAT(newest_good(checkpoints_).error().message, HasSubstr("has no checkpoint"));
  write_good(20);
  write_good(1'000'000);
  write_good(300);
  fs::create_directories(checkpoints_ / "step-9999999x");
  fs::create_directories(checkpoints_ / "other");
  EXPECT_EQ(newest_good(checkpoints_)->checkpoint.manifest().step, 1'000'000);
}

TEST_F(CheckpointDirectory, ADamagedOneIsPassedOverAndSaid) {
  write_good(10);
  const auto damaged = [&](auto damage) {
    fs::remove_all(at(20));
    write_good(20);
    damage(at(20));
    return why_passed_over();
  };
  const std::string model = model_file_name(1, 2);
  EXPECT_THAT(damaged([&](const fs::path& p) { flip(p / model, 5); }),
              HasSubstr("step-000020: " + (at(20) / model).string() + ": its hash"));
  EXPECT_THAT(damaged([&](const fs::path& p) { flip(p / "config.json", 30); }), HasSubstr("step-000020"));
  EXPECT_THAT(damaged([&](const fs::path& p) { flip(p / "run.yaml", 2); }), HasSubstr("run.yaml: its hash"));
  EXPECT_THAT(damaged([&](const fs::path& p) { flip(p / "state-00001-of-00002.safetensors", 1); }),
              HasSubstr("state-00001-of-00002.safetensors: its hash"));
  EXPECT_THAT(damaged([&](const fs::path& p) { flip(p / "manifest.json", 40); }), HasSubstr("manifest.json"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::resize_file(p / model, 1000); }),
              HasSubstr("got 1000: it was cut off or changed"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::resize_file(p / model, 0); }), HasSubstr("got 0"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::resize_file(p / "manifest.json", 0); }), HasSubstr("manifest.json"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::remove(p / model); }), HasSubstr(model + ": is missing"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::remove(p / "manifest.json"); }), HasSubstr("manifest.json"));
  EXPECT_THAT(damaged([&](const fs::path& p) {
                fs::remove(p / model);
                fs::create_directory(p / model);
              }),
              HasSubstr("expected a file"));
  EXPECT_THAT(damaged([&](const fs::path& p) {
                fs::remove(p / model);
                fs::create_symlink("/dev/zero", p / model);
              }),
              HasSubstr("expected a file"));
  EXPECT_THAT(damaged([&](const fs::path& p) { fs::copy(p / model, p / "model.safetensors"); }),
              HasSubstr("is not in manifest.json"));
}

// A value that no writer lets through, under hashes that hold.
TEST_F(CheckpointDirectory, AValueThatIsNotFiniteIsPassedOver) {
  for (const std::string name : {"model-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"}) {
    write_good(10);
    write_good(20);
    std::string text = read_text(at(20) / name);
    text.replace(text.size() - 4, 4, std::string("\0\0\xc0\x7f", 4));  // a quiet NaN
    std::ofstream(at(20) / name, std::ios::binary) << text;
    Manifest manifest = *parse_manifest(read_text(at(20) / "manifest.json"));
    for (ManifestFile& file : manifest.files) {
      if (file.name == name) file.digest.hash = xxh3_128(as_bytes(text));
    }
    std::ofstream(at(20) / "manifest.json", std::ios::binary) << manifest_text(manifest);
    EXPECT_THAT(why_passed_over(), AllOf(HasSubstr(name), HasSubstr("finite")));
  }
}

TEST_F(CheckpointDirectory, AnotherModelIsPassedOver) {
  write_good(10);
  ModelConfig other = model_;
  other.rope_theta = 5e5;
  EXPECT_THAT(newest_good(checkpoints_, &other).error().message,
              HasSubstr("holds another model: rope_theta: 10000 there, 500000 in this run"));
}

// Whichever write or fsync fails: that checkpoint is gone, the older one stands, and trying again works.
TEST_F(CheckpointDirectory, ADiskThatFailsOnceFailsTheCheckpointForGood) {
  write_good(10);
  BadDisk counting;
  ASSERT_TRUE(write(20, counting));
  const int writes = counting.writes;
  const int syncs = counting.syncs;
  ASSERT_GT(syncs, 8);  // two files a stage, four small ones, two directories
  for (int i = 1; i <= writes + syncs; ++i) {
    fs::remove_all(at(20));
    BadDisk disk;
    (i <= writes ? disk.failing_write : disk.failing_sync) = i <= writes ? i : i - writes;
    const auto done = write(20, disk);
    ASSERT_FALSE(done) << i;
    EXPECT_EQ(done.error().code, i <= writes ? ErrorCode::disk_full : ErrorCode::io) << i;
    EXPECT_THAT(names(), ElementsAre("step-000010")) << i;
  }
  EXPECT_EQ(newest_good(checkpoints_)->checkpoint.manifest().step, 10);
}

TEST_F(CheckpointDirectory, AfterAnErrorEveryCallGivesIt) {
  BadDisk disk;
  disk.failing_write = 3;
  auto writer = CheckpointWriter::begin(checkpoints_, plan(20), disk);
  Status first = writer->begin_stage({.stage = 0});
  const std::vector<float> weights = known_stage(model_, cut_[0], 0);
  if (first) first = writer->weights(weights);
  ASSERT_FALSE(first);
  EXPECT_THAT(names(), IsEmpty());
  EXPECT_EQ(writer->weights(weights).error().message, first.error().message);
  EXPECT_EQ(writer->end_stage().error().message, first.error().message);
  EXPECT_EQ(writer->commit().error().message, first.error().message);
}

TEST_F(CheckpointDirectory, AFullDiskIsSaid) {
  const std::string small = folder_.path("small");
  fs::create_directory(small);
  if (::mount("tmpfs", small.c_str(), "tmpfs", 0, "size=64k") != 0) GTEST_SKIP() << "mounting a small disk needs root";
  auto writer = CheckpointWriter::begin(small, plan(20));
  ASSERT_TRUE(writer) << writer.error().message;
  Status status = writer->begin_stage({.stage = 0, .arrays = {{"big", 100'000}}});
  const std::vector<float> big(100'000, 1.0F);
  if (status) status = writer->state(big);
  EXPECT_FALSE(status);
  if (!status) {
    EXPECT_EQ(status.error().code, ErrorCode::disk_full) << status.error().message;
  }
  EXPECT_TRUE(fs::is_empty(small));
  EXPECT_EQ(::umount(small.c_str()), 0);
}

TEST_F(CheckpointDirectory, WhatIsNotACheckpointIsRefusedWhileItIsWritten) {
  const auto begin = [&] { return std::move(*CheckpointWriter::begin(checkpoints_, plan(20))); };
  EXPECT_THAT(begin().begin_stage({.stage = 0, .arrays = {{"a", 1}, {"a", 1}}}).error().message,
              HasSubstr("each once, got 'a'"));
  EXPECT_THAT(begin().begin_stage({.stage = 0, .arrays = {}, .scalars = "[1]"}).error().message,
              HasSubstr("scalars: expected a JSON object"));
  auto writer = begin();
  ASSERT_TRUE(writer.begin_stage({.stage = 0}));
  const float bad = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(writer.weights({&bad, 1}).error().code, ErrorCode::bad_input);
  EXPECT_THAT(names(), IsEmpty());
}

TEST_F(CheckpointDirectory, LeftoversOfACrashAreRemoved) {
  fs::create_directories(checkpoints_ / ".step-000015.tmp");
  folder_.write("checkpoints/.step-000015.tmp/config.json", "half");
  folder_.write("checkpoints/.keep", "of the user");
  EXPECT_THAT(newest_good(checkpoints_).error().code, ErrorCode::not_found);
  write_good(20);
  EXPECT_THAT(names(), ElementsAre(".keep", "step-000020"));
}

TEST_F(CheckpointDirectory, ADirectoryOfThatStepIsReplaced) {
  write_good(10);
  write_good(20);
  flip(at(20) / model_file_name(0, 2), 3);
  write_good(20);
  EXPECT_EQ(newest_good(checkpoints_)->checkpoint.manifest().step, 20);
  EXPECT_THAT(names(), ElementsAre("step-000010", "step-000020"));
}

TEST_F(CheckpointDirectory, OldOnesAreRemovedButNeverTheLastGood) {
  for (const Step step : {10, 20, 30, 40, 50}) write_good(step);
  EXPECT_THAT(*remove_old(checkpoints_, 3), ElementsAre(at(20), at(10)));
  EXPECT_THAT(names(), ElementsAre("step-000030", "step-000040", "step-000050"));
  // The two newest look whole and are not: the last good one stays though only two are to be kept.
  flip(at(50) / model_file_name(0, 2), 3);
  flip(at(40) / model_file_name(0, 2), 3);
  EXPECT_THAT(*remove_old(checkpoints_, 2), IsEmpty());
  EXPECT_EQ(newest_good(checkpoints_)->checkpoint.manifest().step, 30);
  // One that is cut off does not count.
  write_good(60);
  fs::resize_file(at(50) / model_file_name(0, 2), 10);
  EXPECT_THAT(*remove_old(checkpoints_, 2), ElementsAre(at(30)));
  EXPECT_EQ(newest_good(checkpoints_)->checkpoint.manifest().step, 60);
}

}  // namespace
}  // namespace starling::trainer
