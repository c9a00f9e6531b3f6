// --chaos "kill 50% at step 100": what a launcher does to its own workers, drawn from the run's seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <ostream>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/membership/swarm.h"
#include "launcher/supervisor.h"

namespace starling::launcher {

struct Chaos {
  enum class Kind { kill, stop } kind = Kind::kill;  // SIGKILL | SIGSTOP
  double share = 0.0;                                // of the local workers, rounded down; of those of `stage` if set
  Stage stage = no_stage;
  Step step = 0;                                     // once this step has been closed
};

// "kill 50% at step 100", "stop 25% at step 10", "kill stage 2 at step 100" (every worker of it). Several, separated by
// ";" or ",". Errors: usage, showing the form.
Result<std::vector<Chaos>> parse_chaos(std::string_view text);

// Which of `names` (sorted by the caller) are hit. The same seed, step and names give the same victims.
std::vector<std::string> chaos_victims(const Chaos& chaos, std::uint64_t seed, std::vector<std::string> names);

// Carries out what was asked for, each once, when its step has been closed. Loop thread only.
class ChaosCrew {
 public:
  ChaosCrew(std::vector<Chaos> plan, std::uint64_t seed) : plan_(std::move(plan)), seed_(seed) {}
  // Whoever is hit is told on `err` and in `events`.
  void look(const membership::Swarm& swarm, Supervisor& workers, EventLog& events, std::ostream& err);
  // How many were stopped: they do not end by themselves.
  std::size_t stopped() const { return stopped_.size(); }

 private:
  std::vector<Chaos> plan_;
  std::uint64_t seed_;
  std::set<std::string> stopped_;
  std::map<std::string, Stage> stages_;  // of workers, as last seen
};

}  // namespace starling::launcher
