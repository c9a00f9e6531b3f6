// format_run_status(): the status of a run for a terminal of 100 columns.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "gossip/base/printable.h"
#include "metrics/status.h"
#include "metrics/step_line.h"

namespace starling::metrics {
namespace {

// Columns that a terminal gives to a character: two to those of East Asia and to pictures. Coarse, and never too few.
std::size_t columns_of(std::string_view character) {
  return character.size() >= 3 && static_cast<unsigned char>(character[0]) != 0xe2 ? 2 : 1;
}

// `text` made printable and cut or filled to exactly `width` columns.
std::string cell(std::string_view text, std::size_t width) {
  const std::string safe = printable(text, 1024);
  std::string out;
  std::size_t used = 0;
  for (std::string_view rest = safe; !rest.empty();) {
    const std::string_view character = rest.substr(0, utf8_length(rest));
    rest.remove_prefix(character.size());
    const std::size_t columns = columns_of(character);
    if (used + columns > width) break;
    out += character;
    used += columns;
  }
  return out.append(width - used, ' ');
}

std::string number_cell(const std::string& text, std::size_t width) { return fmt::format("{:>{}}", text, width); }

std::string stage_text(Stage stage) { return stage == no_stage ? "-" : std::to_string(stage); }

template <typename T, typename Format>
std::string or_dash(const std::optional<T>& value, Format format) {
  return value ? format(*value) : "-";
}

// One row, never wider than the table, whatever numbers a peer claims, and without the blanks at its end.
void add_row(std::string& out, std::string_view text) {
  std::string row = cell(text, status_table_columns);
  row.erase(row.find_last_not_of(' ') + 1);
  out.append(row).push_back('\n');
}

std::string header(const RunStatus& status, std::string_view note) {
  const auto live = std::count_if(status.workers.begin(), status.workers.end(),
                                  [](const WorkerStatus& worker) { return worker.state == WorkerState::active; });
  const auto known = std::count_if(status.workers.begin(), status.workers.end(),
                                   [](const WorkerStatus& worker) { return worker.state != WorkerState::left; });
  std::string facts = fmt::format("{}", to_string(status.state));
  if (!note.empty()) facts += fmt::format(" ({})", printable(note, 40));
  facts += fmt::format("  step {}", status.step);
  if (status.max_steps > 0) facts += fmt::format("/{}", status.max_steps);
  if (status.loss) facts += fmt::format("  loss {}", format_short(*status.loss));
  if (status.tokens_per_second) facts += "  tok/s " + format_count(*status.tokens_per_second);
  facts += fmt::format("  workers {}/{}", live, known);
  std::string out;
  add_row(out, fmt::format("{}  run {}", status.name, status.run_id));
  add_row(out, facts);
  return out;
}

// "stages  0: 4  1: 4  2: 3", as many to a line as fit.
std::string stage_lines(const std::vector<StageStatus>& stages) {
  static constexpr std::string_view title = "stages";
  std::string out;
  std::string row(title);
  for (const StageStatus& stage : stages) {
    const std::string each = fmt::format("  {}: {}", stage.stage, stage.replicas);
    if (row.size() + each.size() > status_table_columns) {
      add_row(out, std::exchange(row, std::string(title.size(), ' ')));
    }
    row += each;
  }
  if (!stages.empty()) add_row(out, row);
  return out;
}

std::string worker_rows(const std::vector<const WorkerStatus*>& workers) {
  std::string out;
  add_row(out, fmt::format("{} {} {} {} {} {} {} {} {}", cell("NAME", 16), cell("ID", 8), cell("STATE", 7),
                           number_cell("STAGE", 5), number_cell("STEP", 8), number_cell("TOK/S", 6),
                           number_cell("MEMORY", 9), number_cell("PID", 7), "HTTP"));
  for (const WorkerStatus* worker : workers) {
    add_row(out, fmt::format("{} {} {} {} {} {} {} {} {}", cell(worker->name, 16), cell(worker->id, 8),
                             cell(to_string(worker->state), 7), number_cell(stage_text(worker->stage), 5),
                             number_cell(std::to_string(worker->step), 8),
                             number_cell(or_dash(worker->tokens_per_second, format_count), 6),
                             number_cell(or_dash(worker->rss_bytes, format_bytes), 9),
                             number_cell(or_dash(worker->pid, [](auto pid) { return std::to_string(pid); }), 7),
                             cell(worker->http.value_or(worker->host), 26)));
  }
  return out;
}

struct StageSummary {
  std::array<std::int64_t, 6> in_state{};
  Step first_step = 0;
  Step last_step = 0;
  double tokens_per_second = 0.0;
};

std::string summary_rows(const std::vector<WorkerStatus>& workers) {
  std::map<Stage, StageSummary> stages;
  for (const WorkerStatus& worker : workers) {
    const auto [at, is_new] = stages.try_emplace(worker.stage);
    StageSummary& summary = at->second;
    summary.in_state.at(static_cast<std::size_t>(worker.state)) += 1;
    summary.first_step = is_new ? worker.step : std::min(summary.first_step, worker.step);
    summary.last_step = std::max(summary.last_step, worker.step);
    summary.tokens_per_second += worker.tokens_per_second.value_or(0.0);
  }
  std::string out;
  add_row(out, fmt::format("{:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>19} {:>7}", "STAGE", "ACTIVE", "JOINING",
                           "PAUSED", "SUSPECT", "DEAD", "LEFT", "STEPS", "TOK/S"));
  for (const auto& [stage, summary] : stages) {
    const auto count = [&summary = summary](WorkerState state) {
      return summary.in_state.at(static_cast<std::size_t>(state));
    };
    add_row(out, fmt::format("{:>5} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>19} {:>7}", stage_text(stage),
                             count(WorkerState::active), count(WorkerState::joining), count(WorkerState::paused),
                             count(WorkerState::suspect), count(WorkerState::dead), count(WorkerState::left),
                             fmt::format("{}..{}", summary.first_step, summary.last_step),
                             format_count(summary.tokens_per_second)));
  }
  return out;
}

}  // namespace

std::string format_run_status(const RunStatus& status, std::string_view note) {
  std::string out = header(status, note) + stage_lines(status.stages);
  if (status.workers.empty()) return out;
  out += '\n';
  std::vector<const WorkerStatus*> shown;
  const bool summarise = status.workers.size() > status_table_workers;
  for (const WorkerStatus& worker : status.workers) {
    const bool at_ease = worker.state == WorkerState::active || worker.state == WorkerState::left;
    if (!summarise || !at_ease) shown.push_back(&worker);
  }
  if (!summarise) return out + worker_rows(shown);

  out += summary_rows(status.workers);
  if (shown.empty()) return out;
  const std::size_t all = shown.size();
  shown.resize(std::min(all, status_table_workers / 2));
  out += '\n' + worker_rows(shown);
  if (all > shown.size())
    out += fmt::format("and {} more that are not active; --json has them all\n", all - shown.size());
  return out;
}

}  // namespace starling::metrics
