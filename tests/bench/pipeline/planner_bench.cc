// Claim: in one second on one core the planner finds better plans than plain simulated annealing does in ten, on the
// published network, variants of it and networks of up to 200 nodes; a plan for 1,000 nodes in ten seconds is more than 30 %
// better than a random placement with greedy paths; and the clock times the 20-node instance 50,000 times a second.
//
//   STARLING_TEST_SOURCE_DIR=. build/tests/bench/pipeline/planner_bench --search_seconds=1        prints the table
//
// Without --search_seconds each search is a few milliseconds long, as proof that it still runs. All times are of the
// processor and one thread, as the machine may be shared. The reference: random placement and greedy paths, then annealing
// of seconds alone with three moves (swap two nodes, change a hop, trade stages between two paths), a geometric temperature
// over its whole time, and the same clock, which it lets run to the end.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <limits>
#include <string>

#include "gossip/base/random.h"
#include "pipeline/plan_annealer.h"
#include "pipeline/plan_clock.h"
#include "pipeline/plan_layout.h"
#include "pipeline/plan_repair.h"
#include "pipeline/planner.h"
#include "tests/support/plan_instances.h"

namespace starling::pipeline {
namespace {

constexpr double no_limit = std::numeric_limits<double>::infinity();
constexpr double plain_times = 10.0;
double search_seconds = 0.005;

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

class PlainAnnealing {
 public:
  PlainAnnealing(const PlanInstance& instance, std::uint64_t seed)
      : random_(mix_seed(seed, "plain annealing")), layout_(instance), clock_(instance) {
    layout_.draw(random_);
    layout_.straighten();
    for (int i = 0; i < layout_.microbatches(); ++i) clock_.set_path(i, layout_.path(i), 0.0);
    seconds_ = first_ = best_ = clock_.run(no_limit).seconds;
    clock_.keep();
  }

  void anneal(double for_seconds) {
    const double begin = processor_seconds();
    double temperature = hot;
    for (std::uint64_t k = 0;; ++k) {
      if (k % 64 == 0) {
        const double progress = (processor_seconds() - begin) / for_seconds;
        if (progress >= 1.0) return;
        temperature = first_ * hot * std::pow(cold / hot, progress);
      }
      step(temperature);
    }
  }
  double first() const { return first_; }  // of the random placement with greedy paths
  double best() const { return best_; }
  std::uint64_t evaluations() const { return evaluations_; }

 private:
  static constexpr double hot = 0.03;  // shares of the first plan's seconds
  static constexpr double cold = 0.0006;

  void step(double temperature) {
    using Move = PlanLayout::Move;
    const std::uint64_t part = random_.below(10);
    const Move move = part < 1 ? Move::swap_nodes : part < 7 ? Move::change_hop : Move::trade_stages;
    if (!layout_.propose(move, {}, 0.0, random_)) return;
    for (const int i : layout_.changed()) clock_.set_path(i, layout_.path(i), 0.0);
    const PlanTime time = clock_.run(no_limit);
    ++evaluations_;
    if (time.end == PlanTime::End::finished && time.seconds <= seconds_ + temperature * exponential(random_)) {
      clock_.keep();
      layout_.accept();
      seconds_ = time.seconds;
      best_ = std::min(best_, seconds_);
    } else {
      clock_.revert();
      layout_.revert();
    }
  }

  Stream random_;
  PlanLayout layout_;
  PlanClock clock_;
  double seconds_ = 0.0;
  double first_ = 0.0;
  double best_ = 0.0;
  std::uint64_t evaluations_ = 0;
};

struct Found {
  double first = 0.0;
  double first_ms = 0.0;
  double seconds = 0.0;
  double evaluations = 0.0;
};

Found plan_for(const PlanInstance& instance, std::uint64_t seed, double for_seconds) {
  const double begin = processor_seconds();
  Planner planner(instance, seed, affordable_evaluations(instance, for_seconds));
  const double first = processor_seconds() - begin;
  while (planner.improve(64) == Planner::Progress::going_on && processor_seconds() - begin < for_seconds) {
  }
  return {planner.first_seconds(), 1e3 * first, planner.best_seconds(),
          static_cast<double>(planner.evaluations_done())};
}

void against_plain(benchmark::State& state, const PlanInstance& instance) {
  const auto seed = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    const Found found = plan_for(instance, seed, search_seconds);
    PlainAnnealing plain(instance, seed);
    plain.anneal(plain_times * search_seconds);
    state.counters["first"] = found.first;
    state.counters["first_ms"] = found.first_ms;
    state.counters["plan"] = found.seconds;
    state.counters["plain_x10"] = plain.best();
    state.counters["of_plain"] = found.seconds / plain.best();
    state.counters["full"] = plan_for(full_pipeline(instance), seed, search_seconds).seconds;
  }
}

void against_random(benchmark::State& state) {
  const PlanInstance instance = test::cloud_instance(1000, 50, 35);
  for (auto _ : state) {
    const Found found = plan_for(instance, 1, plain_times * search_seconds);
    const PlainAnnealing random(instance, 1);
    state.counters["first"] = found.first;
    state.counters["first_ms"] = found.first_ms;
    state.counters["plan"] = found.seconds;
    state.counters["greedy"] = random.first();
    state.counters["of_greedy"] = found.seconds / random.first();
  }
}

// One path changes each time; the run goes to its end.
void clock_from_start(benchmark::State& state) {
  const PlanInstance instance = test::published_instance();
  const Planner planner(instance, 1, 0);
  auto clock = timed(instance, planner.best());
  const PlannedPath& path = planner.best().paths[0];
  std::vector<int> nodes{path.originator};
  nodes.insert(nodes.end(), path.hops.begin(), path.hops.end());
  double start = 0.0;
  for (auto _ : state) {
    clock->set_path(0, nodes, start += 1e-9);
    benchmark::DoNotOptimize(clock->run(no_limit));
    clock->revert();
  }
  state.SetItemsProcessed(state.iterations());
}

// As a search asks: what does not change is not timed again, and what is too slow is given up.
void clock_in_search(benchmark::State& state) {
  const PlanInstance instance = test::published_instance();
  Stream random(1);
  const Planner planner(instance, 1, 0);
  PlanLayout layout(instance);
  layout.set(planner.best());
  PlanAnnealer annealer(instance, PlanAnnealer::Placement::searched);
  annealer.start_from(layout);
  for (auto _ : state) annealer.step(0.05, random);
  state.SetItemsProcessed(state.iterations());
}

void repair_after_death(benchmark::State& state, const PlanInstance& instance) {
  Planner planner(instance, 1, 3000);
  while (planner.improve(1000) == Planner::Progress::going_on) {
  }
  const int dead = planner.best().paths[0].hops[0];
  const auto changed = node_died(instance, planner.best(), dead);
  for (auto _ : state) {
    const RepairedPlan repaired = repair_plan(planner.best(), *changed, 1);
    state.counters["before"] = planner.best_seconds();
    state.counters["after"] = repaired.seconds;
    state.counters["paths_changed"] = repaired.paths_changed;
    state.counters["of_paths"] = changed->instance.microbatches();
    state.counters["placements_changed"] = repaired.placements_changed;
  }
}

void register_all() {
  const auto compare = [](const std::string& name, PlanInstance instance, int seeds) {
    benchmark::RegisterBenchmark(("plan/" + name).c_str(),
                                 [instance = std::move(instance)](benchmark::State& s) { against_plain(s, instance); })
        ->DenseRange(1, seeds)
        ->ArgName("seed")
        ->Iterations(1)
        ->Unit(benchmark::kSecond);
  };
  compare("published_20", test::published_instance(), 3);
  compare("corrected_20", test::corrected_instance(), 1);
  for (int seed = 1; seed <= 3; ++seed) {
    compare("varied_20_" + std::to_string(seed),
            test::vary(test::corrected_instance(), static_cast<std::uint64_t>(seed)), 1);
  }
  compare("cloud_18", test::cloud_instance(18, 6, 4), 1);
  compare("cloud_42", test::cloud_instance(42, 6, 4), 1);
  compare("cloud_100", test::cloud_instance(100, 10, 7), 1);
  compare("cloud_200", test::cloud_instance(200, 20, 14), 1);
  benchmark::RegisterBenchmark("plan/cloud_1000", against_random)->Iterations(1)->Unit(benchmark::kSecond);
  benchmark::RegisterBenchmark("clock/from_start", clock_from_start);
  benchmark::RegisterBenchmark("clock/in_search", clock_in_search);
  for (const auto& [name, nodes, stages, length] :
       {std::tuple{"repair/20", 20, 6, 4}, std::tuple{"repair/200", 200, 20, 14}}) {
    benchmark::RegisterBenchmark(name, [instance = test::cloud_instance(nodes, stages, length)](benchmark::State& s) {
      repair_after_death(s, instance);
    })->Unit(benchmark::kMillisecond);
  }
}

}  // namespace
}  // namespace starling::pipeline

int main(int argc, char** argv) {
  constexpr const char* flag = "--search_seconds=";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strncmp(argv[i], flag, std::strlen(flag)) == 0) {
      starling::pipeline::search_seconds = std::stod(argv[i] + std::strlen(flag));
    } else {
      argv[kept++] = argv[i];
    }
  }
  benchmark::Initialize(&kept, argv);
  if (benchmark::ReportUnrecognizedArguments(kept, argv)) return 1;
  starling::pipeline::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
