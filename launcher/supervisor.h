// The launcher's own workers: processes that outlive it.
//
// Each is started as a volunteer would start it (`starling join join.token --name w03 --dir ...`), in a session of its own,
// stdin from /dev/null, without a death signal: when the launcher dies they go on. The launcher only notes how they end,
// and at the end of a run it ends those that chaos has stopped, as a stopped process can do nothing by itself.
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
  // Starts `arguments` of this very program; its stdout and stderr go to `log`. Errors: io.
  Status start(const std::string& name, const std::vector<std::string>& arguments, const std::filesystem::path& log);
  // Notes who has ended. Result: their names with exit code, or minus the signal.
  std::vector<std::pair<std::string, int>> reap();
  // Errors: not_found (no such worker, or it has ended).
  Status send_signal(const std::string& name, int signal);
  // Ends what is stopped or does not end by itself. REQUIRES: the run is over.
  void kill_rest();

  std::vector<std::string> running() const;   // sorted

 private:
  std::map<std::string, pid_t> children_;
};

}  // namespace starling::launcher
