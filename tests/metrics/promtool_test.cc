// What we export, judged by Prometheus' own linter.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/metrics/full_metrics.h"
#include "tests/metrics/tools.h"

namespace starling::metrics {
namespace {

struct Verdict {
  int status = -1;
  std::string said;
};

// Setup installs promtool. Where somebody builds without it the tests say that they were skipped.
const std::string& promtool() {
  static const std::string tool = find_tool("promtool");
  return tool;
}

Verdict check_metrics(const std::string& text) {
  const auto file = std::filesystem::path(::testing::TempDir()) / ("promtool." + std::to_string(::getpid()) + ".txt");
  std::ofstream(file) << text;
  Verdict verdict;
  FILE* pipe = ::popen(("'" + promtool() + "' check metrics < '" + file.string() + "' 2>&1").c_str(), "r");
  if (pipe == nullptr) return verdict;
  char block[4096];
  for (std::size_t n; (n = std::fread(block, 1, sizeof block, pipe)) > 0;) verdict.said.append(block, n);
  verdict.status = ::pclose(pipe);
  std::filesystem::remove(file);
  return verdict;
}

TEST(Promtool, FindsNothingToSayAboutOurMetrics) {
  if (promtool().empty()) GTEST_SKIP() << "promtool is not installed: launcher/setup.sh installs it";
  for (const std::string& text : {Metrics("r").text(), full_metrics(4, 8)->text()}) {
    const Verdict verdict = check_metrics(text);
    EXPECT_EQ(verdict.status, 0);
    EXPECT_EQ(verdict.said, "");
  }
}

TEST(Promtool, AcceptsNamesAndValuesThatAreOutOfTheOrdinary) {
  if (promtool().empty()) GTEST_SKIP() << "promtool is not installed: launcher/setup.sh installs it";
  auto metrics = full_metrics(1, 1);
  metrics->worker_up("quote \" back \\ break \n bytes \xff\xfe brace {} comma ,").set(-1e300);
  metrics->training_loss("nan").set(std::nan(""));
  metrics->training_loss("inf").set(-HUGE_VAL);
  const Verdict verdict = check_metrics(metrics->text());
  EXPECT_EQ(verdict.status, 0) << verdict.said;
  EXPECT_EQ(verdict.said, "");
}

// So that the two tests above can fail.
TEST(Promtool, WouldComplain) {
  if (promtool().empty()) GTEST_SKIP() << "promtool is not installed: launcher/setup.sh installs it";
  EXPECT_NE(check_metrics("# HELP a_counter Help.\n# TYPE a_counter counter\na_counter 1\n").status, 0);
}

}  // namespace
}  // namespace starling::metrics
