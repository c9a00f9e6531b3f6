#include "launcher/presets.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "gossip/base/real_env.h"
#include "launcher/config_fields.h"
#include "launcher/config_yaml.h"
#include "launcher/yaml_tree.h"

namespace starling::launcher {
namespace {

std::filesystem::path configs_directory() {
  const char* source = std::getenv("STARLING_TEST_SOURCE_DIR");
  return std::filesystem::path(source == nullptr ? "." : source) / "configs";
}

std::string contents(const std::filesystem::path& path) {
  const auto bytes = read_file(path, max_yaml_bytes);
  EXPECT_TRUE(bytes) << bytes.error().message;
  return bytes ? std::string(as_text(*bytes)) : "";
}

TEST(Configs, EveryCommittedRunFileIsValidWithoutWarnings) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(configs_directory())) {
    if (entry.path().extension() != ".yaml") continue;
    const ConfigReading reading = read_config(contents(entry.path()), entry.path().filename(), {});
    EXPECT_TRUE(reading.problems.empty()) << describe(reading.problems);
    ++count;
  }
  EXPECT_GE(count, presets().size());
}

TEST(Presets, AreTheCommittedFiles) {
  for (const Preset& preset : presets()) {
    EXPECT_EQ(preset.text, contents(configs_directory() / (std::string(preset.name) + ".yaml"))) << preset.name;
    EXPECT_FALSE(preset.summary().empty());
    EXPECT_FALSE(preset.summary().starts_with('#'));
  }
}

TEST(Presets, HaveEveryKeyWithAComment) {
  for (const Preset& preset : presets()) {
    const YamlTree tree = read_yaml(preset.text);
    std::size_t count = 0;
    for (const YamlEntry& section : tree.root.entries) {
      if (section.value.kind == YamlValue::Kind::plain) ++count;
      for (const YamlEntry& entry : section.value.entries) {
        EXPECT_NE(find_field(section.key + "." + entry.key), nullptr) << entry.key;
        ++count;
      }
    }
    EXPECT_EQ(count, fields().size()) << preset.name << " leaves keys out";
    std::string_view rest = preset.text;
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      const std::size_t first = line.find_first_not_of(' ');
      const bool is_section = first == 0 && line.ends_with(':');
      if (first != std::string_view::npos && !is_section) {
        EXPECT_NE(line.find('#'), std::string_view::npos) << preset.name << ": " << line;
      }
      rest.remove_prefix(std::min(line.size() + 1, rest.size()));
    }
  }
}

TEST(Presets, TheQuickstartIsSmall) {
  ASSERT_EQ(presets().front().name, "quickstart");
  const ConfigReading reading = read_config(presets().front().text, "quickstart", {});
  ASSERT_TRUE(reading.ok());
  const RunConfig& config = reading.config;
  std::int64_t parameters = 0;
  Stage stage = 0;
  for (const auto& layers : config.stage_layers()) parameters += parameter_count(config.model, layers, stage++);
  EXPECT_GE(parameters, 500'000);
  EXPECT_LE(parameters, 1'500'000);
  EXPECT_LE(config.planned_steps() * config.tokens_per_step(), 10'000'000);
  EXPECT_EQ(config.parallelism.stages, 4);
  EXPECT_EQ(config.parallelism.replicas, 2);
}

}  // namespace
}  // namespace starling::launcher
