#include "metrics/event_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

namespace starling::metrics {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FixedClock final : public Clock {
 public:
  TimePoint now() const override { return {}; }
  double unix_seconds() const override { return 1763700000.12345; }
};

class EventLogTest : public ::testing::Test {
 protected:
  EventLogTest() : directory_(fs::path(::testing::TempDir()) / ("event_log_test." + std::to_string(::getpid()))) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  ~EventLogTest() override { fs::remove_all(directory_); }
  std::string text(const std::string& name) const {
    std::ifstream in(directory_ / name, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }
  void put(const std::string& name, const std::string& bytes) const {
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
  }

  const fs::path directory_;
  const FixedClock clock_;
};

TEST_F(EventLogTest, WritesOneObjectALine) {
  JsonEventLog log(LineFile::open(directory_ / "events.jsonl").value(), clock_, "w03");
  log.write("exchange", {{"round", std::int64_t{7}}, {"result", std::string("averaged")}, {"seconds", 0.25}});
  log.write("dead", {{"worker", std::string("w05")}, {"silent_seconds", 4.5}});
  EXPECT_EQ(text("events.jsonl"),
            "{\"time\":1763700000.123,\"event\":\"exchange\",\"worker\":\"w03\",\"round\":7,\"result\":\"averaged\","
            "\"seconds\":0.25}\n"
            "{\"time\":1763700000.123,\"event\":\"dead\",\"worker\":\"w05\",\"silent_seconds\":4.5,\"by\":\"w03\"}\n");
}

TEST_F(EventLogTest, ReadsBackWhatItWrote) {
  JsonEventLog log(LineFile::open(directory_ / "events.jsonl").value(), clock_, "w03");
  log.write("join", {{"stage", std::int64_t{2}}, {"host", std::string("example")}, {"speed", 1.5}});
  const auto events = read_events(directory_ / "events.jsonl");
  ASSERT_TRUE(events);
  ASSERT_EQ(events->lines.size(), 1U);
  EXPECT_EQ(events->skipped, 0U);
  EXPECT_EQ(events->lines[0].event, "join");
  EXPECT_EQ(events->lines[0].worker, "w03");
  std::map<std::string, std::variant<std::string, double, std::int64_t>> fields;
  for (const EventField& field : events->lines[0].fields) fields[field.name] = field.value;
  EXPECT_EQ(std::get<std::int64_t>(fields.at("stage")), 2);
  EXPECT_EQ(std::get<std::string>(fields.at("host")), "example");
  EXPECT_EQ(std::get<double>(fields.at("speed")), 1.5);
}

TEST_F(EventLogTest, AFieldCannotForgeTheLine) {
  JsonEventLog log(LineFile::open(directory_ / "events.jsonl").value(), clock_, "w03");
  log.write("leave", {{"event", std::string("join")},
                      {"time", 0.0},
                      {"why", std::string("bye\n{\"event\":\"join\"}")},
                      {"bytes", std::string("\xff\xfe")},
                      {"ratio", std::numeric_limits<double>::infinity()}});
  const auto events = read_events(directory_ / "events.jsonl");
  ASSERT_TRUE(events);
  ASSERT_EQ(events->lines.size(), 1U);
  EXPECT_EQ(events->lines[0].event, "leave");
  EXPECT_GT(events->lines[0].time, 1.7e9);
  EXPECT_THAT(text("events.jsonl"), HasSubstr("\"ratio\":null"));
}

TEST(MetricsLine, HasTheKeysThatPlotsExpect) {
  MetricsLine line;
  line.time = 1763700000.12345;
  line.step = 120;
  line.worker = "w03";
  line.stage = 0;
  line.tokens = 1966080;
  line.loss = 3.41;
  line.learning_rate = 5.9e-4;
  line.gradient_norm = 0.8;
  line.tokens_per_second = 41200.5;
  line.flops_utilization = 0.5;
  line.skip_ratio = 0.01;
  line.workers_active = 23;
  line.validation_loss = 3.5;
  line.divergence = 0.02;
  EXPECT_EQ(to_json(line),
            "{\"time\":1763700000.123,\"step\":120,\"worker\":\"w03\",\"stage\":0,\"tokens\":1966080,"
            "\"train/loss\":3.41,\"train/lr\":0.00059,\"train/grad_norm\":0.8,"
            "\"throughput/tokens_per_second\":41200.5,\"throughput/mfu\":0.5,\"pipeline/skip_ratio\":0.01,\"workers/active\":23,"
            "\"val/loss\":3.5,\"outer/divergence\":0.02}");
}

TEST(MetricsLine, LeavesOutWhatAWorkerDoesNotHave) {
  MetricsLine line;
  line.worker = "w04";
  line.stage = 2;
  line.step = 5;
  EXPECT_EQ(to_json(line), "{\"time\":0.0,\"step\":5,\"worker\":\"w04\",\"stage\":2,\"tokens\":0}");
  const auto back = metrics_line_from_json(to_json(line));
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->loss);
  EXPECT_FALSE(back->workers_active);
}

TEST(MetricsLine, ShowsALossThatIsNotFinite) {
  MetricsLine line;
  line.worker = "w0";
  line.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(to_json(line), HasSubstr("\"train/loss\":null"));
  const auto back = metrics_line_from_json(to_json(line));
  ASSERT_TRUE(back && back->loss);
  EXPECT_TRUE(std::isnan(*back->loss));
}

RC_GTEST_PROP(MetricsLine, ReadsBackWhatItWrote,
              (std::int64_t step, std::uint8_t stage, std::int64_t tokens, double loss, std::uint16_t workers)) {
  MetricsLine line;
  line.step = step;
  line.worker = "w03";
  line.stage = stage;
  line.tokens = tokens;
  line.loss = loss;
  line.workers_active = workers;
  const auto back = metrics_line_from_json(to_json(line));
  RC_ASSERT(back.has_value());
  RC_ASSERT(back->step == step);
  RC_ASSERT(back->stage == stage);
  RC_ASSERT(back->tokens == tokens);
  RC_ASSERT(*back->loss == loss);
  RC_ASSERT(*back->workers_active == workers);
}

TEST(MetricsLine, RefusesWhatIsNoLine) {
  for (const char* text : {"", "{", "null", "[]", "{}", "7", "{\"time\":1,\"step\":2}",
                           "{\"time\":1,\"step\":\"2\",\"worker\":\"a\",\"stage\":0,\"tokens\":0}",
                           "{\"time\":1,\"step\":2.5,\"worker\":\"a\",\"stage\":0,\"tokens\":0}",
                           "{\"time\":1,\"step\":18446744073709551615,\"worker\":\"a\",\"stage\":0,\"tokens\":0}",
                           "{\"time\":1,\"step\":2,\"worker\":\"a\",\"stage\":99999999999,\"tokens\":0}",
                           "{\"time\":1,\"step\":2,\"worker\":7,\"stage\":0,\"tokens\":0}"}) {
    EXPECT_FALSE(metrics_line_from_json(text)) << text;
  }
}

TEST_F(EventLogTest, AReaderSkipsTornLines) {
  MetricsLine line;
  line.worker = "w0";
  std::string whole[3];
  for (int i = 0; i < 3; ++i) {
    line.step = i;
    whole[i] = to_json(line);
  }
  put("metrics.jsonl", whole[0] + "\n" + whole[1].substr(0, 20) + "\n" + whole[1] + "\n\n" + whole[2]);
  const auto lines = read_metrics(directory_ / "metrics.jsonl");
  ASSERT_TRUE(lines);
  ASSERT_EQ(lines->lines.size(), 2U);
  EXPECT_EQ(lines->lines[1].step, 1);
  EXPECT_EQ(lines->skipped, 3U);  // torn in the middle, empty, without its end
}

TEST_F(EventLogTest, AReaderIsNotImpressedByHostileFiles) {
  put("nothing", "");
  EXPECT_TRUE(read_metrics(directory_ / "nothing")->lines.empty());
  std::string huge(200 << 10, 'x');
  put("huge",
      huge + "\n{\"time\":1,\"step\":2,\"worker\":\"a\",\"stage\":0,\"tokens\":0}\n" + std::string(300 << 10, '['));
  const auto lines = read_metrics(directory_ / "huge");
  ASSERT_TRUE(lines);
  EXPECT_EQ(lines->lines.size(), 1U);
  EXPECT_EQ(lines->skipped, 2U);
  put("nested", std::string(60 << 10, '[') + "\n");
  EXPECT_EQ(read_metrics(directory_ / "nested")->skipped, 1U);
  const std::string deep = std::string(30 << 10, '[') + std::string(30 << 10, ']');
  put("deep", "{\"time\":1,\"event\":\"a\",\"worker\":\"b\",\"more\":" + deep + ",\"step\":" + deep + "}\n" +
                  "{\"time\":1,\"event\":\"a\",\"worker\":\"b\",\"more\":" + deep + "}\n");
  EXPECT_EQ(read_events(directory_ / "deep")->lines.size(), 1U);  // the first is longer than a line may be
  EXPECT_EQ(read_metrics(directory_ / "deep")->skipped, 2U);
  EXPECT_EQ(read_metrics(directory_ / "none").error().code, ErrorCode::not_found);
  EXPECT_FALSE(read_metrics(directory_));
}

TEST_F(EventLogTest, OpenSaysWhatIsWrong) {
  EXPECT_EQ(LineFile::open(directory_ / "none" / "file").error().code, ErrorCode::not_found);
  const auto failed = LineFile::open(directory_);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::io);
  EXPECT_THAT(failed.error().message, HasSubstr(directory_.string()));
}

TEST_F(EventLogTest, CountsWhatAFullDiskSwallowsAndSaysSoOnce) {
  auto file = LineFile::open("/dev/full");
  ASSERT_TRUE(file);
  ::testing::internal::CaptureStderr();
  for (int i = 0; i < 3; ++i) file->append("{}");
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(file->lost_lines(), 3U);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
  EXPECT_THAT(said, HasSubstr("No space left"));
}

// A file may grow to 100 bytes only: the second line is cut, and the next one, once there is room, starts on a line of
// its own.
TEST_F(EventLogTest, ALineThatTheDiskCutShortSpoilsNoOther) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    auto file = LineFile::open(directory_ / "lines");
    limit.rlim_cur = 100;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    file->append(std::string(60, 'a'));
    file->append(std::string(60, 'b'));  // 39 bytes of it fit
    file->append(std::string(60, 'c'));  // none
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    file->append(std::string(60, 'd'));
    ::_exit(file->lost_lines() == 2 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(text("lines"), std::string(60, 'a') + "\n" + std::string(39, 'b') + "\n" + std::string(60, 'd') + "\n");
}

// What the run directory lives on: several processes append at once and no line is mixed with another.
TEST_F(EventLogTest, ProcessesThatAppendAtOnceDoNotMixTheirLines) {
  constexpr int writers = 4;
  constexpr int lines_each = 500;
  std::vector<pid_t> children;
  for (int writer = 0; writer < writers; ++writer) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto file = LineFile::open(directory_ / "metrics.jsonl");
      MetricsLine line;
      line.worker = "w" + std::to_string(writer) + std::string(200, 'x');
      for (int i = 0; i < lines_each; ++i) {
        line.step = i;
        file->append(to_json(line));
      }
      ::_exit(file->lost_lines() == 0 ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  const auto lines = read_metrics(directory_ / "metrics.jsonl");
  ASSERT_TRUE(lines);
  EXPECT_EQ(lines->skipped, 0U);
  EXPECT_EQ(lines->lines.size(), static_cast<std::size_t>(writers * lines_each));
  std::map<std::string, Step> next;
  for (const MetricsLine& line : lines->lines) EXPECT_EQ(line.step, next[line.worker]++);
}

TEST_F(EventLogTest, ALineBreakInALineIsABug) {
  auto file = LineFile::open(directory_ / "lines");
  EXPECT_DEATH(file->append("a\nb"), "one line break, at its end");
}

}  // namespace
}  // namespace starling::metrics
