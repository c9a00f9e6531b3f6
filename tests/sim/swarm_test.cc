// The whole control plane in virtual time: real Workers, deciders and codecs over a simulated network and device.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include "tests/sim/swarm_config.h"

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

void expect_good_end(const SimWorld& world, Step max_steps) {
  for (const std::string& violation : world.violations()) ADD_FAILURE() << violation;
  for (const auto& node : world.nodes()) {
    if (!node->exit) continue;
    EXPECT_EQ(static_cast<int>(node->exit->exit), static_cast<int>(Worker::Exit::finished)) << node->name << ": " << node->exit->why;
  }
  Step reached = 0;
  for (const auto& node : world.nodes()) {
    if (!node->steps.empty()) reached = std::max(reached, node->steps.back().step);
  }
  EXPECT_EQ(reached, max_steps);
}

TEST(Swarm, AHealthyRunEndsEverywhereWithoutASkip) {
  SimWorld::Config config = swarm_config(1, 4, 2, 40);
  if (std::getenv("STARLING_SIM_LOG") != nullptr) config.log = [](const std::string& line) { std::cerr << line << "\n"; };
  SimWorld world(config);
  EXPECT_TRUE(world.run_to_end(TimePoint{} + 600s));
  expect_good_end(world, 40);
  const WorkerCounters totals = world.totals();
  std::cout << "t " << seconds(world.now().time_since_epoch()) << " completed " << totals.completed << " skips "
            << totals.completed_with_skips << " dropped " << totals.dropped << " rerouted " << totals.rerouted
            << " averaged " << totals.rounds_averaged << " solo " << totals.rounds_solo << " odd " << totals.rounds_solo_odd
            << " events " << world.events() << "\n";
  EXPECT_EQ(totals.completed_with_skips, 0);
  EXPECT_EQ(totals.dropped, 0);
  EXPECT_EQ(totals.rounds_solo, 0);
}

}  // namespace
}  // namespace starling::trainer
