// --chaos "kill 50% at step 100": what a launcher does to its own workers, drawn from the run's seed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"

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

}  // namespace starling::launcher
