// What goes wrong in a simulated run, and when: a plan drawn from a seed before the run begins, so that the seed alone
// replays it. Nodes are named by their number in the world; the world carries the plan out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/time.h"

namespace starling::sim {

struct Fault {
  enum class Kind {
    crash,    // kill -9
    pause,    // SIGSTOP
    resume,   // SIGCONT
    restart,  // a crashed node starts again with what its disk holds
    leave,    // politely
    join,     // a node that was not there yet
    cut,      // no longer reaches the others, nor they it
    heal,     // reaches everybody again
    slow,     // its line and its device are slower by `factor` from now on
  };
  TimePoint at{};
  Kind kind = Kind::crash;
  std::size_t node = 0;
  double factor = 1.0;
  bool operator==(const Fault&) const = default;
};

// Ordered by time; of one time, as drawn.
using FaultPlan = std::vector<Fault>;

// floor(n / 2) of the nodes 0 .. n - 1, all at `t`.
FaultPlan half_killed_at_once(std::uint64_t seed, std::size_t n, TimePoint t);
// The same, paused; `for_how_long` later they wake (never, if it is not positive).
FaultPlan half_paused(std::uint64_t seed, std::size_t n, TimePoint t, Duration for_how_long);

struct Churn {
  TimePoint from{};
  TimePoint until{};
  Duration mean_between = std::chrono::seconds(5);  // exponential
  Duration mean_away =
      std::chrono::seconds(20);  // exponential: until a crashed node restarts, a paused or cut one is back
  double most_away = 0.5;        // at most this share of the nodes is away at any time
};
// Crashes, pauses and cuts of random nodes among 0 .. n - 1, each of which ends; everybody is back soon after `until`.
FaultPlan churn(std::uint64_t seed, std::size_t n, const Churn& churn);

std::string_view to_string(Fault::Kind kind);
// "12.500 s: crash 7", a line per fault: what a failing test prints.
std::string to_string(const FaultPlan& plan);

}  // namespace starling::sim
