// One simulated run from its start to its end, with something going wrong in its middle, judged and measured.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/sim/faults.h"
#include "trainer/worker/sim_world.h"

namespace starling::trainer {

struct Scenario {
  SimWorld::Config config;
  // Asked when the first worker has closed half of the steps; drawn from the world as it stands then. Unset: nothing.
  std::function<sim::FaultPlan(const SimWorld& world)> faults;
  // A run that lasts longer than this after its middle has failed.
  Duration limit = std::chrono::seconds(1200);
  // What else must hold at the end; adds to Outcome::problems.
  std::function<void(const SimWorld& world, std::vector<std::string>& problems)> judge;
};

// What a run came to. `problems` is empty when all that must hold held: every worker that was not killed or stopped for
// good exits with "finished" after the last step, before the limit; one minute after the last fault all live nodes hold
// equal (id, state) sets, if the run lasts so long; SimWorld's own checks.
struct Outcome {
  std::uint64_t seed = 0;
  std::vector<std::string> problems;
  double seconds = 0.0;
  WorkerCounters totals;
  SimWorld::Measured measured;
  bool views_compared = false;
  // The time that the work of the batches would take on the tightest stage, over the time it took: between the first
  // close of step 5 and the last step's.
  double throughput = 0.0;
};

Outcome play(const Scenario& scenario);

// The last step that any worker has closed.
Step reached(const SimWorld& world);
// Empty when every worker that has exited did so with "finished", after `last_step`, and no check of the world failed.
std::vector<std::string> problems_at_end(const SimWorld& world, Step last_step);

// "seed 7: completed ..., with skips ...": for a failing test and for the table.
std::string to_string(const Outcome& outcome);

// STARLING_SIM_SEED=n: that one alone; STARLING_SIM_SEEDS=n: 1 to n; else 1 to `count`.
std::vector<std::uint64_t> seeds(std::uint64_t count);
// STARLING_SIM_LOG=1: the whole history of a run goes to stderr.
void add_log(SimWorld::Config& config);
// STARLING_SIM_TABLE=1: one line per run on stdout.
bool table_wanted();

// ---- what goes wrong; node numbers drawn from the world's seed
sim::FaultPlan kill_half(const SimWorld& world);
// A third stops for good, the others wake after 4 to 14 s: before and after they were held dead.
sim::FaultPlan pause_half(const SimWorld& world);
sim::FaultPlan kill_stage(const SimWorld& world, Stage stage);

// ---- the scenarios of the table; 4 stages x 4 replicas where nothing else is said
struct Named {
  std::string name;
  Scenario (*make)(std::uint64_t seed);
};
const std::vector<Named>& named_scenarios();
// REQUIRES: such a name.
Scenario named(std::string_view name, std::uint64_t seed);

}  // namespace starling::trainer
