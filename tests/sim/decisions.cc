// Prints a fingerprint of every decision of every decider in a few runs: one line a run. Built twice, at the usual
// optimisation and at none; decisions_test compares what both print.
#include <fmt/format.h>

#include <iostream>

#include "tests/sim/scenario.h"
#include "tests/sim/swarm_config.h"

int main() {
  using namespace starling;
  using namespace starling::trainer;
  using namespace std::chrono_literals;
  for (const std::uint64_t seed : {1, 2}) {
    for (const bool killed : {true, false}) {
      SimWorld::Config config = swarm_config(seed, 4, 2, 14);
      config.worker.outer.local_steps = 4;
      config.network.link.loss = 0.01;
      for (std::size_t i = 0; i < config.workers; ++i) config.slowness.push_back(1.0 + static_cast<double>(i) / 3.0);
      config.faults = killed ? sim::half_killed_at_once(seed, config.workers, TimePoint{} + 12s)
                             : sim::half_paused(seed, config.workers, TimePoint{} + 12s, 9s);
      SimWorld world(config);
      world.run_to_end(TimePoint{} + 400s);
      std::cout << fmt::format("seed {} {}: {} events, {:016x}\n", seed, killed ? "killed" : "stopped", world.events(),
                               world.log_hash());
    }
  }
}
