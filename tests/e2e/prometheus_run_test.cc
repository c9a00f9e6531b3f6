// A real Prometheus and a real run: one address of the observer is all that Prometheus is told.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "tests/e2e/launched_run.h"
#include "tests/metrics/prometheus_process.h"

namespace starling::metrics {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

std::set<std::string> values_of(const std::vector<Sample>& samples, const std::string& label) {
  std::set<std::string> out;
  for (const Sample& sample : samples) {
    const auto found = sample.labels.find(label);
    out.insert(found == sample.labels.end() ? "(none)" : found->second);
  }
  return out;
}

TEST(PrometheusRun, SeesEveryWorkerOfARunThroughTheObserver) {
  if (!PrometheusProcess::is_installed()) GTEST_SKIP() << "prometheus is not installed: launcher/setup.sh installs it";
  const std::string source = std::getenv("STARLING_TEST_SOURCE_DIR");
  const auto directory =
      std::filesystem::path(::testing::TempDir()) / ("prometheus_run_test." + std::to_string(::getpid()));
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);

  write_text(directory / "text.txt");
  // A small run that has no end of its own.
  LaunchedRun run(directory, source + "/configs/quickstart.yaml",
                  {"run.name=scraped", "model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=2",
                   "model.num_attention_heads=2", "model.num_key_value_heads=1", "training.seq_len=32",
                   "training.micro_batch_size=2", "training.microbatches=8", "training.max_steps=1000000",
                   "parallelism.stages=2", "parallelism.replicas=2", "outer.local_steps=5", "logging.log_interval=1",
                   "eval.interval=0", "data.train=[" + (directory / "text.txt").string() + "]"},
                  4);
  const std::string http = run.http("scraped", 60s);
  ASSERT_NE(http, "") << run.output();
  {
    auto prometheus = PrometheusProcess::start(directory, http + "/api/v1/sd");
    ASSERT_TRUE(prometheus) << prometheus.error().message;
    const PrometheusProcess& server = **prometheus;

    EXPECT_THAT(values_of(server.wait_for("up == 1", 5, 120s), "instance"),
                ElementsAre("observer", "w00", "w01", "w02", "w03"))
        << run.output();
    // Two originators tell their loss; all four close steps, and the numbers are those of a run that goes on.
    EXPECT_EQ(server.wait_for("starling_training_loss > 0 < 10", 2, 60s).size(), 2U);
    EXPECT_THAT(values_of(server.wait_for("increase(starling_training_steps_total[10s]) > 0", 4, 60s), "worker"),
                ElementsAre("w00", "w01", "w02", "w03"));
    EXPECT_EQ(server.wait_for("starling_workers{instance=\"observer\",state=\"active\"} == 4", 1, 10s).size(), 1U);
    EXPECT_EQ(server.wait_for("starling_stage_replicas{instance=\"observer\"} == 2", 2, 10s).size(), 2U);
    EXPECT_GE(server.wait_for("starling_outer_rounds_total{result=\"averaged\"} > 0", 4, 60s).size(), 4U);
    EXPECT_GE(server.wait_for("process_resident_memory_bytes > 1e6", 5, 10s).size(), 5U);
    // Every series of ours says which run it is of, and it is one run.
    EXPECT_EQ(values_of(server.query("{__name__=~\"starling_.*|process_.*\"}"), "run_id").size(), 1U);
    EXPECT_EQ(values_of(server.query("{__name__=~\"starling_.*\"}"), "run_id").count("(none)"), 0U);
    for (const auto& [url, error] : server.targets()) EXPECT_EQ(error, "") << url;
  }
  EXPECT_EQ(run.end(60s), 0) << run.output();
  if (!HasFailure()) std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace starling::metrics
