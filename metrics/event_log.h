// The two files of a run directory that grow, one JSON object a line: events.jsonl (what a person asks about a run) and
// metrics.jsonl (one line per worker and logged step, for plots).
//
// Several processes append to one file at once. Each line is one write() in O_APPEND mode, which Linux does not let mix
// with the writes of others. A write that the disk cut short leaves a torn line; its writer ends it with a line break
// as soon as it can, and readers skip lines that are no whole object. Nothing here fails towards the caller once the
// file is open: what could not be written is counted, and said once in the log.
//
// Thread: one at a time per object.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"

namespace starling::metrics {

// A file of lines that is only ever appended to.
class LineFile {
 public:
  // Makes the file when it is not there; its folder has to be. Errors: io, disk_full, not_found.
  static Result<LineFile> open(const std::filesystem::path& path);
  LineFile(LineFile&& other) noexcept;
  LineFile& operator=(LineFile&&) = delete;
  ~LineFile();

  // Appends `line` and a line break. REQUIRES: no line break in `line`.
  void append(std::string_view line) noexcept;
  // Lines that did not get into the file as a whole.
  std::uint64_t lost_lines() const { return lost_lines_; }

 private:
  LineFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  void count_lost_line(int error) noexcept;

  std::filesystem::path path_;
  int fd_;
  bool torn_ = false;  // the last write left part of a line
  std::uint64_t lost_lines_ = 0;
};

// {"time": unix seconds, "event": "dead", "worker": whom it is about, ...}.
struct EventLine {
  double time = 0.0;
  std::string event;
  std::string worker;
  std::vector<EventField> fields;
};

// One line without its break. Fields cannot take the place of "time" or "event". Text that is no UTF-8 is replaced, a
// number that is not finite is null.
std::string to_json(const EventLine& line);
Result<EventLine> event_from_json(std::string_view json);

// The events of one worker. An event is about that worker unless a field "worker" names another; then "by" says who
// wrote it.
class JsonEventLog final : public EventLog {
 public:
  JsonEventLog(LineFile file, const Clock& clock, std::string worker)
      : file_(std::move(file)), clock_(clock), worker_(std::move(worker)) {}
  void write(std::string_view event, const std::vector<EventField>& fields) override;
  // A line that another worker made, which has no file here.
  void write_for(const EventLine& line);
  std::uint64_t lost_lines() const { return file_.lost_lines(); }

 private:
  LineFile file_;
  const Clock& clock_;
  std::string worker_;
};

// One line of metrics.jsonl; what has no value is left out of it (only originators have a loss). A value that is not
// finite is written as null and read back as NaN: it was measured, and that is the news.
struct MetricsLine {
  double time = 0.0;  // unix seconds
  Step step = 0;
  std::string worker;
  Stage stage = no_stage;
  std::int64_t tokens = 0;                     // all that this worker has trained on
  std::optional<double> loss;                  // train/loss, nats per token
  std::optional<double> learning_rate;         // train/lr
  std::optional<double> gradient_norm;         // train/grad_norm
  std::optional<double> tokens_per_second;     // throughput/tokens_per_second
  std::optional<double> flops_utilization;     // throughput/mfu
  std::optional<double> skip_ratio;            // pipeline/skip_ratio
  std::optional<std::int64_t> workers_active;  // workers/active
  std::optional<double> validation_loss;       // val/loss, on lines where it was measured
  std::optional<double> divergence;            // outer/divergence, likewise
};

std::string to_json(const MetricsLine& line);
Result<MetricsLine> metrics_line_from_json(std::string_view json);

inline constexpr std::size_t max_line_bytes = 64 << 10;

// Calls `take` with every whole line of a file, without its break; `take` says whether it could read the line. Lines
// that are empty, longer than max_line_bytes or lack their break are not whole. Returns how many lines were skipped or
// refused. Errors: not_found, io.
Result<std::uint64_t> for_each_line(const std::filesystem::path& path,
                                    const std::function<bool(std::string_view)>& take);

template <typename Line>
struct Lines {
  std::vector<Line> lines;
  std::uint64_t skipped = 0;  // torn or foreign
};
// Errors: not_found, io.
Result<Lines<MetricsLine>> read_metrics(const std::filesystem::path& path);
Result<Lines<EventLine>> read_events(const std::filesystem::path& path);

}  // namespace starling::metrics
