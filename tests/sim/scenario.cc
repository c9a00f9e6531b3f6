#include "tests/sim/scenario.h"

#include "tests/sim/swarm_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <optional>

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

constexpr Duration settled = 60s;
constexpr Step warm_up_steps = 5;

bool running(const SimWorld& world) {
  return std::any_of(world.nodes().begin(), world.nodes().end(),
                     [](const auto& node) { return node->up && !node->paused && !node->exit; });
}

// All live nodes believe the same of everybody.
void compare_views(const SimWorld& world, Outcome& out) {
  std::map<std::string, std::string> first_with;
  for (const auto& node : world.nodes()) {
    if (!node->worker || node->paused || node->exit) continue;
    first_with.emplace(SimWorld::view_text(*node), node->name);
  }
  out.views_compared = true;
  if (first_with.size() > 1) {
    out.problems.push_back(fmt::format("{} different views a minute after the last fault, such as those of {} and {}",
                                       first_with.size(), first_with.begin()->second, first_with.rbegin()->second));
  }
}

double throughput(const SimWorld& world, const SimWorld::Config& config) {
  const ParallelismConfig& parallelism = config.worker.parallelism;
  std::optional<TimePoint> from;
  TimePoint until{};
  Step last = 0;
  std::map<Stage, double> speed;
  for (const auto& node : world.nodes()) {
    if (node->role_stage == no_stage) continue;
    const double slowness = node->index < config.slowness.size() ? config.slowness[node->index] : 1.0;
    speed[node->role_stage] += 1.0 / slowness;
    for (const auto& [at, step] : node->losses) {
      if (step == warm_up_steps && (!from || at < *from)) from = at;
      if (step >= last) {
        last = step;
        until = std::max(until, at);
      }
    }
  }
  if (!from || last <= warm_up_steps) return 0.0;
  double slowest_stage = 0.0;
  for (const auto& [stage, sum] : speed) {
    const double forwards = stage == 0 ? 3.25 : 3.0;  // forward, twice that backward; loss
    slowest_stage = std::max(slowest_stage, forwards / sum);
  }
  const auto batch = static_cast<double>(config.worker.training.microbatches * parallelism.replicas);
  const double ideal = static_cast<double>(last - warm_up_steps) * batch * config.compute.forward_seconds * slowest_stage;
  return ideal / seconds(until - *from);
}

}  // namespace

Step reached(const SimWorld& world) {
  Step most = 0;
  for (const auto& node : world.nodes()) {
    if (!node->steps.empty()) most = std::max(most, node->steps.back().step);
  }
  return most;
}

std::vector<std::string> problems_at_end(const SimWorld& world, Step last_step) {
  std::vector<std::string> problems;
  for (const auto& node : world.nodes()) {
    // A run may end while one that starts again still knocks.
    if (node->exit && node->exit->exit != Worker::Exit::finished && !node->never_let_in) {
      problems.push_back(fmt::format("{} exits because {}", node->name, node->exit->why));
    }
  }
  if (reached(world) != last_step) problems.push_back(fmt::format("ended after step {}", reached(world)));
  problems.insert(problems.end(), world.violations().begin(), world.violations().end());
  return problems;
}

Outcome play(const Scenario& scenario) {
  SimWorld world(scenario.config);
  const Step max_steps = *scenario.config.worker.training.max_steps;
  Outcome out{.seed = scenario.config.seed};
  if (scenario.faults) {
    while (running(world) && reached(world) < max_steps / 2 && world.now() < TimePoint{} + scenario.limit) {
      world.run_until(world.now() + 100ms);
    }
    const sim::FaultPlan plan = scenario.faults(world);
    world.schedule(plan);
    if (!plan.empty()) world.run_until(plan.back().at + settled);
    if (running(world)) compare_views(world, out);
  }
  if (!world.run_to_end(world.now() + scenario.limit)) out.problems.push_back("not over in time:\n" + world.describe());
  const std::vector<std::string> problems = problems_at_end(world, max_steps);
  out.problems.insert(out.problems.end(), problems.begin(), problems.end());
  if (scenario.judge) scenario.judge(world, out.problems);
  out.seconds = seconds(world.now().time_since_epoch());
  out.totals = world.totals();
  out.measured = world.measured();
  out.throughput = throughput(world, scenario.config);
  return out;
}

std::string to_string(const Outcome& outcome) {
  const WorkerCounters& t = outcome.totals;
  std::string text = fmt::format(
      "seed {}: {:.0f} s, completed {}, with skips {}, dropped {}, re-routed {}, averaged {}, solo {} ({} odd), takeovers {}, "
      "copies {}, longest silence {:.2f} s, skew {}, {:.2f} of the ideal{}",
      outcome.seed, outcome.seconds, t.completed, t.completed_with_skips, t.dropped, t.rerouted, t.rounds_averaged,
      t.rounds_solo, t.rounds_solo_odd, t.takeovers, t.copies, seconds(outcome.measured.longest_silence),
      outcome.measured.largest_skew, outcome.throughput, outcome.views_compared ? ", views compared" : "");
  for (const std::string& problem : outcome.problems) text += "\n  " + problem;
  return text;
}

std::vector<std::uint64_t> seeds(std::uint64_t count) {
  if (const char* one = std::getenv("STARLING_SIM_SEED")) return {std::strtoull(one, nullptr, 10)};
  if (const char* more = std::getenv("STARLING_SIM_SEEDS")) count = std::strtoull(more, nullptr, 10);
  std::vector<std::uint64_t> out;
  for (std::uint64_t seed = 1; seed <= count; ++seed) out.push_back(seed);
  return out;
}

void add_log(SimWorld::Config& config) {
  if (std::getenv("STARLING_SIM_LOG") != nullptr) config.log = [](const std::string& line) { std::cerr << line << "\n"; };
}

bool table_wanted() { return std::getenv("STARLING_SIM_TABLE") != nullptr; }

sim::FaultPlan kill_half(const SimWorld& world) {
  return sim::half_killed_at_once(world.config().seed, world.config().workers, world.now());
}

sim::FaultPlan pause_half(const SimWorld& world) {
  Stream random(mix_seed(world.config().seed, "pause"));
  sim::FaultPlan plan = sim::half_paused(world.config().seed, world.config().workers, world.now(), Duration::zero());
  const std::size_t paused = plan.size();
  for (std::size_t i = 0; i < paused; ++i) {
    const Duration away = from_seconds(4.0 + 10.0 * random.uniform());
    if (i % 3 != 0) plan.push_back({plan[i].at + away, sim::Fault::Kind::resume, plan[i].node});
  }
  std::stable_sort(plan.begin(), plan.end(), [](const auto& a, const auto& b) { return a.at < b.at; });
  return plan;
}

sim::FaultPlan kill_stage(const SimWorld& world, Stage stage) {
  sim::FaultPlan plan;
  for (const auto& node : world.nodes()) {
    if (node->worker && node->worker->stage() == stage) plan.push_back({world.now(), sim::Fault::Kind::crash, node->index});
  }
  return plan;
}

namespace {

using Kind = sim::Fault::Kind;

Scenario small(std::uint64_t seed) { return {.config = swarm_config(seed, 4, 4, 40), .faults = {}, .judge = {}}; }

Scenario healthy(std::uint64_t seed) { return small(seed); }

Scenario permuted(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.config.worker.pipeline.routing = pipeline::Routing::permutation;
  return scenario;
}

// Twice the usual batch: with shares by speed, some originators start a few microbatches only.
Scenario speeds(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.config.compute.forward_seconds = 0.05;
  scenario.config.worker.training.microbatches = 32;
  scenario.config.worker.training.max_steps = 20;
  Stream random(mix_seed(seed, "speeds"));
  for (std::size_t i = 0; i < scenario.config.workers; ++i) {
    scenario.config.slowness.push_back(std::pow(10.0, random.uniform()));
  }
  return scenario;
}

Scenario half_killed(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.faults = kill_half;
  return scenario;
}

Scenario half_stopped(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.faults = pause_half;
  return scenario;
}

void expect_taken_over(const SimWorld& world, std::vector<std::string>& problems) {
  if (world.totals().takeovers == 0) problems.push_back("nobody took the lost stage over");
}

Scenario middle_stage_killed(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.faults = [](const SimWorld& world) { return kill_stage(world, 2); };
  scenario.judge = expect_taken_over;
  return scenario;
}

Scenario stage_zero_killed(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.faults = [](const SimWorld& world) { return kill_stage(world, 0); };
  scenario.judge = expect_taken_over;
  return scenario;
}

// What is left of two replicas a stage: the two middle ones, which give a worker each to stage 0 and to the last stage.
Scenario both_ends_killed(std::uint64_t seed) {
  Scenario scenario{.config = swarm_config(seed, 4, 2, 40), .faults = {}, .judge = {}};
  scenario.faults = [](const SimWorld& world) {
    sim::FaultPlan plan = kill_stage(world, 0);
    for (const sim::Fault& fault : kill_stage(world, 3)) plan.push_back(fault);
    return plan;
  };
  scenario.judge = [](const SimWorld& world, std::vector<std::string>& problems) {
    if (world.totals().takeovers < 2) problems.push_back("stage 0 and the last one were not both taken over");
  };
  return scenario;
}

Scenario joiner(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.config.joiners = 1;
  scenario.faults = [](const SimWorld& world) {
    return sim::FaultPlan{{world.now(), Kind::join, world.config().workers}};
  };
  scenario.judge = [](const SimWorld& world, std::vector<std::string>& problems) {
    const auto& node = *world.nodes()[world.config().workers];
    if (node.steps.empty()) return problems.push_back("the joiner made no step");
    // Five replicas: one of them is left over in each round, and it may be the newcomer each time.
    const auto met_or_odd = [](const auto& round) {
      return round.second.averaged || round.second.cause == "odd_one_out";
    };
    if (!std::any_of(node.rounds.begin(), node.rounds.end(), met_or_odd)) problems.push_back("the joiner averaged with nobody");
    if (node.steps.front().step < 20) problems.push_back("the joiner began at the swarm's past");
  };
  return scenario;
}

Scenario observer_killed(std::uint64_t seed) {
  Scenario scenario = small(seed);
  scenario.faults = [](const SimWorld& world) {
    return sim::FaultPlan{{world.now(), Kind::crash, world.nodes().size() - 1}};
  };
  return scenario;
}

// Long enough that the run outlasts the churn: whoever is away when it ends cannot learn that it has.
Scenario churned(std::uint64_t seed) {
  Scenario scenario{.config = swarm_config(seed, 4, 4, 100), .faults = {}, .judge = {}};
  scenario.faults = [](const SimWorld& world) {
    return sim::churn(world.config().seed, world.config().workers, {.from = world.now(), .until = world.now() + 60s});
  };
  return scenario;
}

Scenario sixty_four_killed(std::uint64_t seed) { return {.config = sixty_four(seed, 60), .faults = kill_half, .judge = {}}; }

Scenario sixty_four_stopped(std::uint64_t seed) { return {.config = sixty_four(seed, 90), .faults = pause_half, .judge = {}}; }

}  // namespace

const std::vector<Named>& named_scenarios() {
  static const std::vector<Named> all = {
      {"healthy", healthy},
      {"healthy, permutation", permuted},
      {"speeds 1x to 10x", speeds},
      {"half killed", half_killed},
      {"half stopped", half_stopped},
      {"a middle stage killed", middle_stage_killed},
      {"stage 0 killed", stage_zero_killed},
      {"both ends killed", both_ends_killed},
      {"a joiner", joiner},
      {"the observer killed", observer_killed},
      {"a minute of churn", churned},
      {"64 workers, half killed", sixty_four_killed},
      {"64 workers, half stopped", sixty_four_stopped},
  };
  return all;
}

Scenario named(std::string_view name, std::uint64_t seed) {
  const auto& all = named_scenarios();
  const auto it = std::find_if(all.begin(), all.end(), [&](const Named& one) { return one.name == name; });
  STARLING_CHECK(it != all.end(), "there is such a scenario");
  return it->make(seed);
}

}  // namespace starling::trainer
