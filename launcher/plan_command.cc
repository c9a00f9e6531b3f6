#include "launcher/plan_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>

#include "gossip/base/real_env.h"
#include "launcher/config_yaml.h"
#include "launcher/plan_file.h"
#include "launcher/plan_gantt.h"
#include "launcher/plan_search.h"
#include "pipeline/plan_report.h"
#include "pipeline/planner.h"
#include "trainer/worker/stage_memory.h"

namespace starling::launcher {
namespace {

using pipeline::PlanInstance;
using pipeline::PlanReport;

constexpr double default_seconds = 1.0;
constexpr double max_seconds = 86'400.0;
constexpr std::int64_t max_evaluations = 1'000'000'000'000;
constexpr std::int64_t max_searches = 256;
// Of all searches together: each keeps about 600 bytes for a visit.
constexpr std::int64_t max_visits_at_once = 4'000'000;

ExitCode complain(const Options& options, const Error& error) {
  options.err() << "starling plan: " << error.message << "\n";
  return exit_code_of(error.code);
}

std::int64_t visits_of(const PlanInstance& instance) {
  return std::int64_t{instance.microbatches()} * instance.path_length;
}

std::int64_t most_searches(const PlanInstance& instance) {
  return std::clamp<std::int64_t>(max_visits_at_once / visits_of(instance), 1, max_searches);
}

Result<PlanSearch> search_of(const Options& options, const PlanInstance& instance) {
  PlanSearch out;
  const double budget = options.number("seconds").value_or(default_seconds);
  if (!std::isfinite(budget) || budget < 0.0 || budget > max_seconds) {
    return fail(ErrorCode::usage, fmt::format("--seconds must be from 0 to {:.0f}", max_seconds));
  }
  const std::int64_t seed = options.integer("seed").value_or(0);
  if (seed < 0) return fail(ErrorCode::usage, "--seed must not be negative");
  out.seed = static_cast<std::uint64_t>(seed);
  const std::int64_t most = most_searches(instance);
  const std::int64_t searches = options.integer("searches").value_or(std::min<std::int64_t>(all_cores(), most));
  if (searches < 1 || searches > most) {
    return fail(ErrorCode::usage,
                fmt::format("--searches must be from 1 to {} for an instance of {} visits", most, visits_of(instance)));
  }
  out.searches = static_cast<int>(searches);
  if (const auto evaluations = options.integer("evaluations")) {
    if (*evaluations < 0 || *evaluations > max_evaluations) {
      return fail(ErrorCode::usage, fmt::format("--evaluations must be from 0 to {}", max_evaluations));
    }
    out.evaluations = static_cast<std::uint64_t>(*evaluations);
    if (options.has("seconds")) out.seconds = budget;
  } else {
    out.evaluations = pipeline::affordable_evaluations(instance, budget);
    out.seconds = budget;
  }
  return out;
}

std::string plan_json(const PlanInstance& instance, const PlanSearch& search, const FoundPlan& found) {
  nlohmann::ordered_json out;
  out["stages"] = found.plan.stages;
  out["paths"] = nlohmann::ordered_json::array();
  for (const auto& path : found.plan.paths) {
    out["paths"].push_back({{"originator", path.originator}, {"hops", path.hops}, {"start", path.start}});
  }
  out["path_length"] = instance.path_length;
  out["seconds"] = found.seconds;
  out["first_seconds"] = found.first_seconds;
  out["microbatches"] = instance.microbatches();
  out["seed"] = search.seed;
  out["evaluations"] = search.evaluations;
  out["searches"] = search.searches;
  out["stopped_by_time"] = found.stopped_by_time;
  return out.dump() + "\n";
}

template <typename... Args>
void add(std::string& out, fmt::format_string<Args...> format, Args&&... args) {
  fmt::format_to(std::back_inserter(out), format, std::forward<Args>(args)...);
}

// One line: what the full pipeline, all nodes and as many microbatches, takes when it is searched for in the same way.
std::string compare_with_full(const Options& options, const PlanInstance& instance, const PlanSearch& search,
                              double seconds, const Clock& clock) {
  const PlanInstance full = pipeline::full_pipeline(instance);
  if (!full.validate()) {  // it has more visits
    return fmt::format("the full pipeline, all {} stages, is too large to be planned: {} visits are more than {}\n",
                       full.stages, visits_of(full), pipeline::max_plan_visits);
  }
  PlanSearch again = search;
  again.searches = static_cast<int>(std::min<std::int64_t>(search.searches, most_searches(full)));
  if (!options.has("evaluations")) again.evaluations = pipeline::affordable_evaluations(full, *search.seconds);
  const double all = search_plan(full, again, clock).seconds;
  return fmt::format(
      "the full pipeline, all {} stages and all nodes, planned the same way: {:.2f} s ({:.0f} % less with "
      "skipping)\n",
      full.stages, all, 100.0 * (1.0 - seconds / all));
}

std::string plan_table(const PlanFile& file, const PlanReport& report, const FoundPlan& found,
                       const std::string& comparison) {
  const PlanInstance& instance = file.instance;
  std::string out;
  add(out, "an iteration of {} microbatches takes {:.2f} s; each visits {} of {} stages\n", instance.microbatches(),
      report.seconds, instance.path_length, instance.stages);
  add(out, "{}\n", comparison);
  add(out, "stage  node  {:<24}  visits  busy s  idle\n", "where");
  for (std::size_t s = 0; s < found.plan.stages.size(); ++s) {
    for (const int node : found.plan.stages[s]) {
      const auto n = static_cast<std::size_t>(node);
      const auto& time = report.nodes[n];
      add(out, "{:>5}  {:>4}  {:<24}  {:>6}  {:>6.2f}  {:>3.0f}%\n", s, node, file.names[n], time.visits, time.busy,
          100.0 * time.idle_share);
    }
  }
  const auto& critical = report.critical;
  const auto& path = found.plan.paths[static_cast<std::size_t>(critical.microbatch)];
  add(out, "\nthe critical microbatch is {}: {} -> {} -> {}\n", critical.microbatch, path.originator,
      fmt::join(path.hops, " -> "), path.originator);
  for (const auto& [what, seconds] :
       {std::pair{"planned start", critical.start}, std::pair{"forward", critical.forward},
        std::pair{"loss", critical.loss}, std::pair{"backward", critical.backward},
        std::pair{"on its way", critical.travel}, std::pair{"waiting", critical.waiting}}) {
    add(out, "  {:<14} {:>7.2f} s  {:>3.0f}%\n", what, seconds, 100.0 * seconds / critical.done);
  }
  add(out, "  {:<14} {:>7.2f} s\n", "done", critical.done);
  return out;
}

std::string memory_table(const RunConfig& config) {
  constexpr double mib = 1024.0 * 1024.0;
  const std::vector<trainer::StageLayers> cut = config.stage_layers();
  const auto stages = static_cast<std::int64_t>(cut.size());
  std::string out;
  add(out,
      "memory of a worker, in MiB above the program itself; an exchange adds two more sets of weights for a moment\n");
  add(out, "{:>5} {:>11} {:>8} {:>9} {:>10} {:>8} {:>9} {:>5} {:>8} {:>8} {:>8} {:>9}\n", "stage", "parameters",
      "weights", "versions", "gradients", "adam", "phi, mom.", "open", "kept", "logits", "scratch", "all");
  for (std::size_t i = 0; i < cut.size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    // `auto`: what keeps a pipeline of equal stages busy, a forward and a backward for each hop.
    const std::int64_t open = config.pipeline.max_in_flight.value_or(stages == 1 ? 1 : 2 * stages);
    const trainer::StageMemory m = trainer::stage_memory(config.model, config.training, cut[i], stage, open);
    const auto in_mib = [](std::int64_t bytes) { return static_cast<double>(bytes) / mib; };
    add(out, "{:>5} {:>11} {:>8.1f} {:>9.1f} {:>10.1f} {:>8.1f} {:>9.1f} {:>5} {:>8.1f} {:>8.1f} {:>8.1f} {:>9.1f}\n",
        i, trainer::parameter_count(config.model, cut[i], stage), in_mib(m.weights), in_mib(m.versions),
        in_mib(m.gradients), in_mib(m.adam), in_mib(m.slow), open, in_mib(m.kept), in_mib(m.logits), in_mib(m.scratch),
        in_mib(m.total()));
  }
  return out;
}

ExitCode run_memory(const Options& options, const std::string& file) {
  const ConfigReading reading = load_config(file, options.overrides(), nullptr);
  options.err() << describe(reading.problems);
  if (!reading.ok()) return ExitCode::bad_config;
  options.out() << memory_table(reading.config);
  return ExitCode::ok;
}

ExitCode run_plan(const Options& options) {
  if (const std::string file = options.argument("RUN.YAML"); !file.empty()) {
    for (const char* flag : {"instance", "json", "seconds", "seed", "evaluations", "searches", "svg"}) {
      if (!options.has(flag)) continue;
      return complain(options,
                      {ErrorCode::usage, fmt::format("--{} does not go with a run file, of which the memory is "
                                                     "printed; leave one of them out",
                                                     flag)});
    }
    return run_memory(options, file);
  }
  const auto path = options.text("instance");
  if (!path) {
    return complain(options,
                    {ErrorCode::usage,
                     "RUN.YAML, for the memory of its stages, or --instance FILE, for the network to plan for, is "
                     "missing (see 'starling plan --help')"});
  }
  const auto file = read_plan_file(*path);
  if (!file) return complain(options, file.error());
  const auto search = search_of(options, file->instance);
  if (!search) return complain(options, search.error());
  const RealClock clock;
  const FoundPlan found = search_plan(file->instance, *search, clock);
  const auto report = pipeline::report_plan(file->instance, found.plan);
  STARLING_CHECK(report.has_value(), "the planner's plans obey the rules and do not lock up");
  if (options.has("json")) {
    options.out() << plan_json(file->instance, *search, found);
  } else {
    options.out() << plan_table(*file, *report, found,
                                compare_with_full(options, file->instance, *search, found.seconds, clock));
  }
  if (found.stopped_by_time) {
    options.err() << "starling plan: stopped by the time; the same seed may give another plan on another machine\n";
  }
  if (const auto svg = options.text("svg")) {
    const Status written = replace_file(*svg, as_bytes(gantt_svg(*report, file->names)));
    if (!written) return complain(options, written.error());
  }
  return ExitCode::ok;
}

}  // namespace

Command plan_command() {
  return {
      "plan",
      "print what a run's stages need of memory, or plan which stages a network skips",
      "With a run file: what a worker of each stage takes, with pipeline.max_in_flight microbatches open (auto: two a\n"
      "stage). With --instance: which stages each microbatch skips and where every node belongs.\n\n"
      "FILE is one JSON object: delays ([from][to] in seconds; or latency_seconds, bandwidth_bytes_per_second and\n"
      "activation_bytes), forward_seconds and memory (a number, or one per node), num_stages, path_length,\n"
      "microbatches_per_originator, and stage_sizes, or originators, to let the planner choose the other sizes.\n\n"
      "The same file, seed, evaluations and searches give the same plan. --seconds sets the evaluations by a fixed "
      "price\n"
      "and is the outer stop for a machine that is slower. Without --json, the full pipeline is planned as well, with\n"
      "as much time again, to compare with.\n"
      "Exit code 3: something is wrong with FILE, and stderr says what.",
      {{"RUN.YAML", Argument::Presence::optional, "the run file"}},
      {set_flag(),
       {"instance", Flag::Kind::text, "FILE", "the network and what an iteration asks of it"},
       {"json", Flag::Kind::toggle, "", "print one JSON object: stages, paths (one per microbatch), seconds"},
       {"seconds", Flag::Kind::number, "S", "how long to search; default 1"},
       {"seed", Flag::Kind::integer, "N", "where chance begins; default 0"},
       {"evaluations", Flag::Kind::integer, "N", "how many plans each search looks at, instead of a time"},
       {"searches", Flag::Kind::integer, "N", "independent searches beside each other; default: one a core"},
       {"svg", Flag::Kind::text, "FILE", "write a picture of the iteration"}},
      run_plan};
}

}  // namespace starling::launcher
