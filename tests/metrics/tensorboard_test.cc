#include "metrics/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <sstream>

namespace starling::metrics {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string bytes_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

class TensorBoard : public ::testing::Test {
 protected:
  TensorBoard() : folder_(fs::path(::testing::TempDir()) / ("tensorboard_test." + std::to_string(::getpid()))) {
    fs::remove_all(folder_);
  }
  ~TensorBoard() override { fs::remove_all(folder_); }
  const fs::path folder_;
};

TEST(Crc32c, IsThatOfItsSpecification) {  // RFC 3720, B.4
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43U);
}

// tests/golden/tensorboard_golden.py wrote them with TensorBoard's own messages, and reads them with its loader.
TEST_F(TensorBoard, FilesAreByteForByteWhatTensorBoardWrites) {
  {
    auto first = TensorBoardFile::create(folder_, 1700000000.5, 10);
    ASSERT_TRUE(first) << first.error().message;
    first->add(1700000001.0, 10, {{"train/loss", 3.25}, {"train/lr", 0.0005}});
    first->add(1700000002.0, 20, {{"train/loss", 2.5}, {"val/loss", 2.75}});
    first->add(1700000003.0, 30, {{"train/loss", std::numeric_limits<double>::quiet_NaN()}});
    first->add(1700000003.5, 30, {});
    auto second = TensorBoardFile::create(folder_, 1700000000.75, 30);
    ASSERT_TRUE(second) << second.error().message;
    second->add(1700000004.0, 30, {{"train/loss", 2.0}});
    second->add(1700000005.0, 40, {{"train/loss", 0.0}, {"workers/active", 123456.0}});
  }
  const fs::path golden = fs::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden/tensorboard";
  for (const char* name : {"events.out.tfevents.1700000000.000.starling", "events.out.tfevents.1700000000.001.starling"}) {
    ASSERT_FALSE(bytes_of(golden / name).empty());
    EXPECT_EQ(bytes_of(folder_ / name), bytes_of(golden / name)) << name;
  }
}

TEST_F(TensorBoard, WhatDoesNotFitIsCutOffAndTheFileGoesOn) {
  // In a child of its own: the limit is the process's. A file of 200 bytes has room for some events.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    auto file = TensorBoardFile::create(folder_, 1700000000.0, 1);
    if (!file) ::_exit(2);
    const rlimit small{200, limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    for (Step step = 1; step <= 10; ++step) file->add(1700000000.0, step, {{"train/loss", 1.0}});
    const auto full = fs::file_size(file->path());
    ::setrlimit(RLIMIT_FSIZE, &limit);
    file->add(1700000000.0, 11, {{"train/loss", 1.0}});
    const auto after = fs::file_size(file->path());
    // Whole events only: each is 16 bytes of record and the event; one more now.
    ::_exit(full < 200 && after > full && (after - full) == 16 + 9 + 2 + 21 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const std::string whole = bytes_of(folder_ / "events.out.tfevents.1700000000.000.starling");
  std::size_t at = 0;
  while (at + 16 <= whole.size()) at += 16 + static_cast<std::uint8_t>(whole[at]);
  EXPECT_EQ(at, whole.size()) << "records from the first byte to the last";
}

TEST_F(TensorBoard, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_) << "a file";
  const auto made = TensorBoardFile::create(folder_, 1700000000.0, 1);
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr(folder_.string()));
}

}  // namespace
}  // namespace starling::metrics
