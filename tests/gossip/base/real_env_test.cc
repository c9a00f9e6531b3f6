#include "gossip/base/real_env.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace starling {
namespace {

namespace fs = std::filesystem;

class RealEnvTest : public ::testing::Test {
 protected:
  RealEnvTest() : directory_(fs::path(::testing::TempDir()) / ("real_env_test." + std::to_string(::getpid()))) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~RealEnvTest() override { fs::remove_all(directory_); }

  std::size_t files_in_directory() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()));
  }
  static std::string text_of(const fs::path& path) {
    const auto bytes = read_file(path, 1 << 20);
    return bytes ? std::string(as_text(*bytes)) : "<" + bytes.error().message + ">";
  }

  const fs::path directory_;
};

TEST(RealClock, NeverGoesBack) {
  const RealClock clock;
  TimePoint last = clock.now();
  for (int i = 0; i < 1000; ++i) {
    const TimePoint now = clock.now();
    ASSERT_GE(now, last);
    last = now;
  }
  EXPECT_GT(clock.unix_seconds(), 1.7e9);  // some time after 2023
}

TEST_F(RealEnvTest, ReplaceMakesFoldersAndLeavesNoTemporaryFile) {
  ASSERT_TRUE(replace_file(directory_ / "a" / "b" / "file", as_bytes("one")));
  ASSERT_TRUE(replace_file(directory_ / "a" / "b" / "file", as_bytes("two, and longer")));
  EXPECT_EQ(text_of(directory_ / "a" / "b" / "file"), "two, and longer");
  ASSERT_TRUE(replace_file(directory_ / "a" / "b" / "file", {}));
  EXPECT_EQ(text_of(directory_ / "a" / "b" / "file"), "");
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_ / "a" / "b"), fs::directory_iterator()), 1);
}

TEST_F(RealEnvTest, ASecretIsReadableByItsOwnerOnly) {
  ASSERT_TRUE(replace_file(directory_ / "key", as_bytes("k"), FileMode::secret));
  ASSERT_TRUE(replace_file(directory_ / "note", as_bytes("n")));
  EXPECT_EQ(fs::status(directory_ / "key").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  // Also when a file that others could read stood there before.
  ASSERT_TRUE(replace_file(directory_ / "note", as_bytes("n"), FileMode::secret));
  EXPECT_EQ(fs::status(directory_ / "note").permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(RealEnvTest, StorageKeepsToItsDirectoryAndItsSecretsToTheOwner) {
  RealStorage storage(directory_);
  ASSERT_TRUE(storage.replace("identity/boot", as_bytes("7")));
  EXPECT_EQ(as_text(storage.read("identity/boot").value()), "7");
  EXPECT_EQ(text_of(directory_ / "identity" / "boot"), "7");
  EXPECT_EQ(fs::status(directory_ / "identity" / "boot").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(storage.read("identity/none").error().code, ErrorCode::not_found);
}

TEST_F(RealEnvTest, ReadSaysWhatIsWrong) {
  EXPECT_EQ(read_file(directory_ / "none", 10).error().code, ErrorCode::not_found);
  EXPECT_EQ(read_file(directory_, 10).error().code, ErrorCode::io);
  EXPECT_EQ(read_file("/dev/zero", 10).error().code, ErrorCode::io);
  ASSERT_TRUE(replace_file(directory_ / "eleven", as_bytes("eleven byte")));
  EXPECT_TRUE(read_file(directory_ / "eleven", 11));
  const auto over = read_file(directory_ / "eleven", 10);
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().code, ErrorCode::limit);
  EXPECT_NE(over.error().message.find("11 bytes"), std::string::npos) << over.error().message;
}

TEST_F(RealEnvTest, ReadOfAPipeDoesNotHang) {
  ASSERT_EQ(::mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(read_file(directory_ / "pipe", 10).error().code, ErrorCode::io);
}

TEST_F(RealEnvTest, ReplaceRefusesToStandInForAFolder) {
  ASSERT_TRUE(replace_file(directory_ / "file", as_bytes("x")));
  EXPECT_FALSE(replace_file(directory_ / "file" / "below", as_bytes("y")));
  fs::create_directories(directory_ / "folder" / "inside");
  EXPECT_FALSE(replace_file(directory_ / "folder", as_bytes("y")));
  EXPECT_EQ(files_in_directory(), 2U);  // no temporary file is left
}

// /dev/full takes the place of the temporary file: each write to it says that the disk is full.
TEST_F(RealEnvTest, AFullDiskLeavesTheOldFile) {
  const fs::path file = directory_ / "record";
  ASSERT_TRUE(replace_file(file, as_bytes("old")));
  fs::create_symlink("/dev/full", file.string() + ".tmp" + std::to_string(::getpid()));
  const Status failed = replace_file(file, as_bytes("new"));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::disk_full);
  EXPECT_NE(failed.error().message.find("free some space"), std::string::npos) << failed.error().message;
  EXPECT_EQ(text_of(file), "old");
  EXPECT_EQ(files_in_directory(), 1U);
}

// The same with a real file system of 64 KiB, which needs the right to mount one in a namespace of one's own.
TEST_F(RealEnvTest, AFullFileSystemLeavesTheOldFile) {
  enum Outcome { as_promised = 0, cannot_mount = 2, replaced = 3, wrong_error = 4, old_lost = 5, temporary_left = 6 };
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool own_namespace = ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
    if (!own_namespace || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=64k") != 0) {
      ::_exit(cannot_mount);
    }
    const fs::path file = directory_ / "record";
    const Bytes old(8 << 10, std::byte{1});
    const Bytes too_long(128 << 10, std::byte{2});
    if (!replace_file(file, old)) ::_exit(wrong_error);
    const Status failed = replace_file(file, too_long);
    if (failed) ::_exit(replaced);
    if (failed.error().code != ErrorCode::disk_full) ::_exit(wrong_error);
    const auto now = read_file(file, 1 << 20);
    if (!now || *now != old) ::_exit(old_lost);
    ::_exit(files_in_directory() == 1 ? as_promised : temporary_left);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == cannot_mount) GTEST_SKIP() << "no right to mount a small file system here";
  EXPECT_EQ(WEXITSTATUS(status), as_promised);
}

}  // namespace
}  // namespace starling
