#include "launcher/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

namespace starling::launcher {
namespace {

using testing::HasSubstr;

// Prints what it got.
ExitCode show(const Options& options) {
  options.out() << "file=" << options.argument("FILE") << " to=" << options.argument("TO")
                << " json=" << options.has("json") << " name=" << options.text("name").value_or("-")
                << " n=" << options.integer("count").value_or(-1) << " x=" << options.number("ratio").value_or(-1.0)
                << " set=" << options.list("set").size() << "\n";
  for (const std::string& set : options.list("set")) options.out() << set << "\n";
  return ExitCode::found_problems;
}

const std::vector<Command> commands{
    {"show",
     "print what was given",
     "Some details.",
     {{"FILE", Argument::Presence::required, "the file"}, {"TO", Argument::Presence::optional, "another"}},
     {set_flag(),
      {"json", Flag::Kind::toggle, "", "as JSON"},
      {"name", Flag::Kind::text, "NAME", "a name"},
      {"count", Flag::Kind::integer, "N", "a count"},
      {"ratio", Flag::Kind::number, "X", "a ratio"}},
     show},
    {"bare", "take nothing", "", {}, {}, [](const Options&) { return ExitCode::ok; }},
};

struct Outcome {
  ExitCode code = ExitCode::ok;
  std::string out;
  std::string err;
};

Outcome run(const std::vector<std::string>& arguments) {
  std::ostringstream out;
  std::ostringstream err;
  const Environment environment;
  const ExitCode code = run_command_line(commands, arguments, environment, out, err);
  return {code, out.str(), err.str()};
}

TEST(CommandLine, HandsOverWhatWasGiven) {
  const Outcome all = run({"show", "a.yaml", "--set", "a.b=1", "--json", "--name=x y", "b", "--count", "-3", "--ratio",
                           "0.5", "--set=c.d=[1, 2]"});
  EXPECT_EQ(all.code, ExitCode::found_problems);
  EXPECT_EQ(all.out, "file=a.yaml to=b json=1 name=x y n=-3 x=0.5 set=2\na.b=1\nc.d=[1, 2]\n");
  EXPECT_EQ(all.err, "");
  EXPECT_EQ(run({"show", "a.yaml"}).out, "file=a.yaml to= json=0 name=- n=-1 x=-1 set=0\n");
  EXPECT_EQ(run({"show", "--", "--json"}).out, "file=--json to= json=0 name=- n=-1 x=-1 set=0\n");
}

TEST(CommandLine, MistakesExitWithTwoAndHelp) {
  struct Case {
    std::vector<std::string> arguments;
    const char* err;
  };
  const Case cases[] = {
      {{"shwo"}, "starling: unknown command 'shwo' (did you mean 'show'?)\n'starling --help' lists the commands\n"},
      {{"zebra"}, "starling: unknown command 'zebra'\n'starling --help' lists the commands\n"},
      {{"--versoin"},
       "starling: unknown flag '--versoin' (did you mean '--version'?)\n'starling --help' lists the commands\n"},
      {{"show", "f", "--jsn"},
       "starling show: unknown flag '--jsn' (did you mean '--json'?)\n'starling show --help' says what it takes\n"},
      {{"show", "f", "--jso"},
       "starling show: unknown flag '--jso' (did you mean '--json'?)\n'starling show --help' says what it takes\n"},
      {{"show", "f", "--cuont=3", "-x"},
       "starling show: unknown flag '--cuont' (did you mean '--count'?)\nstarling show: unknown flag '-x'\n'starling "
       "show "
       "--help' says what it takes\n"},
      {{"show"}, "starling show: FILE is missing: the file\n'starling show --help' says what it takes\n"},
      {{"show", "a", "b", "c"}, "starling show: unexpected argument 'c'\n'starling show --help' says what it takes\n"},
      {{"bare", "x\x1b[2J"},
       "starling bare: unexpected argument 'x\\x1b[2J'\n'starling bare --help' says what it takes\n"},
      {{"show", "f", "--count", "many"},
       "starling show: --count: expected an integer, got 'many'\n'starling show --help' says what it takes\n"},
      {{"show", "f", "--count", "99999999999999999999"},
       "starling show: --count: expected an integer, got '99999999999999999999'\n'starling show --help' says what it "
       "takes\n"},
      {{"show", "f", "--ratio", "1.5x"},
       "starling show: --ratio: expected a number, got '1.5x'\n'starling show --help' says what it takes\n"},
      {{"show", "f", "--name"},
       "starling show: the required argument for option '--name' is missing\n'starling show --help' says what it "
       "takes\n"},
      {{"show", "f", "--name", "a", "--name", "b"},
       "starling show: option '--name' cannot be specified more than once\n'starling show --help' says what it "
       "takes\n"},
  };
  for (const Case& c : cases) {
    const Outcome outcome = run(c.arguments);
    EXPECT_EQ(outcome.code, ExitCode::usage) << c.err;
    EXPECT_EQ(outcome.err, c.err);
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(CommandLine, HelpGoesToStdout) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--help"}, {"-h"}, {"help"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, ExitCode::ok);
    EXPECT_THAT(outcome.out, HasSubstr("  show  print what was given\n  bare  take nothing\n"));
    EXPECT_EQ(outcome.err, "");
  }
  // Also when the rest of the line is incomplete.
  const Outcome outcome = run({"show", "--help"});
  EXPECT_EQ(outcome.code, ExitCode::ok);
  EXPECT_EQ(outcome.out,
            "starling show FILE [TO] [--set KEY=VALUE]... [--json] [--name NAME] [--count N] [--ratio X]\n"
            "\n"
            "print what was given\n"
            "\n"
            "  FILE             the file\n"
            "  TO               another\n"
            "  --set KEY=VALUE  overrides a value of the run file, such as training.max_steps=100\n"
            "  --json           as JSON\n"
            "  --name NAME      a name\n"
            "  --count N        a count\n"
            "  --ratio X        a ratio\n"
            "  --help           print this\n"
            "\n"
            "Some details.\n");
}

TEST(CommandLine, WithoutACommandPrintsTheListAsAnError) {
  const Outcome outcome = run({});
  EXPECT_EQ(outcome.code, ExitCode::usage);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr("starling COMMAND"));
}

TEST(CommandLine, PrintsTheVersion) {
  const Outcome outcome = run({"--version"});
  EXPECT_EQ(outcome.code, ExitCode::ok);
  EXPECT_THAT(outcome.out, testing::MatchesRegex("starling [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(CommandLineDeathTest, AskingForAnUndeclaredFlagIsABug) {
  const std::vector<Command> wrong{{"wrong", "", "", {}, {}, [](const Options& options) {
                                      return options.has("nothing") ? ExitCode::ok : ExitCode::failed;
                                    }}};
  const Environment environment;
  std::ostringstream out;
  EXPECT_DEATH(run_command_line(wrong, {"wrong"}, environment, out, out),
               "a command asks only for flags that it declares");
}

TEST(ExitCode, FollowsFromTheKindOfError) {
  EXPECT_EQ(exit_code_of(ErrorCode::usage), ExitCode::usage);
  EXPECT_EQ(exit_code_of(ErrorCode::bad_config), ExitCode::bad_config);
  EXPECT_EQ(exit_code_of(ErrorCode::unauthenticated), ExitCode::unreachable);
  EXPECT_EQ(exit_code_of(ErrorCode::unreachable), ExitCode::unreachable);
  EXPECT_EQ(exit_code_of(ErrorCode::disk_full), ExitCode::failed);
}

}  // namespace
}  // namespace starling::launcher
