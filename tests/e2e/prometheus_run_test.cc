// A real Prometheus and a real run: one address of the observer is all that Prometheus is told.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gossip/base/random.h"
#include "tests/metrics/prometheus_process.h"

namespace starling::metrics {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

// Sentences enough for a byte model to have something to learn.
void write_text(const std::filesystem::path& path) {
  static constexpr std::string_view who[] = {"The starling", "A swarm", "One bird", "The whole flock", "Nobody"};
  static constexpr std::string_view does[] = {"turns with", "waits for", "follows", "flies around", "outlives"};
  static constexpr std::string_view whom[] = {"its neighbours", "the evening", "a falcon", "the others", "the wind"};
  std::ofstream out(path);
  Stream stream(7);
  for (int i = 0; i < 4000; ++i) {
    out << who[stream.below(5)] << " " << does[stream.below(5)] << " " << whom[stream.below(5)] << ".\n";
  }
}

// `starling launch` of a small run that has no end of its own.
class LaunchedRun {
 public:
  LaunchedRun(const std::filesystem::path& directory, const std::string& starling, const std::string& run_file)
      : directory_(directory) {
    write_text(directory / "text.txt");
    std::vector<std::string> words = {starling, "launch", run_file, "--local-workers", "4"};
    for (const char* setting :
         {"run.name=scraped", "model.hidden_size=32", "model.intermediate_size=64", "model.num_hidden_layers=2",
          "model.num_attention_heads=2", "model.num_key_value_heads=1", "training.seq_len=32",
          "training.micro_batch_size=2", "training.microbatches=8", "training.max_steps=1000000",
          "parallelism.stages=2", "parallelism.replicas=2", "outer.local_steps=5", "logging.log_interval=1",
          "eval.interval=0", "http.listen=127.0.0.1:0", "network.listen=tcp://127.0.0.1:0"}) {
      words.insert(words.end(), {"--set", setting});
    }
    words.insert(words.end(), {"--set", "run.output_dir=" + directory.string(), "--set",
                               "data.train=[" + (directory / "text.txt").string() + "]"});
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      const int out = ::open((directory / "launch.out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(out, STDERR_FILENO);
      ::execv(arguments[0], arguments.data());
      ::_exit(127);
    }
  }
  ~LaunchedRun() {
    if (pid_ > 0) end(30s);
  }
  LaunchedRun(const LaunchedRun&) = delete;
  LaunchedRun& operator=(const LaunchedRun&) = delete;

  // Where the observer answers HTTP, "" if that is not known in time.
  std::string http(std::chrono::seconds at_most) const {
    const auto deadline = std::chrono::steady_clock::now() + at_most;
    while (std::chrono::steady_clock::now() < deadline) {
      std::ifstream in(directory_ / "scraped" / "launch.json");
      const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json.contains("http")) {
        const std::string address = json.at("http").get<std::string>();
        return address.starts_with("http://") ? address : "http://" + address;
      }
      std::this_thread::sleep_for(100ms);
    }
    return "";
  }

  // As Ctrl-C; the exit code, or -1 for a launcher that did not end in time (it is killed).
  int end(std::chrono::seconds at_most) {
    ::kill(pid_, SIGINT);
    const auto deadline = std::chrono::steady_clock::now() + at_most;
    int status = 0;
    while (::waitpid(pid_, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > deadline) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, &status, 0);
        break;
      }
      std::this_thread::sleep_for(100ms);
    }
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string output() const {
    std::ostringstream out;
    out << std::ifstream(directory_ / "launch.out").rdbuf();
    return out.str();
  }

 private:
  const std::filesystem::path directory_;
  pid_t pid_ = -1;
};

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
  const std::string binary = std::getenv("STARLING_TEST_BINARY_DIR");
  const auto directory =
      std::filesystem::path(::testing::TempDir()) / ("prometheus_run_test." + std::to_string(::getpid()));
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);

  LaunchedRun run(directory, binary + "/starling", source + "/configs/quickstart.yaml");
  const std::string http = run.http(60s);
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
