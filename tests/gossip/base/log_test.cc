#include "gossip/base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace starling {
namespace {

class LogTest : public ::testing::Test {
 protected:
  LogTest() : directory_(std::filesystem::path(::testing::TempDir()) / ("log_test." + std::to_string(::getpid()))) {
    std::filesystem::remove_all(directory_);
  }
  ~LogTest() override {
    EXPECT_TRUE(open_log({}));
    std::filesystem::remove_all(directory_);
  }
  std::string read(const std::string& name) const {
    std::ifstream in(directory_ / name);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }

  const std::filesystem::path directory_;
};

TEST_F(LogTest, WritesOneStampedLinePerMessage) {
  ASSERT_TRUE(open_log({.file = directory_ / "deep" / "log.txt"}));
  log_info("worker {} joined stage {}", "w03", 2);
  log_warning("forged\n2031-01-01T00:00:00.000Z error   all is lost");
  log_debug("below the level");
  const std::string text = read("deep/log.txt");
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
  EXPECT_NE(text.find("Z info    worker w03 joined stage 2\n"), std::string::npos) << text;
  EXPECT_NE(text.find("Z warning forged\\n2031"), std::string::npos) << text;
}

TEST_F(LogTest, KeepsToItsLevel) {
  ASSERT_TRUE(open_log({.level = LogLevel::error, .file = directory_ / "log.txt"}));
  EXPECT_FALSE(log_enabled(LogLevel::warning));
  log_warning("not said");
  log_error("said");
  ASSERT_TRUE(open_log({.level = LogLevel::off, .file = directory_ / "silent.txt"}));
  log_error("not said either");
  EXPECT_NE(read("log.txt").find("said\n"), std::string::npos);
  EXPECT_EQ(read("log.txt").find("not said"), std::string::npos);
  EXPECT_EQ(read("silent.txt"), "");
}

TEST_F(LogTest, NeverOutgrowsItsFiles) {
  ASSERT_TRUE(open_log({.file = directory_ / "log.txt", .max_file_bytes = 4096, .old_files = 2}));
  for (int i = 0; i < 1000; ++i) log_info("line {} of many that together are much longer than the files may be", i);
  std::uint64_t total = 0;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
    total += entry.file_size();
    ++files;
  }
  EXPECT_EQ(files, 3);
  EXPECT_LE(total, 3 * 4096U);
  EXPECT_NE(read("log.txt").find("line 999 "), std::string::npos);
}

TEST_F(LogTest, SaysWhyAFileCannotBeOpenedAndStaysWhatItWas) {
  ASSERT_TRUE(open_log({.file = directory_ / "log.txt"}));
  const Status failed = open_log({.file = directory_ / "log.txt" / "below_a_file.txt"});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::io);
  EXPECT_NE(failed.error().message.find("below_a_file.txt"), std::string::npos) << failed.error().message;
  log_info("still here");
  EXPECT_NE(read("log.txt").find("still here"), std::string::npos);
}

TEST_F(LogTest, CountsWhatAFullDiskSwallowsAndSaysSoOnce) {
  std::filesystem::create_directories(directory_);
  std::filesystem::create_symlink("/dev/full", directory_ / "log.txt");
  ASSERT_TRUE(open_log({.file = directory_ / "log.txt"}));
  const std::uint64_t before = lost_log_lines();
  ::testing::internal::CaptureStderr();
  log_info("one");
  log_info("two");
  log_info("three");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(lost_log_lines() - before, 3U);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_NE(said.find("No space left"), std::string::npos) << said;
}

TEST(LogText, CutsWhatLooksLikeASecret) {
  const std::string key(64, 'a');
  EXPECT_EQ(log_text("key=" + key + "!"), "key=aaaa...!");
  EXPECT_EQ(log_text("token " + std::string(43, 'B') + ".x"), "token BBBBBBBB....x");
  EXPECT_EQ(log_text("short " + std::string(42, 'B')), "short " + std::string(42, 'B'));
  const std::string path = "/home/somebody/runs/llama-125m/workers/w03/identity/node.key is readable by others";
  EXPECT_EQ(log_text(path), path);
}

TEST(LogText, IsBounded) {
  std::string words;
  while (words.size() < 100000) words += "word ";
  EXPECT_LE(log_text(words).size(), max_log_message_bytes);
}

}  // namespace
}  // namespace starling
