// A run's local workers: processes that outlive the launcher.
//
// Each is started as a volunteer would start it (`starling join join.token --name w03 --dir ...`), in a session of its own,
// stdin from /dev/null, without a death signal: when the launcher dies they go on, and the next launcher adopts them. They
// are not its children then, so they are watched through a pidfd: it names one process for good, whatever becomes of the
// number. The launcher only notes how they end, and at the end of a run it ends those that chaos has stopped, as a stopped
// process can do nothing by itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/error.h"

namespace starling::launcher {

class Supervisor {
 public:
  struct Ended {
    std::string name;
    std::string how;                  // "ended with exit code 3", "was ended by signal 9", for a person
    bool well = false;                // exit code 0
  };

  // Starts `arguments` of this very program in `folder`; its stdout and stderr go to output.txt there. Errors: io.
  Status start(const std::string& name, const std::vector<std::string>& arguments, const std::filesystem::path& folder);
  // Takes over a worker that an earlier launcher started, if `folder` is that of a process that lives.
  // Errors: not_found (nobody, or somebody else has that pid now), io.
  Status adopt(const std::string& name, const std::filesystem::path& folder);
  // Notes who has ended.
  std::vector<Ended> reap();
  // Errors: not_found (no such worker, or it has ended), io.
  Status send_signal(const std::string& name, int signal);
  // Ends what is stopped or does not end by itself. REQUIRES: the run is over.
  void kill_rest();

  std::vector<std::string> running() const;   // sorted

 private:
  // A pidfd that closes itself.
  class Process {
   public:
    explicit Process(int fd) : fd_(fd) {}
    Process(Process&& other) noexcept;
    Process& operator=(Process&&) = delete;
    ~Process();
    bool has_ended() const;
    Status send_signal(int signal) const;

   private:
    int fd_;
  };
  struct Adopted {
    Process process;
    std::filesystem::path folder;
  };
  std::map<std::string, pid_t> children_;
  std::map<std::string, Adopted> adopted_;
};

// Local workers of `run_directory` whose processes live: name and pid, sorted by name.
std::vector<std::pair<std::string, std::int64_t>> living_workers(const std::filesystem::path& run_directory);

}  // namespace starling::launcher
