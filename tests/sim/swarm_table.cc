// Prints the table of trainer/worker/README.md: each scenario over a few seeds.
//
//   build/tests/sim/swarm_table [seeds of the small scenarios = 10] [of those with 64 workers = 2]
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "tests/sim/scenario.h"

namespace starling::trainer {
namespace {

// "3 to 7", or "3".
std::string range(double least, double most, int digits) {
  const std::string low = fmt::format("{:.{}f}", least, digits);
  const std::string high = fmt::format("{:.{}f}", most, digits);
  return low == high ? low : low + " to " + high;
}

std::string range_of(const std::vector<Outcome>& runs, int digits, const std::function<double(const Outcome&)>& value) {
  double least = value(runs.front());
  double most = least;
  for (const Outcome& run : runs) {
    least = std::min(least, value(run));
    most = std::max(most, value(run));
  }
  return range(least, most, digits);
}

void print_row(const Named& scenario, std::uint64_t seeds) {
  std::vector<Outcome> runs;
  std::size_t failed = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    runs.push_back(play(scenario.make(seed)));
    failed += runs.back().problems.empty() ? 0 : 1;
    for (const std::string& problem : runs.back().problems) std::cerr << scenario.name << ": " << problem << "\n";
  }
  const auto count = [&](std::int64_t WorkerCounters::* counter) {
    return range_of(runs, 0, [counter](const Outcome& o) { return static_cast<double>(o.totals.*counter); });
  };
  std::cout << fmt::format(
                   "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", scenario.name, seeds, failed,
                   count(&WorkerCounters::completed), count(&WorkerCounters::completed_with_skips),
                   count(&WorkerCounters::dropped),
                   range_of(runs, 0, [](const Outcome& o) { return static_cast<double>(o.totals.rounds_solo - o.totals.rounds_solo_odd); }),
                   count(&WorkerCounters::rounds_averaged),
                   range_of(runs, 1, [](const Outcome& o) { return seconds(o.measured.longest_silence); }),
                   range_of(runs, 0, [](const Outcome& o) { return static_cast<double>(o.measured.largest_skew); }),
                   range_of(runs, 2, [](const Outcome& o) { return o.throughput; }))
            << std::flush;
}

int print(std::uint64_t small, std::uint64_t large) {
  std::cout << "| scenario | seeds | failed | completed | with skips | dropped | solo, not odd | averaged | longest silence, s | skew | of the ideal |\n"
            << "|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const Named& scenario : named_scenarios()) print_row(scenario, scenario.name.starts_with("64") ? large : small);
  return 0;
}

}  // namespace
}  // namespace starling::trainer

int main(int argc, char** argv) {
  const auto number = [&](int i, std::uint64_t otherwise) {
    return argc > i ? std::strtoull(argv[i], nullptr, 10) : otherwise;
  };
  return starling::trainer::print(std::max<std::uint64_t>(1, number(1, 10)), std::max<std::uint64_t>(1, number(2, 2)));
}
