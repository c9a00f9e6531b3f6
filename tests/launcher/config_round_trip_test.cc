#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <string>

#include "gossip/base/random.h"
#include "launcher/config_yaml.h"
#include "launcher/presets.h"
#include "tests/launcher/random_config.h"

namespace starling::launcher {
namespace {

TEST(ConfigRoundTrip, ReadingWhatWasWrittenGivesTheSameConfig) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    const RunConfig config = random_config(seed);
    const std::string spec = run_spec(config);
    const auto again = read_run_spec(spec);
    if (!again) RC_FAIL(again.error().message);
    RC_ASSERT(first_difference(config, *again) == "");
    RC_ASSERT(run_spec(*again) == spec);
    RC_ASSERT(config_hash(*again) == config_hash(config));
  }));
}

TEST(ConfigRoundTrip, AnotherConfigHasAnotherHash) {
  EXPECT_TRUE(rc::check([](std::uint64_t seed) {
    const RunConfig a = random_config(seed);
    const RunConfig b = random_config(seed + 1);
    RC_PRE(!first_difference(a, b).empty());
    RC_ASSERT(config_hash(a) != config_hash(b));
  }));
}

TEST(ResolvedFile, IsARunFileWithItsHash) {
  const RunConfig config = random_config(1);
  const std::string text = resolved_file(config);
  EXPECT_NE(text.find(to_hex(config_hash(config))), std::string::npos);
  const auto resolved = read_resolved_file(text);
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(first_difference(config, *resolved), "");
  const ConfigReading as_run_file = read_config(text, "run.yaml", {});
  ASSERT_TRUE(as_run_file.ok()) << describe(as_run_file.problems);
  EXPECT_EQ(first_difference(config, as_run_file.config), "");
}

TEST(ResolvedFile, NoticesAnyChangeBelowTheHash) {
  std::string text = resolved_file(random_config(1));
  const std::size_t at = text.find("hidden_size: ");
  ASSERT_NE(at, std::string::npos);
  text.insert(at + std::string("hidden_size: ").size(), "1");
  const auto changed = read_resolved_file(text);
  ASSERT_FALSE(changed);
  EXPECT_EQ(
      changed.error().message,
      "the resolved run file was changed after the run began (its hash no longer holds); put it back, or start a new "
      "run from the changed file");
  const auto without = read_resolved_file(run_spec(random_config(1)));
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().message,
            "a resolved run file has a line '# BLAKE2b-256 of all lines below this one: ...', this one has none");
}

// Damages a good file a little, in ways that YAML cares about.
std::string damaged(std::string text, Stream& random) {
  static const std::vector<std::string> pieces{
      "\n", " ", ":", ": ", "-",    "- ",  "[",   "]",  "{", "}",   ",",    "#",    "&a",   "*a",   "!!x",
      "\"", "'", "|", ">",  "<<: ", "---", "...", "\t", "%", "010", "1e99", ".nan", "null", "\xff", "\xc3\xa4"};
  for (std::uint64_t edits = 1 + random.below(8); edits > 0 && !text.empty(); --edits) {
    const std::size_t at = random.below(text.size());
    const std::size_t count = random.below(std::min<std::size_t>(40, text.size() - at)) + 1;
    switch (random.below(4)) {
      case 0:
        text[at] = static_cast<char>(random.below(256));
        break;
      case 1:
        text.erase(at, count);
        break;
      case 2:
        text.insert(at, text.substr(random.below(text.size()), count));
        break;
      default:
        text.insert(at, pieces[random.below(pieces.size())]);
        break;
    }
  }
  return text;
}

TEST(DamagedFile, IsReadOrRefusedWithALine) {
  const std::string good(presets().front().text);
  std::size_t refused = 0;
  std::size_t taken = 0;
  EXPECT_TRUE(rc::check([&](std::uint64_t seed) {
    Stream random(seed);
    for (int i = 0; i < 5; ++i) {
      const std::string text = damaged(good, random);
      const ConfigReading reading = read_config(text, "run.yaml", {});
      for (const Problem& problem : reading.problems) {
        RC_ASSERT(problem.source == "run.yaml");
        RC_ASSERT(problem.at.line >= 1);
        RC_ASSERT(problem.at.column >= 1);
        RC_ASSERT(!problem.message.empty());
        RC_ASSERT(problem.at.line <=
                  1 + std::count(text.begin(), text.end(), '\n') + std::count(text.begin(), text.end(), '\r'));
      }
      ++(reading.ok() ? taken : refused);
      if (!reading.ok()) continue;
      const auto again = read_run_spec(run_spec(reading.config));
      RC_ASSERT(again.has_value());
      RC_ASSERT(first_difference(reading.config, *again) == "");
    }
  }));
  // Both happen, else this test says nothing.
  EXPECT_GT(refused, 50U);
  EXPECT_GT(taken, 5U);
}

TEST(DamagedFile, RandomBytesAreRefused) {
  EXPECT_TRUE(rc::check([](const std::string& bytes) {
    const ConfigReading reading = read_config(bytes, "run.yaml", {});
    RC_ASSERT(!reading.ok());
    RC_ASSERT(reading.problems.front().at.line >= 1);
  }));
}

}  // namespace
}  // namespace starling::launcher
