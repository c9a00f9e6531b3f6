#include "tests/metrics/prometheus_process.h"

#include <fcntl.h>
#include <httplib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "gossip/base/host_port.h"
#include "metrics/http_socket.h"
#include "tests/metrics/tools.h"

namespace starling::metrics {
namespace {

using Json = nlohmann::json;

// Prometheus cannot say which port it got when asked for any, so one is taken and given up just before.
Result<int> free_port() {
  const auto socket = listen_on({"127.0.0.1", 0}, PortChoice::fixed);
  if (!socket) return tl::unexpected<Error>(socket.error());
  const auto address = local_address(socket->get());
  if (!address) return tl::unexpected<Error>(address.error());
  return static_cast<int>(parse_host_port(*address)->port);
}

Json ask(int port, const std::string& path, const httplib::Params& parameters) {
  httplib::Client client("127.0.0.1", port);
  const auto answer = client.Get(path, parameters, httplib::Headers());
  if (!answer || answer->status != 200) return nullptr;
  const Json json = Json::parse(answer->body, nullptr, /*allow_exceptions=*/false);
  return json.is_object() && json.value("status", "") == "success" ? json.at("data") : Json(nullptr);
}

}  // namespace

bool PrometheusProcess::is_installed() { return !find_tool("prometheus").empty(); }

Result<std::unique_ptr<PrometheusProcess>> PrometheusProcess::start(const std::filesystem::path& directory,
                                                                    const std::string& discovery_url) {
  const auto port = free_port();
  if (!port) return tl::unexpected<Error>(port.error());
  const std::filesystem::path config = directory / "prometheus.yml";
  std::ofstream(config) << "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
                           "scrape_configs:\n"
                           "  - job_name: starling\n"
                           "    http_sd_configs: [{url: \""
                        << discovery_url << "\", refresh_interval: 1s}]\n";
  const std::vector<std::string> words = {find_tool("prometheus"), "--config.file=" + config.string(),
                                          "--storage.tsdb.path=" + (directory / "data").string(),
                                          "--web.listen-address=127.0.0.1:" + std::to_string(*port)};
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const std::string log = (directory / "prometheus.log").string();
  const pid_t pid = ::fork();
  if (pid < 0) return fail(ErrorCode::io, "cannot start a process");
  if (pid == 0) {
    const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  return std::unique_ptr<PrometheusProcess>(new PrometheusProcess(pid, *port));
}

PrometheusProcess::~PrometheusProcess() {
  ::kill(pid_, SIGTERM);
  ::waitpid(pid_, nullptr, 0);
}

std::vector<Sample> PrometheusProcess::query(const std::string& expression) const {
  const Json data = ask(port_, "/api/v1/query", {{"query", expression}});
  std::vector<Sample> out;
  if (!data.is_object()) return out;
  for (const Json& each : data.at("result")) {
    Sample& sample = out.emplace_back();
    for (const auto& [name, value] : each.at("metric").items()) sample.labels[name] = value.get<std::string>();
    sample.value = std::stod(each.at("value").at(1).get<std::string>());
  }
  return out;
}

std::vector<Sample> PrometheusProcess::wait_for(const std::string& expression, std::size_t count,
                                                std::chrono::seconds at_most) const {
  const auto deadline = std::chrono::steady_clock::now() + at_most;
  for (;;) {
    std::vector<Sample> samples = query(expression);
    if (samples.size() >= count || std::chrono::steady_clock::now() > deadline) return samples;
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

std::map<std::string, std::string> PrometheusProcess::targets() const {
  std::map<std::string, std::string> out;
  const Json data = ask(port_, "/api/v1/targets", {});
  if (!data.is_object()) return out;
  for (const Json& each : data.at("activeTargets")) {
    out[each.at("scrapeUrl").get<std::string>()] = each.at("lastError").get<std::string>();
  }
  return out;
}

}  // namespace starling::metrics
