#include "launcher/plan_search.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/base/time.h"
#include "pipeline/planner.h"

namespace starling::launcher {
namespace {

constexpr double slice_seconds = 0.005;

FoundPlan search_alone(const pipeline::PlanInstance& instance, std::uint64_t seed, const PlanSearch& search,
                       TimePoint begin, const Clock& clock) {
  pipeline::Planner planner(instance, seed, search.evaluations);
  const std::uint64_t slice = std::max<std::uint64_t>(1, pipeline::affordable_evaluations(instance, slice_seconds));
  FoundPlan out;
  while (planner.improve(slice) == pipeline::Planner::Progress::going_on) {
    if (!search.seconds || seconds(clock.now() - begin) < *search.seconds) continue;
    out.stopped_by_time = true;
    break;
  }
  out.plan = planner.best();
  out.seconds = planner.best_seconds();
  out.first_seconds = planner.first_seconds();
  out.evaluations = planner.evaluations_done();
  return out;
}

}  // namespace

int all_cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

FoundPlan search_plan(const pipeline::PlanInstance& instance, const PlanSearch& search, const Clock& clock) {
  const TimePoint begin = clock.now();
  std::vector<FoundPlan> found(static_cast<std::size_t>(search.searches));
  const auto run = [&](std::size_t which) {
    // The first has the seed itself: one search alone finds what it finds beside others.
    const std::uint64_t seed = which == 0 ? search.seed : mix_seed(search.seed, std::vector<std::uint64_t>{which});
    found[which] = search_alone(instance, seed, search, begin, clock);
  };
  std::vector<std::thread> others;
  for (std::size_t which = 1; which < found.size(); ++which) others.emplace_back(run, which);
  run(0);
  for (std::thread& other : others) other.join();
  const auto best = std::min_element(found.begin(), found.end(),
                                     [](const FoundPlan& a, const FoundPlan& b) { return a.seconds < b.seconds; });
  FoundPlan out = std::move(*best);
  if (best != found.begin()) {
    out.first_seconds = found.front().first_seconds;
    out.evaluations = found.front().evaluations;
  }
  for (const FoundPlan& one : found) out.stopped_by_time = out.stopped_by_time || one.stopped_by_time;
  return out;
}

}  // namespace starling::launcher
