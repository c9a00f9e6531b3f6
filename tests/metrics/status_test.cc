#include "metrics/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>
#include <sstream>

namespace starling::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

RunStatus small_run() {
  RunStatus status;
  status.run_id = "4f1c0a9b2e77";
  status.name = "llama-125m";
  status.state = RunState::training;
  status.step = 1200;
  status.max_steps = 25000;
  status.loss = 3.412;
  status.tokens_per_second = 41200;
  status.join = "token";
  status.stages = {{0, 2}, {1, 1}};
  WorkerStatus local;
  local.id = std::string(64, 'a');
  local.name = "w00";
  local.pid = 4711;
  local.host = "127.0.0.1";
  local.stage = 0;
  local.state = WorkerState::active;
  local.step = 1200;
  local.tokens_per_second = 20600;
  local.http = "127.0.0.1:9465";
  local.rss_bytes = 412ULL << 20;
  WorkerStatus elsewhere;
  elsewhere.id = std::string(64, 'b');
  elsewhere.name = "volunteer";
  elsewhere.host = "203.0.113.7";
  elsewhere.stage = no_stage;
  status.workers = {local, elsewhere};
  return status;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

TEST(RunStatus, HasTheKeysThatProgramsExpect) {
  EXPECT_EQ(to_json(small_run()),
            "{\"run_id\":\"4f1c0a9b2e77\",\"name\":\"llama-125m\",\"state\":\"training\",\"step\":1200,"
            "\"max_steps\":25000,\"loss\":3.412,\"tokens_per_second\":41200.0,\"join\":\"token\","
            "\"stages\":[{\"stage\":0,\"replicas\":2},{\"stage\":1,\"replicas\":1}],\"workers\":["
            "{\"id\":\"" +
                std::string(64, 'a') +
                "\",\"name\":\"w00\",\"pid\":4711,\"host\":\"127.0.0.1\",\"stage\":0,"
                "\"state\":\"active\",\"step\":1200,\"tokens_per_second\":20600.0,\"http\":\"127.0.0.1:9465\","
                "\"rss_bytes\":432013312},"
                "{\"id\":\"" +
                std::string(64, 'b') +
                "\",\"name\":\"volunteer\",\"host\":\"203.0.113.7\",\"stage\":-1,"
                "\"state\":\"joining\",\"step\":0,\"tokens_per_second\":null,\"http\":null,\"rss_bytes\":null}]}");
}

TEST(RunStatus, ReadsBackWhatItWrote) {
  EXPECT_EQ(parse_run_status(to_json(small_run())).value(), small_run());
  EXPECT_EQ(parse_run_status(to_json({})).value(), RunStatus{});
}

TEST(RunStatus, NamesEveryState) {
  const std::vector<std::string_view> names = {"joining", "active", "paused", "suspect", "dead", "left"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    RunStatus status = small_run();
    status.workers[0].state = static_cast<WorkerState>(i);
    EXPECT_EQ(to_string(status.workers[0].state), names[i]);
    EXPECT_EQ(parse_run_status(to_json(status)).value(), status);
  }
  EXPECT_EQ(to_string(RunState::waiting), "waiting");
  EXPECT_EQ(to_string(RunState::training), "training");
  EXPECT_EQ(to_string(RunState::finished), "finished");
}

TEST(RunStatus, WritesNothingThatIsNoJson) {
  RunStatus status = small_run();
  status.loss = std::numeric_limits<double>::quiet_NaN();
  status.tokens_per_second = std::numeric_limits<double>::infinity();
  status.workers[1].name = "\xff\"\n";
  const auto back = parse_run_status(to_json(status));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_FALSE(back->loss);
  EXPECT_FALSE(back->tokens_per_second);
}

TEST(RunStatus, IgnoresKeysOfANewerNode) {
  std::string json = to_json(small_run());
  json.insert(1, "\"more\":{\"a\":[1,2]},");
  EXPECT_EQ(parse_run_status(json).value(), small_run());
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(RunStatus, SaysWhichKeyIsWrong) {
  const std::string json = to_json(small_run());
  struct Case {
    std::string json;
    std::string message;
  };
  const std::vector<Case> cases = {
      {"", "no JSON"},
      {"hello", "no JSON"},
      {"[]", "expected an object, got an array"},
      {"{}", "run_id: expected it, but it is not there"},
      {replaced(json, "\"training\"", "\"sleeping\""),
       "state: expected one of waiting training finished, got \"sleeping\""},
      {replaced(json, "1200", "\"1200\""), "step: expected an integer from 0"},
      {replaced(json, "1200", "-1"), "step: expected an integer from 0"},
      {replaced(json, "1200", "12.5"), "got 12.5"},
      {replaced(json, "1200", "18446744073709551615"), "got 18446744073709551615"},
      {replaced(json, "3.412", "\"low\""), "loss: expected a number or null"},
      {replaced(json, "\"stages\":[", "\"stages\":[7,"), "stages[0].: expected an object, got 7"},
      {replaced(json, "\"replicas\":1", "\"replicas\":null"), "stages[1].replicas: expected an integer"},
      {replaced(json, "4711", "0"), "workers[0].pid: expected an integer from 1"},
      {replaced(json, "\"stage\":-1", "\"stage\":-2"), "workers[1].stage: expected an integer from -1"},
      {replaced(json, "\"volunteer\"", "\"" + std::string(300, 'v') + "\""),
       "workers[1].name: expected at most 256 bytes"},
      {replaced(json, "\"workers\":[", "\"workers\":{},\"x\":["), "workers: expected a list"},
  };
  for (const Case& each : cases) {
    const auto status = parse_run_status(each.json);
    ASSERT_FALSE(status) << each.json;
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    EXPECT_THAT(status.error().message, HasSubstr(each.message));
    EXPECT_LT(status.error().message.size(), 300U);
  }
}

TEST(RunStatus, SurvivesHostileInput) {
  EXPECT_EQ(parse_run_status(std::string(max_status_bytes + 1, ' ')).error().code, ErrorCode::limit);
  EXPECT_FALSE(parse_run_status(std::string(20000, '[')));
  std::string nested = "{\"run_id\":";
  for (int i = 0; i < 20000; ++i) nested += "{\"a\":";
  EXPECT_FALSE(parse_run_status(nested));
  EXPECT_FALSE(parse_run_status(std::string(20000, '[') + std::string(20000, ']')));
  EXPECT_FALSE(parse_run_status("{\"run_id\":" + std::string(20000, '[') + std::string(20000, ']') + "}"));
  EXPECT_FALSE(parse_run_status("{\"run_id\":\"\xff\xff\"}"));
  std::string many_keys = "{";
  for (int i = 0; i < 10000; ++i) many_keys += "\"k" + std::to_string(i) + "\":0,";
  EXPECT_FALSE(parse_run_status(many_keys + "\"z\":0}"));
  std::string many_workers = replaced(to_json(small_run()), "\"workers\":[", "\"workers\":[0");
  std::string zeros;
  for (std::size_t i = 0; i < max_status_workers; ++i) zeros += ",0";
  EXPECT_THAT(parse_run_status(replaced(many_workers, "[0{", "[0" + zeros + ",{")).error().message,
              HasSubstr("workers: expected at most 10000"));
}

// Any cut or changed byte: never a crash, and never a status that could not have been written.
RC_GTEST_PROP(RunStatus, SurvivesDamage, ()) {
  std::string json = to_json(small_run());
  const auto at = *rc::gen::inRange<std::size_t>(0, json.size());
  if (*rc::gen::arbitrary<bool>()) {
    json.resize(at);
    RC_ASSERT(!parse_run_status(json));
  } else {
    json[at] = *rc::gen::arbitrary<char>();
    const auto status = parse_run_status(json);
    if (status) RC_ASSERT(parse_run_status(to_json(*status)).has_value());
  }
}

TEST(StatusTable, ShowsASmallRun) {
  EXPECT_EQ(format_run_status(small_run(), "stale since 12:03"),
            "llama-125m  run 4f1c0a9b2e77\n"
            "training (stale since 12:03)  step 1200/25000  loss 3.41  tok/s 41.2k  workers 1/2\n"
            "stages  0: 2  1: 1\n"
            "\n"
            "NAME             ID       STATE   STAGE     STEP  TOK/S    MEMORY     PID HTTP\n"
            "w00              aaaaaaaa active      0     1200  20.6k   412 MiB    4711 127.0.0.1:9465\n"
            "volunteer        bbbbbbbb joining     -        0      -         -       - 203.0.113.7\n");
}

TEST(StatusTable, NeverShowsTheToken) {
  RunStatus status = small_run();
  status.join = "SECRET-TOKEN";
  EXPECT_THAT(format_run_status(status), Not(HasSubstr("SECRET")));
}

TEST(StatusTable, SummarisesALargeRun) {
  RunStatus status = small_run();
  status.workers.clear();
  for (int i = 0; i < 200; ++i) {
    WorkerStatus worker;
    worker.id = std::to_string(i);
    worker.name = "w" + std::to_string(i);
    worker.stage = i % 4;
    worker.state = i % 3 == 0 ? WorkerState::dead : WorkerState::active;
    worker.step = 1000 + i;
    worker.tokens_per_second = 100;
    status.workers.push_back(worker);
  }
  const std::string table = format_run_status(status);
  EXPECT_THAT(table, HasSubstr("workers 133/200"));
  EXPECT_THAT(table, HasSubstr("STAGE  ACTIVE JOINING  PAUSED SUSPECT    DEAD    LEFT               STEPS   TOK/S\n"));
  EXPECT_THAT(table, HasSubstr("    0      33       0       0       0      17       0          1000..1196   5.00k\n"));
  EXPECT_THAT(table, HasSubstr("w3 "));       // dead
  EXPECT_THAT(table, Not(HasSubstr("w1 ")));  // as it should be
  EXPECT_THAT(table, HasSubstr("and 47 more that are not active"));
  EXPECT_LT(lines_of(table).size(), 40U);
}

// Names, hosts, numbers: whatever a peer claims, the table keeps its width and holds no control character.
RC_GTEST_PROP(StatusTable, FitsTheTerminal,
              (const std::vector<std::uint8_t>& bytes, std::int64_t number, double real)) {
  RunStatus status = small_run();
  const std::string text(bytes.begin(), bytes.end());
  status.name = text + std::string(200, 'n');
  status.step = number;
  status.tokens_per_second = real;
  status.loss = real;
  for (int i = 0; i < 100; ++i) status.stages.push_back({i, number});
  for (WorkerStatus& worker : status.workers) {
    worker.name = text;
    worker.host = text + "host";
    worker.step = number;
    worker.tokens_per_second = real;
    worker.rss_bytes = static_cast<std::uint64_t>(number);
    worker.pid = number;
    worker.state = WorkerState::suspect;
  }
  if (*rc::gen::arbitrary<bool>()) status.workers.resize(status_table_workers + 1, status.workers.back());
  for (const std::string& line : lines_of(format_run_status(status, text))) {
    std::size_t columns = 0;
    for (const char c : line) {
      RC_ASSERT(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
      columns += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }
    RC_ASSERT(columns <= status_table_columns);
  }
}

TEST(StatusTable, CountsWideCharactersTwice) {
  RunStatus status = small_run();
  status.workers[0].name = "\u661f\u9ce5\u661f\u9ce5\u661f\u9ce5\u661f\u9ce5\u661f";  // nine of two columns
  EXPECT_THAT(format_run_status(status), HasSubstr("\u661f\u9ce5\u661f\u9ce5\u661f\u9ce5\u661f\u9ce5 aaaaaaaa active"));
}

}  // namespace
}  // namespace starling::metrics
