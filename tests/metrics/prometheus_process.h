// Debian's Prometheus as a child process that scrapes what one service discovery address names.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gossip/base/error.h"

namespace starling::metrics {

// One series of an instant query.
struct Sample {
  std::map<std::string, std::string> labels;
  double value = 0.0;
};

class PrometheusProcess {
 public:
  static bool is_installed();
  // Scrapes and rediscovers every second; keeps its data and its log (prometheus.log) in `directory`.
  // Errors: io.
  static Result<std::unique_ptr<PrometheusProcess>> start(const std::filesystem::path& directory,
                                                          const std::string& discovery_url);
  // Ends the process and waits for it.
  ~PrometheusProcess();
  PrometheusProcess(const PrometheusProcess&) = delete;
  PrometheusProcess& operator=(const PrometheusProcess&) = delete;

  // Empty while Prometheus does not answer.
  std::vector<Sample> query(const std::string& expression) const;
  // Asks again until the query has at least `count` series or the time is up; returns the last answer.
  std::vector<Sample> wait_for(const std::string& expression, std::size_t count, std::chrono::seconds at_most) const;
  // What it says about the targets that it found: address and path -> the error of the last scrape ("" for none).
  std::map<std::string, std::string> targets() const;

 private:
  PrometheusProcess(pid_t pid, int port) : pid_(pid), port_(port) {}
  pid_t pid_;
  int port_;
};

}  // namespace starling::metrics
