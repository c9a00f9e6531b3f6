// A real Prometheus finds our targets through service discovery and keeps what it scrapes from them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <thread>

#include "gossip/base/real_env.h"
#include "metrics/handles.h"
#include "metrics/http_server.h"
#include "tests/metrics/full_metrics.h"
#include "tests/metrics/prometheus_process.h"

namespace starling::metrics {
namespace {

using namespace std::chrono_literals;

std::set<std::string> instances(const std::vector<Sample>& samples) {
  std::set<std::string> out;
  for (const Sample& sample : samples) out.insert(sample.labels.at("instance"));
  return out;
}

TEST(Prometheus, ScrapesARunThroughServiceDiscovery) {
  if (!PrometheusProcess::is_installed()) GTEST_SKIP() << "prometheus is not installed: launcher/setup.sh installs it";
  const auto directory =
      std::filesystem::path(::testing::TempDir()) / ("prometheus_test." + std::to_string(::getpid()));
  std::filesystem::remove_all(directory);
  std::filesystem::create_directories(directory);
  const RealClock clock;
  const auto server = HttpServer::start({.listen = "127.0.0.1:0"}, clock).value();

  const auto observer = full_metrics(4, 3);
  Metrics worker("run1");
  worker.training_loss("w01").set(3.5);
  worker.learning_rate("w01").set(5.9e-7);
  const auto worker_text = std::make_shared<const std::string>(worker.text());
  // What the loop of a node does about once a second; w02 has been silent for long.
  const std::jthread loop([&](const std::stop_token& ended) {
    while (!ended.stop_requested()) {
      auto snapshot = std::make_shared<HttpSnapshot>();
      snapshot->made_at = clock.now();
      snapshot->name = "observer";
      snapshot->metrics_text = observer->text();
      snapshot->workers["id1"] = {"w01", worker_text, clock.now()};
      snapshot->workers["id2"] = {"w02", worker_text, clock.now() - 1h};
      server->publish(std::move(snapshot));
      std::this_thread::sleep_for(100ms);
    }
  });
  {
    const auto prometheus = PrometheusProcess::start(directory, server->url() + "/api/v1/sd");
    ASSERT_TRUE(prometheus) << prometheus.error().message;
    const auto up = (*prometheus)->wait_for("up == 1", 2, 60s);
    EXPECT_THAT(instances(up), ::testing::ElementsAre("observer", "w01"));
    EXPECT_THAT(instances((*prometheus)->wait_for("up == 0", 1, 10s)), ::testing::ElementsAre("w02"));

    const auto loss = (*prometheus)->wait_for("starling_training_loss{run_id=\"run1\"}", 1, 10s);
    ASSERT_EQ(loss.size(), 1U);
    EXPECT_EQ(loss[0].value, 3.5);
    EXPECT_EQ(loss[0].labels.at("instance"), "w01");
    EXPECT_EQ(loss[0].labels.at("worker"), "w01");
    EXPECT_EQ((*prometheus)->query("starling_learning_rate{run_id=\"run1\"}").at(0).value, 5.9e-7);
    EXPECT_EQ((*prometheus)->query("starling_workers").size(), 10U);  // five states, from two nodes

    const auto targets = (*prometheus)->targets();
    EXPECT_EQ(targets.size(), 3U);
    EXPECT_EQ(targets.at(server->url() + "/metrics"), "");
    EXPECT_EQ(targets.at(server->url() + "/api/v1/workers/id1/metrics"), "");
    EXPECT_THAT(targets.at(server->url() + "/api/v1/workers/id2/metrics"), ::testing::HasSubstr("503"));
  }
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace starling::metrics
