// Sixty-four workers, a hundred seeds: half of them killed, or stopped, at once in the middle of the run.
//
// Runs are just long enough to outlive the last fault by the minute after which views are compared.
#include <gtest/gtest.h>

#include <iostream>

#include "tests/sim/scenario.h"

namespace starling::trainer {
namespace {

void play_all(std::string_view name) {
  for (const std::uint64_t seed : seeds(100)) {
    Scenario scenario = named(name, seed);
    add_log(scenario.config);
    const Outcome outcome = play(scenario);
    if (table_wanted()) std::cout << to_string(outcome) << std::endl;
    EXPECT_TRUE(outcome.problems.empty()) << to_string(outcome);
    EXPECT_TRUE(outcome.views_compared) << "seed " << seed << ": the run was over before views could be compared";
  }
}

TEST(SwarmSoak, HalfOfSixtyFourWorkersDieAtOnce) { play_all("64 workers, half killed"); }

TEST(SwarmSoak, HalfOfSixtyFourWorkersStopAtOnce) { play_all("64 workers, half stopped"); }

}  // namespace
}  // namespace starling::trainer
