#include "gossip/sim/storage.h"

#include <gtest/gtest.h>

namespace starling::sim {
namespace {

std::string text_of(SimStorage& storage, std::string_view path) {
  const auto bytes = storage.read(path);
  return bytes ? std::string(as_text(*bytes)) : "-";
}

TEST(SimStorage, KeepsWhatWasWrittenThroughACrash) {
  SimStorage storage;
  ASSERT_TRUE(storage.replace("boot", as_bytes("1")));
  ASSERT_TRUE(storage.replace("boot", as_bytes("2")));
  storage.crash();
  EXPECT_EQ(text_of(storage, "boot"), "2");
  EXPECT_EQ(storage.read("nothing").error().code, ErrorCode::not_found);
}

TEST(SimStorage, AFullDiskRefusesAndKeepsTheOldBytes) {
  SimStorage storage;
  ASSERT_TRUE(storage.replace("boot", as_bytes("1")));
  storage.set_health(SimStorage::Health::full);
  EXPECT_EQ(storage.replace("boot", as_bytes("2")).error().code, ErrorCode::disk_full);
  EXPECT_EQ(text_of(storage, "boot"), "1");
}

TEST(SimStorage, ABrokenDiskDoesNothing) {
  SimStorage storage;
  ASSERT_TRUE(storage.replace("boot", as_bytes("1")));
  storage.set_health(SimStorage::Health::broken);
  EXPECT_EQ(storage.read("boot").error().code, ErrorCode::io);
  EXPECT_EQ(storage.replace("boot", as_bytes("2")).error().code, ErrorCode::io);
  storage.set_health(SimStorage::Health::good);
  EXPECT_EQ(text_of(storage, "boot"), "1");
}

TEST(SimStorage, AForgetfulDiskLosesAllButTheLastSafeBytesInACrash) {
  SimStorage storage;
  ASSERT_TRUE(storage.replace("boot", as_bytes("1")));
  storage.set_health(SimStorage::Health::forgetful);
  ASSERT_TRUE(storage.replace("boot", as_bytes("2")));
  ASSERT_TRUE(storage.replace("boot", as_bytes("3")));
  ASSERT_TRUE(storage.replace("new", as_bytes("x")));
  EXPECT_EQ(text_of(storage, "boot"), "3");
  storage.crash();
  EXPECT_EQ(text_of(storage, "boot"), "1");
  EXPECT_EQ(text_of(storage, "new"), "-");
}

TEST(SimStorage, ASafeWriteAfterAForgottenOneStands) {
  SimStorage storage;
  storage.set_health(SimStorage::Health::forgetful);
  ASSERT_TRUE(storage.replace("boot", as_bytes("1")));
  storage.set_health(SimStorage::Health::good);
  ASSERT_TRUE(storage.replace("boot", as_bytes("2")));
  storage.crash();
  EXPECT_EQ(text_of(storage, "boot"), "2");
}

}  // namespace
}  // namespace starling::sim
