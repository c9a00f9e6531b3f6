// A run of the program that was built, as a child process: `starling launch` with local workers.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace starling {

// Sentences enough for a byte model to have something to learn; the same every time.
void write_text(const std::filesystem::path& path);

class LaunchedRun {
 public:
  // Starts it; what it prints lies in `directory`/launch.out. `settings`: "section.key=value". Its run directory is
  // `directory`/<run.name>. Sockets are on the loopback at free ports.
  LaunchedRun(std::filesystem::path directory, const std::string& run_file, const std::vector<std::string>& settings,
              std::int64_t workers);
  // Ends it, if it still runs: politely, then not.
  ~LaunchedRun();
  LaunchedRun(const LaunchedRun&) = delete;
  LaunchedRun& operator=(const LaunchedRun&) = delete;

  // Where the observer of the run `name` answers HTTP, "" if that is not known in time.
  std::string http(const std::string& name, std::chrono::seconds at_most) const;
  // Waits for its end. Result: the exit code, or -1 for a launcher that did not end in time (it is killed).
  int wait(std::chrono::seconds at_most);
  // As Ctrl-C, then wait.
  int end(std::chrono::seconds at_most);
  std::string output() const;

 private:
  const std::filesystem::path directory_;
  pid_t pid_ = -1;
};

}  // namespace starling
