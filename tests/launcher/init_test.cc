#include "launcher/init.h"

#include <gmock/gmock.h>

#include "launcher/presets.h"
#include "tests/launcher/command_test.h"

namespace starling::launcher {
namespace {

using testing::HasSubstr;

class Init : public CommandTest {};

TEST_F(Init, WritesThePreset) {
  for (const Preset& preset : presets()) {
    const std::string name = std::string(preset.name) + ".yaml";
    const Outcome outcome = run({"init", "--preset", std::string(preset.name), "--output", path(name)});
    EXPECT_EQ(outcome.code, ExitCode::ok) << outcome.err;
    EXPECT_EQ(outcome.out, path(name) + "\n");
    EXPECT_THAT(outcome.err, HasSubstr("next: starling validate " + path(name)));
    EXPECT_EQ(read(name), preset.text);
  }
}

TEST_F(Init, WritesTheQuickstartByDefault) {
  EXPECT_EQ(run({"init", "--output", path("run.yaml")}).code, ExitCode::ok);
  EXPECT_EQ(read("run.yaml"), presets().front().text);
}

TEST_F(Init, WritesToStdout) {
  const Outcome outcome = run({"init", "--output", "-"});
  EXPECT_EQ(outcome.code, ExitCode::ok);
  EXPECT_EQ(outcome.out, presets().front().text);
}

TEST_F(Init, NeverOverwrites) {
  write("run.yaml", "mine");
  const Outcome outcome = run({"init", "--output", path("run.yaml")});
  EXPECT_EQ(outcome.code, ExitCode::failed);
  EXPECT_EQ(outcome.err, "starling init: '" + path("run.yaml") +
                             "' is there already and is left as it is; name another file with --output FILE\n");
  EXPECT_EQ(read("run.yaml"), "mine");
}

TEST_F(Init, SaysWhyItCannotWrite) {
  const Outcome outcome = run({"init", "--output", path("no/such/run.yaml")});
  EXPECT_EQ(outcome.code, ExitCode::failed);
  EXPECT_EQ(outcome.err, "starling init: cannot write '" + path("no/such/run.yaml") + "': No such file or directory\n");
}

TEST_F(Init, KnowsItsPresets) {
  const Outcome outcome = run({"init", "--preset", "quickstrat", "--output", path("run.yaml")});
  EXPECT_EQ(outcome.code, ExitCode::usage);
  EXPECT_THAT(outcome.err,
              HasSubstr("starling init: unknown preset 'quickstrat' (did you mean 'quickstart'?)\nPresets:\n"));
  for (const Preset& preset : presets()) EXPECT_THAT(outcome.err, HasSubstr(std::string(preset.summary())));
  EXPECT_FALSE(std::filesystem::exists(path("run.yaml")));
}

}  // namespace
}  // namespace starling::launcher
