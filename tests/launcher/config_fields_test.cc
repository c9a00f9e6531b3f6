#include "launcher/config_fields.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

namespace starling::launcher {
namespace {

TEST(ConfigFields, EveryKeyHasAnEnvironmentVariableOfItsOwn) {
  std::map<std::string, std::string> owner;
  for (const Field& field : fields()) {
    const auto [at, is_new] = owner.emplace(environment_name(field.key), field.key);
    EXPECT_TRUE(is_new) << field.key << " and " << at->second << " are both " << at->first;
  }
  for (const LaterKey& later : later_keys()) {
    EXPECT_TRUE(owner.emplace(environment_name(later.key), later.key).second) << later.key;
  }
  EXPECT_EQ(environment_name("lr_scheduler.min_lr"), "STARLING_LR_SCHEDULER_MIN_LR");
  EXPECT_EQ(environment_name("version"), "STARLING_VERSION");
}

TEST(ConfigFields, TheKeysOfASectionStandTogether) {
  std::set<std::string> seen;
  for (const std::string& section : sections()) EXPECT_TRUE(seen.insert(section).second) << section;
}

TEST(ConfigFields, KeysAreFoundByName) {
  ASSERT_NE(find_field("optimizer.lr"), nullptr);
  EXPECT_EQ(find_field("optimizer.lr")->key, "optimizer.lr");
  EXPECT_EQ(find_field("lr"), nullptr);
  EXPECT_EQ(find_field("eval.prompts"), nullptr);
  EXPECT_NE(find_later_key("eval.prompts"), nullptr);
  EXPECT_EQ(section_of("optimizer.lr"), "optimizer");
  EXPECT_EQ(leaf_of("optimizer.lr"), "lr");
  EXPECT_EQ(section_of("version"), "");
  EXPECT_EQ(leaf_of("version"), "version");
}

}  // namespace
}  // namespace starling::launcher
