// What `starling status` says about a run: the same facts as JSON for programs (/api/v1/status, status.json, --json)
// and as a table for people.
//
//   {"run_id", "name", "state": "waiting|training|finished", "step", "max_steps", "loss", "tokens_per_second", "join",
//    "stages": [{"stage", "replicas"}],
//    "workers": [{"id", "name", "pid", "host", "stage", "state": "joining|active|paused|suspect|dead|left", "step",
//                 "tokens_per_second", "http", "rss_bytes"}]}
//
// All keys are always there, null where nothing is known; only "pid" is left out, for workers of other machines, since
// a number would be taken for a process here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "metrics/labels.h"

namespace starling::metrics {

enum class RunState { waiting, training, finished };

struct StageStatus {
  Stage stage = 0;
  std::int64_t replicas = 0;  // live ones
  bool operator==(const StageStatus&) const = default;
};

struct WorkerStatus {
  std::string id;  // hex
  std::string name;
  std::optional<std::int64_t> pid;  // of a local one
  std::string host;
  Stage stage = no_stage;
  WorkerState state = WorkerState::joining;
  Step step = 0;
  std::optional<double> tokens_per_second;
  std::optional<std::string> http;  // "127.0.0.1:9465"
  std::optional<std::uint64_t> rss_bytes;
  bool operator==(const WorkerStatus&) const = default;
};

struct RunStatus {
  std::string run_id;
  std::string name;
  RunState state = RunState::waiting;
  Step step = 0;
  Step max_steps = 0;
  std::optional<double> loss;
  std::optional<double> tokens_per_second;
  std::optional<std::string> join;  // the token; a secret that lets one in
  std::vector<StageStatus> stages;
  std::vector<WorkerStatus> workers;
  bool operator==(const RunStatus&) const = default;
};

std::string_view to_string(RunState state);
std::string_view to_string(WorkerState state);

// One line. Text that is not UTF-8 is replaced, a number that is not finite is null.
std::string to_json(const RunStatus& status);

inline constexpr std::size_t max_status_bytes = 8 << 20;
inline constexpr std::size_t max_status_workers = 10000;

// Reads what to_json wrote; the text may come from a peer or a stranger's server. Unknown keys are ignored, since a
// newer node may say more. Errors: bad_input, naming the key, what was expected and what came; limit.
Result<RunStatus> parse_run_status(std::string_view json);

inline constexpr std::size_t status_table_columns = 100;
inline constexpr std::size_t status_table_workers = 40;

// A table of at most status_table_columns columns, ending in a line break, without the token. Of more than
// status_table_workers workers it shows a summary per stage and those that need attention. `note` is put on the first
// line, such as "stale since 12:03".
std::string format_run_status(const RunStatus& status, std::string_view note = {});

}  // namespace starling::metrics
