#include "launcher/plan_command.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "launcher/config_yaml.h"
#include "launcher/plan_file.h"
#include "launcher/plan_gantt.h"
#include "launcher/plan_search.h"
#include "pipeline/plan_clock.h"
#include "pipeline/planner.h"
#include "tests/launcher/command_test.h"
#include "tests/support/plan_instances.h"
#include "trainer/worker/stage_memory.h"

namespace starling::launcher {
namespace {

using nlohmann::json;

class PlanCommand : public CommandTest {
 protected:
  static Outcome plan(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "plan");
    std::ostringstream out;
    std::ostringstream err;
    const std::vector<Command> commands{plan_command()};
    const ExitCode code = run_command_line(commands, arguments, {}, out, err);
    return {code, out.str(), err.str()};
  }

  std::string published() const { return write("published.json", test::read_golden("skippipe_20_nodes.json")); }

  // The published instance with one change, as a file.
  template <typename Change>
  std::string changed(const Change& change) const {
    json instance = json::parse(test::read_golden("skippipe_20_nodes.json"));
    change(instance);
    return write("changed.json", instance.dump());
  }

  void expect_refused(const std::string& file, const std::string& what) const {
    const Outcome outcome = plan({"--instance", file, "--json", "--evaluations", "1"});
    EXPECT_EQ(outcome.code, ExitCode::bad_config) << what;
    EXPECT_EQ(outcome.out, "") << what;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << "expected '" << what << "', got: " << outcome.err;
  }
};

TEST_F(PlanCommand, RunFileGivesTheMemoryOfEachStage) {
  ASSERT_EQ(run({"init", "--output", path("run.yaml")}).code, ExitCode::ok);
  const Outcome outcome = plan({path("run.yaml"), "--set", "pipeline.max_in_flight=3"});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  const RunConfig config = load_config(path("run.yaml"), {}, nullptr).config;
  const trainer::StageMemory last =
      trainer::stage_memory(config.model, config.training, config.stage_layers()[3], 3, 3);
  EXPECT_NE(outcome.out.find(fmt::format("{:.1f}\n", static_cast<double>(last.total()) / 1024.0 / 1024.0)),
            std::string::npos)
      << outcome.out;
  EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 2 + config.parallelism.stages);

  EXPECT_EQ(plan({path("run.yaml"), "--json"}).code, ExitCode::usage);
  EXPECT_EQ(plan({}).code, ExitCode::usage);
  const Outcome wrong = plan({path("run.yaml"), "--set", "model.hidden_size=0"});
  EXPECT_EQ(wrong.code, ExitCode::bad_config);
  EXPECT_EQ(wrong.out, "");
}

TEST_F(PlanCommand, JsonIsAPlanThatObeysTheRulesAndTakesWhatItSays) {
  const Outcome outcome =
      plan({"--instance", published(), "--json", "--seed", "3", "--evaluations", "2000", "--searches", "2"});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  const json out = json::parse(outcome.out);
  pipeline::SkipPlan read;
  read.stages = out.at("stages").get<std::vector<std::vector<int>>>();
  for (const json& path : out.at("paths")) {
    read.paths.push_back({path.at("originator"), path.at("hops").get<std::vector<int>>(), path.at("start")});
  }
  const auto seconds = pipeline::plan_seconds(test::published_instance(), read);
  ASSERT_TRUE(seconds) << seconds.error().message;
  EXPECT_NEAR(*seconds, out.at("seconds").get<double>(), 1e-9);
  EXPECT_LE(*seconds, 27.0);
  EXPECT_LE(out.at("first_seconds").get<double>(), 32.0);
  EXPECT_EQ(out.at("seed"), 3);
  EXPECT_EQ(out.at("stopped_by_time"), false);
}

TEST_F(PlanCommand, SameSeedAndEvaluationsGiveTheSameOutput) {
  const std::vector<std::string> arguments{"--instance",    published(), "--json",     "--seed", "3",
                                           "--evaluations", "500",       "--searches", "2"};
  const Outcome once = plan(arguments);
  EXPECT_EQ(once.code, ExitCode::ok);
  EXPECT_EQ(once.out, plan(arguments).out);
}

TEST_F(PlanCommand, MoreSearchesGiveTheBestOfTheirPlans) {
  int better = 0;
  for (int seed = 0; seed < 5; ++seed) {
    const auto seconds_with = [&](const std::string& searches) {
      const Outcome outcome = plan({"--instance", published(), "--json", "--evaluations", "50", "--seed",
                                    std::to_string(seed), "--searches", searches});
      return json::parse(outcome.out).at("seconds").get<double>();
    };
    const double one = seconds_with("1");
    const double four = seconds_with("4");
    EXPECT_LE(four, one) << seed;
    better += static_cast<int>(four < one);
  }
  EXPECT_GT(better, 0);
}

TEST_F(PlanCommand, TableSaysWhoIsWhereAndWhereTheTimeGoes) {
  const Outcome outcome = plan({"--instance", published(), "--evaluations", "200", "--searches", "1"});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  for (const char* part :
       {"30 microbatches", "the full pipeline", "Australia", "the critical microbatch is", "waiting", "idle"}) {
    EXPECT_NE(outcome.out.find(part), std::string::npos) << part << " in\n" << outcome.out;
  }
}

// Of a path of 4 of 6 stages, 8,000 microbatches fit and as many of the full pipeline do not.
TEST_F(PlanCommand, AFullPipelineThatIsTooLargeIsSaidToBe) {
  const std::string file = changed([](json& i) { i["microbatches_per_originator"] = 8'000; });
  const Outcome outcome = plan({"--instance", file, "--evaluations", "1", "--searches", "1"});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  EXPECT_NE(outcome.out.find("too large to be planned: 240000 visits are more than 200000"), std::string::npos)
      << outcome.out;
}

TEST_F(PlanCommand, PictureHasABoxForEachJobAndTellsThemApartByPatternAndLetter) {
  const std::string file = path("plan.svg");
  const Outcome outcome =
      plan({"--instance", published(), "--json", "--evaluations", "10", "--searches", "1", "--svg", file});
  ASSERT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  const std::string svg = read("plan.svg");
  const auto count = [&svg](const std::string& what) {
    std::size_t found = 0;
    for (std::size_t at = svg.find(what); at != std::string::npos; at = svg.find(what, at + 1)) ++found;
    return found;
  };
  EXPECT_EQ(count("<title>forward of microbatch"), 120U);
  EXPECT_EQ(count("<title>loss of microbatch"), 30U);
  EXPECT_EQ(count("<title>backward of microbatch"), 120U);
  EXPECT_GE(count("url(#backward)"), 120U);
  EXPECT_GT(count("stroke-dasharray"), 1U);
  EXPECT_GT(count(">F0<"), 0U);
  EXPECT_GT(count(">B0<"), 0U);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

TEST_F(PlanCommand, LatencyBandwidthAndBytesMakeTheSameDelays) {
  json instance = json::parse(test::read_golden("skippipe_20_nodes.json"));
  constexpr double bytes = 1000.0;
  json latency = instance["delays"];
  json bandwidth = instance["delays"];
  for (std::size_t i = 0; i < 20; ++i) {
    for (std::size_t j = 0; j < 20; ++j) {
      const double delay = instance["delays"][i][j];
      latency[i][j] = delay / 4;
      bandwidth[i][j] = i == j ? 0.0 : bytes / (0.75 * delay);
    }
  }
  instance.erase("delays");
  instance["latency_seconds"] = latency;
  instance["bandwidth_bytes_per_second"] = bandwidth;
  instance["activation_bytes"] = bytes;
  const auto file = parse_plan_file(instance.dump());
  ASSERT_TRUE(file) << file.error().message;
  const auto expected = test::published_instance();
  for (std::size_t k = 0; k < 400; ++k) EXPECT_NEAR(file->instance.delays[k], expected.delays[k], 1e-9);
}

TEST_F(PlanCommand, SpeedsAndMemoryMayBeGivenPerNodeAndSizesLeftOut) {
  json instance = json::parse(test::read_golden("skippipe_20_nodes.json"));
  std::vector<double> speeds(20, 0.5);
  speeds[7] = 1.5;
  std::vector<int> memory(20, 2);
  memory[3] = 6;
  instance["forward_seconds"] = speeds;
  instance["memory"] = memory;
  instance.erase("stage_sizes");
  const auto file = parse_plan_file(instance.dump());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->instance.forward_seconds, speeds);
  EXPECT_EQ(file->instance.memory, memory);
  EXPECT_TRUE(file->instance.stage_sizes.empty());
  EXPECT_EQ(file->instance.originators, 4);  // 20 nodes, 6 stages
  instance["originators"] = 5;
  EXPECT_EQ(parse_plan_file(instance.dump())->instance.originators, 5);
}

TEST_F(PlanCommand, EachBadFileHasItsOwnMessageAndExitCode3) {
  expect_refused(changed([](json& i) { i["delays"][1][3] = -0.5; }), "delays[1][3] is negative");
  expect_refused(changed([](json& i) { i["delays"][1].erase(19); }), "delays[1][19] is missing");
  expect_refused(changed([](json& i) { i["delays"].erase(19); }), "delays[0] has 20 values instead of 19");
  expect_refused(changed([](json& i) { i.erase("delays"); }), "'delays' is missing");
  expect_refused(changed([](json& i) { i["delays"][1][3] = nullptr; }), "nodes 1 and 3 are disconnected");
  expect_refused(changed([](json& i) { i["delays"][1][3] = 1e9; }), "nodes 1 and 3 are disconnected");
  expect_refused(changed([](json& i) { i["delays"][1][3] = "fast"; }), "delays[1][3] must be a number");
  expect_refused(changed([](json& i) { i["delays"][1] = nullptr; }), "delays[1] has 0 values instead of 20");
  expect_refused(changed([](json& i) { i["num_stages"] = 21; }), "fewer nodes (20) than stages (21)");
  expect_refused(changed([](json& i) { i["path_length"] = 7; }),
                 "path_length (7) is more than the number of stages (6)");
  expect_refused(changed([](json& i) { i["path_length"] = 1; }), "path_length is 1; a path visits at least 2 stages");
  expect_refused(changed([](json& i) { i["num_stages"] = 2e9; }), "must be a whole number of at most 1000000000");
  expect_refused(changed([](json& i) { i["microbatches_per_originator"] = 1e9; }), "are more than 200000: lower one");
  expect_refused(changed([](json& i) { i["memory"] = 0; }), "memory of node 0 is 0");
  expect_refused(changed([](json& i) { i["memory"] = 1.5; }), "memory of node 0 is 1.5");
  expect_refused(changed([](json& i) { i["memory"] = {3, 3}; }), "'memory' has 2 values for 20 nodes");
  expect_refused(changed([](json& i) { i.erase("forward_seconds"); }), "'forward_seconds' is missing");
  expect_refused(changed([](json& i) { i["forward_seconds"] = -1; }), "forward_seconds of node 0");
  expect_refused(changed([](json& i) { i.erase("num_stages"); }), "'num_stages' is missing");
  expect_refused(changed([](json& i) { i["stage_sizes"] = {5, 3, 3, 3, 3, 4}; }), "add up to 21");
  expect_refused(changed([](json& i) { i["originators"] = 2; }), "originators is 2, but stage_sizes[0] is 5");
  expect_refused(changed([](json& i) { i["locations"] = 5; }), "'locations' must be a list with a name for each");
  expect_refused(changed([](json& i) { i["locations"].erase(3); }), "'locations' must be a list with a name for each");
  expect_refused(changed([](json& i) { i["locations"][3] = 7; }), "locations[3] must be a text, got 7");
  expect_refused(write("text.json", "stages: 4\n"), "not JSON");
  expect_refused(write("cut.json", "{\"delays\": [[0, 1"), "not JSON");
  expect_refused(write("empty.json", ""), "the file is empty");
  expect_refused(write("blank.json", " \n"), "the file is empty");
  expect_refused(write("list.json", "[1, 2]"), "must hold one JSON object");
  expect_refused(write("twice.json", "{\"memory\": 3, \"delays\": [[0, 1], [1, 0]], \"memory\": 1}"),
                 "'memory' is given twice");
  expect_refused(path("nowhere.json"), "cannot open");
  expect_refused(path(""), "is not a regular file");
}

TEST_F(PlanCommand, ANumberThatIsNoneIsCalledThatAndOnlyThat) {
  for (const char* number : {"NaN", "nan", "Infinity", "-Infinity", "inf", "-inf"}) {
    expect_refused(write("nan.json", fmt::format("{{\"delays\":\n[[0, {}], [1, 0]]}}", number)),
                   "line 2 has NaN or Infinity");
  }
  expect_refused(write("huge.json", "{\"delays\": [[0, 1e999], [1, 0]]}"), "a number is out of range: number overflow");
  expect_refused(write("info.json", "{\"info\" 5}"), "not JSON");
  expect_refused(write("nano.json", "{\"delays\": nano}"), "not JSON");
}

// Deep lists would take the stack away from whatever walks through them, many the memory.
TEST_F(PlanCommand, FilesThatAreOnlyBracketsOrCommasAreRefusedUnparsed) {
  constexpr std::size_t deep = 1'000'000;
  const std::string nest = std::string(deep, '[') + std::string(deep, ']');
  expect_refused(write("deep.json", nest), "nested more than 16 deep");
  expect_refused(write("cell.json", "{\"delays\": [[0, " + nest + "], [1, 0]]}"), "nested more than 16 deep");
  expect_refused(write("other.json", "{\"note\": " + nest + "}"), "nested more than 16 deep");
  expect_refused(write("commas.json", "{\"delays\": [" + std::string(10 * deep, ',')), "more than 9000000 values");
  const std::string quoted = changed([&](json& i) { i["note"] = "\\\"" + nest + std::string(10 * deep, ','); });
  EXPECT_TRUE(read_plan_file(quoted)) << read_plan_file(quoted).error().message;
}

TEST_F(PlanCommand, WhatANodeWouldSendToItselfDoesNotMatter) {
  for (const json& own : {json(1e9), json(nullptr)}) {
    const auto file = read_plan_file(changed([&](json& i) { i["delays"][3][3] = own; }));
    EXPECT_TRUE(file) << file.error().message;
  }
}

// A clock that goes on by a second whenever it is asked.
class HurryingClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(std::chrono::seconds(++asked_)); }
  double unix_seconds() const override { return 0.0; }

 private:
  mutable int asked_ = 0;
};

TEST(PlanSearch, TimeIsTheOuterStop) {
  const pipeline::PlanInstance instance = test::published_instance();
  PlanSearch search{.seed = 1, .evaluations = 20'000, .searches = 1, .seconds = 2.5};
  const FoundPlan cut = search_plan(instance, search, HurryingClock());
  EXPECT_TRUE(cut.stopped_by_time);
  EXPECT_LT(cut.evaluations, search.evaluations);
  EXPECT_NEAR(pipeline::plan_seconds(instance, cut.plan).value(), cut.seconds, 1e-9);
  search.seconds.reset();
  const FoundPlan whole = search_plan(instance, search, HurryingClock());
  EXPECT_FALSE(whole.stopped_by_time);
  EXPECT_GE(whole.evaluations, search.evaluations);
}

TEST_F(PlanCommand, AFileOfAGigabyteIsRefusedUnread) {
  const std::string file = write("large.json", "");
  std::filesystem::resize_file(file, 1'000'000'000);  // a hole: no disk is used, and reading it would take memory
  expect_refused(file, "has 1000000000 bytes; at most 67108864 are read");
}

TEST_F(PlanCommand, WrongUseIsSaidWithExitCode2) {
  const auto expect_usage = [](const std::vector<std::string>& arguments, const std::string& what) {
    const Outcome outcome = plan(arguments);
    EXPECT_EQ(outcome.code, ExitCode::usage) << what;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
  };
  expect_usage({}, "or --instance FILE, for the network to plan for, is missing");
  expect_usage({"--instance", published(), "--seconds", "-1"}, "--seconds must be from 0");
  expect_usage({"--instance", published(), "--seconds", "nan"}, "--seconds must be from 0");
  expect_usage({"--instance", published(), "--seed", "-1"}, "--seed must not be negative");
  expect_usage({"--instance", published(), "--searches", "0"}, "--searches must be from 1 to 256");
  expect_usage({"--instance", published(), "--searches", "257"}, "--searches must be from 1 to 256");
  const std::string large = changed([](json& i) { i["microbatches_per_originator"] = 10'000; });
  expect_usage({"--instance", large, "--searches", "21"},
               "--searches must be from 1 to 20 for an instance of 200000 visits");
  expect_usage({"--instance", published(), "--evaluations", "-1"}, "--evaluations must be from 0");
}

}  // namespace
}  // namespace starling::launcher
