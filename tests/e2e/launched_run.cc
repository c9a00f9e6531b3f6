#include "tests/e2e/launched_run.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <thread>
#include <utility>

#include "gossip/base/random.h"

namespace starling {

using namespace std::chrono_literals;

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

LaunchedRun::LaunchedRun(std::filesystem::path directory, const std::string& run_file,
                         const std::vector<std::string>& settings, std::int64_t workers)
    : directory_(std::move(directory)) {
  const std::string starling = std::string(std::getenv("STARLING_TEST_BINARY_DIR")) + "/starling";
  std::vector<std::string> words = {starling, "launch", run_file, "--local-workers", std::to_string(workers)};
  std::vector<std::string> all = {"run.output_dir=" + directory_.string(), "http.listen=127.0.0.1:0",
                                  "network.listen=tcp://127.0.0.1:0"};
  all.insert(all.end(), settings.begin(), settings.end());
  for (const std::string& setting : all) words.insert(words.end(), {"--set", setting});
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const std::string output = (directory_ / "launch.out").string();
  pid_ = ::fork();
  if (pid_ == 0) {
    const int out = ::open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execv(arguments[0], arguments.data());
    ::_exit(127);
  }
}

LaunchedRun::~LaunchedRun() {
  if (pid_ > 0) end(30s);
}

std::string LaunchedRun::http(const std::string& name, std::chrono::seconds at_most) const {
  const auto deadline = std::chrono::steady_clock::now() + at_most;
  while (std::chrono::steady_clock::now() < deadline) {
    std::ifstream in(directory_ / name / "launch.json");
    const auto json = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("http")) {
      const std::string address = json.at("http").get<std::string>();
      return address.starts_with("http://") ? address : "http://" + address;
    }
    std::this_thread::sleep_for(100ms);
  }
  return "";
}

int LaunchedRun::wait(std::chrono::seconds at_most) {
  const auto deadline = std::chrono::steady_clock::now() + at_most;
  int status = 0;
  while (::waitpid(pid_, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, &status, 0);
      break;
    }
    std::this_thread::sleep_for(50ms);
  }
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int LaunchedRun::end(std::chrono::seconds at_most) {
  ::kill(pid_, SIGINT);
  return wait(at_most);
}

std::string LaunchedRun::output() const {
  std::ostringstream out;
  out << std::ifstream(directory_ / "launch.out").rdbuf();
  return out.str();
}

}  // namespace starling
