#include "launcher/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <numeric>

namespace starling::launcher {
namespace {

// 1234567 as 1,234,567.
std::string grouped(std::int64_t value) {
  std::string digits = fmt::format("{}", value);
  for (std::size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, ",");
  return digits;
}

std::vector<std::int64_t> parameters_per_stage(const RunConfig& config) {
  std::vector<std::int64_t> counts;
  Stage stage = 0;
  for (const auto& layers : config.stage_layers()) counts.push_back(parameter_count(config.model, layers, stage++));
  return counts;
}

std::string_view name_of(outer::Algorithm algorithm) {
  switch (algorithm) {
    case outer::Algorithm::noloco:
      return "noloco: pairs of replicas average";
    case outer::Algorithm::diloco:
      return "diloco: all replicas of a stage average";
    case outer::Algorithm::none:
      return "none: replicas never average";
  }
  return "";
}

std::string summary(const std::string& file, const RunConfig& config, const DataSummary& data) {
  const auto counts = parameters_per_stage(config);
  std::vector<std::string> by_stage;
  for (const std::int64_t count : counts) by_stage.push_back(grouped(count));
  const Step steps = config.planned_steps();
  const auto tokens = static_cast<double>(steps) * static_cast<double>(config.tokens_per_step());
  std::string out = fmt::format("{} is valid\n", file);
  out += fmt::format("  run      {}, seed {}, in {}\n", config.run.name, config.run.seed, config.run.output_dir);
  out +=
      fmt::format("  model    {} parameters; by stage: {}\n",
                  grouped(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})), fmt::join(by_stage, ", "));
  out += fmt::format("  workers  {} stages x {} replicas; begins with {}\n", config.parallelism.stages,
                     config.parallelism.replicas, config.start_workers());
  out += fmt::format("  step     {} replicas x {} microbatches x {} sequences x {} tokens = {} tokens\n",
                     config.parallelism.replicas, config.training.microbatches, config.training.micro_batch_size,
                     config.training.seq_len, grouped(config.tokens_per_step()));
  out += fmt::format("  length   {} steps, {:.3g} tokens\n", grouped(steps), tokens);
  out += fmt::format("  outer    {}, a round is {} steps\n", name_of(config.outer.algorithm), config.outer.local_steps);
  out += fmt::format("  data     {} tokens to train on, {} held out\n", grouped(data.training_tokens),
                     grouped(data.validation_tokens));
  const char* label = "  auto     ";
  for (const AutoChoice& choice : config.auto_choices()) {
    out += fmt::format("{}{}: {}\n", label, choice.key, choice.value);
    label = "           ";
  }
  return out + fmt::format("  hash     {}\n", to_hex(config_hash(config)));
}

nlohmann::ordered_json to_json(const Problem& problem) {
  nlohmann::ordered_json out;
  out["severity"] = problem.severity == Severity::error ? "error" : "warning";
  out["source"] = problem.source;
  if (problem.at.line > 0) {
    out["line"] = problem.at.line;
    out["column"] = problem.at.column;
  }
  out["message"] = problem.message;
  return out;
}

std::string json_summary(const std::string& file, const ConfigReading& reading, const DataSummary& data) {
  nlohmann::ordered_json out;
  out["file"] = file;
  out["valid"] = reading.ok();
  out["problems"] = nlohmann::ordered_json::array();
  for (const Problem& problem : reading.problems) out["problems"].push_back(to_json(problem));
  if (reading.ok()) {
    const RunConfig& config = reading.config;
    out["name"] = config.run.name;
    out["parameters_per_stage"] = parameters_per_stage(config);
    out["start_workers"] = config.start_workers();
    out["tokens_per_step"] = config.tokens_per_step();
    out["steps"] = config.planned_steps();
    out["training_tokens"] = data.training_tokens;
    out["validation_tokens"] = data.validation_tokens;
    for (const AutoChoice& choice : config.auto_choices()) out["auto"][choice.key] = choice.value;
    out["hash"] = to_hex(config_hash(config));
  }
  // Paths and values need not be UTF-8.
  return out.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

ExitCode run_validate(const Options& options) {
  const std::string file = options.argument("RUN.YAML");
  DataSummary data;
  const ConfigReading reading = load_config(file, options.overrides(), &data);
  if (options.has("json")) {
    options.out() << json_summary(file, reading, data);
  } else {
    options.err() << describe(reading.problems);
    if (reading.ok()) options.out() << summary(file, reading.config, data);
  }
  return reading.ok() ? ExitCode::ok : ExitCode::bad_config;
}

}  // namespace

Command validate_command() {
  return {
      "validate",
      "check a run file and print what it amounts to",
      "Finds everything that is wrong in one go, says where it stands and what to set, and opens the data.\n"
      "Values come from the defaults, then the file, then STARLING_<SECTION>_<KEY> in the environment, then --set.\n"
      "Exit code 0: a run can start with it (warnings are on stderr); 3: it cannot.",
      {{"RUN.YAML", Argument::Presence::required, "the run file"}},
      {set_flag(), {"json", Flag::Kind::toggle, "", "print one JSON object instead"}},
      run_validate};
}

}  // namespace starling::launcher
