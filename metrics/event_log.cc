#include "metrics/event_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "gossip/base/log.h"

namespace starling::metrics {
namespace {

// Written in order; read into a tree, since an ordered object takes quadratic time to read.
using OrderedJson = nlohmann::ordered_json;
using Json = nlohmann::json;

// Milliseconds are enough for a person and half as long as all digits of a double.
double to_milliseconds(double unix_seconds) { return std::round(unix_seconds * 1000.0) / 1000.0; }

OrderedJson finite_or_null(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

std::string dump(const OrderedJson& json) { return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace); }

tl::unexpected<Error> no_line_of(const char* file) {
  return fail(ErrorCode::bad_input, std::string("expected a line of ") + file + " as a JSON object");
}

// The value of a key, or null when it is not there or of another type.
template <typename T>
std::optional<T> value_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return std::nullopt;
  if constexpr (std::is_same_v<T, std::string>) {
    if (found->is_string()) return found->template get<std::string>();
  } else if constexpr (std::is_integral_v<T>) {
    if (found->is_number_integer() &&
        !(found->is_number_unsigned() && found->template get<std::uint64_t>() > INT64_MAX)) {
      return found->template get<T>();
    }
  } else {
    if (found->is_null()) return std::numeric_limits<double>::quiet_NaN();
    if (found->is_number()) return found->template get<double>();
  }
  return std::nullopt;
}

EventField field_of(const std::string& name, const Json& value) {
  if (value.is_string()) return {name, value.get<std::string>()};
  if (value.is_number_integer()) return {name, value.get<std::int64_t>()};
  if (value.is_number()) return {name, value.get<double>()};
  if (value.is_null()) return {name, std::numeric_limits<double>::quiet_NaN()};
  if (value.is_boolean()) return {name, std::string(value.get<bool>() ? "true" : "false")};
  // We write nothing nested; what is nested came from elsewhere, perhaps thousands of levels deep.
  return {name, std::string(value.type_name())};
}

}  // namespace

Result<LineFile> LineFile::open(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd >= 0) return LineFile(path, fd);
  const ErrorCode code = errno == ENOSPC || errno == EDQUOT ? ErrorCode::disk_full
                         : errno == ENOENT                  ? ErrorCode::not_found
                                                            : ErrorCode::io;
  return fail(code, "cannot append to '" + path.string() + "': " + std::strerror(errno));
}

LineFile::LineFile(LineFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      torn_(other.torn_),
      lost_lines_(other.lost_lines_) {}

LineFile::~LineFile() {
  if (fd_ >= 0) ::close(fd_);
}

void LineFile::append(std::string_view line) noexcept {
  try {
    STARLING_CHECK(line.find('\n') == std::string_view::npos, "a line has one line break, at its end");
    std::string bytes;
    bytes.reserve(line.size() + 2);
    if (torn_) bytes += '\n';
    bytes.append(line).push_back('\n');
    ssize_t written = -1;
    do {
      written = ::write(fd_, bytes.data(), bytes.size());
    } while (written < 0 && errno == EINTR);
    if (written == static_cast<ssize_t>(bytes.size())) {
      torn_ = false;
      return;
    }
    // Finishing the line with a second write could land behind the line of another process.
    if (written > 0) torn_ = bytes[static_cast<std::size_t>(written) - 1] != '\n';
    count_lost_line(written < 0 ? errno : ENOSPC);
  } catch (const std::exception&) {
    count_lost_line(ENOMEM);
  }
}

void LineFile::count_lost_line(int error) noexcept {
  if (lost_lines_++ == 0) {
    log_error("cannot append to '{}': {}; lines that are lost from now on are only counted", path_.c_str(),
              std::strerror(error));
  }
}

std::string to_json(const EventLine& line) {
  OrderedJson out;
  out["time"] = to_milliseconds(line.time);
  out["event"] = line.event;
  out["worker"] = line.worker;
  for (const EventField& field : line.fields) {
    if (out.contains(field.name)) continue;
    OrderedJson& value = out[field.name];
    if (const auto* number = std::get_if<double>(&field.value)) {
      value = finite_or_null(*number);
    } else {
      std::visit([&](const auto& plain) { value = plain; }, field.value);
    }
  }
  return dump(out);
}

Result<EventLine> event_from_json(std::string_view json) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return no_line_of("events.jsonl");
  EventLine line;
  const auto time = value_of<double>(object, "time");
  const auto event = value_of<std::string>(object, "event");
  const auto worker = value_of<std::string>(object, "worker");
  if (!time || !event || !worker) return no_line_of("events.jsonl");
  line.time = *time;
  line.event = *event;
  line.worker = *worker;
  for (const auto& [name, value] : object.items()) {
    if (name != "time" && name != "event" && name != "worker") line.fields.push_back(field_of(name, value));
  }
  return line;
}

void JsonEventLog::write(std::string_view event, const std::vector<EventField>& fields) {
  EventLine line{clock_.unix_seconds(), std::string(event), worker_, {}};
  for (const EventField& field : fields) {
    const auto* about = std::get_if<std::string>(&field.value);
    if (field.name == "worker" && about != nullptr) {
      line.worker = *about;
    } else {
      line.fields.push_back(field);
    }
  }
  if (line.worker != worker_) line.fields.push_back({"by", worker_});
  write_for(line);
}

void JsonEventLog::write_for(const EventLine& line) { file_.append(to_json(line)); }

std::string to_json(const MetricsLine& line) {
  OrderedJson out;
  out["time"] = to_milliseconds(line.time);
  out["step"] = line.step;
  out["worker"] = line.worker;
  out["stage"] = line.stage;
  out["tokens"] = line.tokens;
  const auto add = [&](const char* key, const std::optional<double>& value) {
    if (value) out[key] = finite_or_null(*value);
  };
  add("train/loss", line.loss);
  add("train/lr", line.learning_rate);
  add("train/grad_norm", line.gradient_norm);
  add("throughput/tokens_per_second", line.tokens_per_second);
  add("throughput/mfu", line.flops_utilization);
  add("pipeline/skip_ratio", line.skip_ratio);
  if (line.workers_active) out["workers/active"] = *line.workers_active;
  add("val/loss", line.validation_loss);
  add("outer/divergence", line.divergence);
  return dump(out);
}

Result<MetricsLine> metrics_line_from_json(std::string_view json) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return no_line_of("metrics.jsonl");
  const auto time = value_of<double>(object, "time");
  const auto step = value_of<Step>(object, "step");
  const auto worker = value_of<std::string>(object, "worker");
  const auto stage = value_of<std::int64_t>(object, "stage");
  const auto tokens = value_of<std::int64_t>(object, "tokens");
  if (!time || !step || !worker || !stage || !tokens) return no_line_of("metrics.jsonl");
  if (*stage < no_stage || *stage > std::numeric_limits<Stage>::max()) return no_line_of("metrics.jsonl");
  MetricsLine line;
  line.time = *time;
  line.step = *step;
  line.worker = *worker;
  line.stage = static_cast<Stage>(*stage);
  line.tokens = *tokens;
  line.loss = value_of<double>(object, "train/loss");
  line.learning_rate = value_of<double>(object, "train/lr");
  line.gradient_norm = value_of<double>(object, "train/grad_norm");
  line.tokens_per_second = value_of<double>(object, "throughput/tokens_per_second");
  line.flops_utilization = value_of<double>(object, "throughput/mfu");
  line.skip_ratio = value_of<double>(object, "pipeline/skip_ratio");
  line.workers_active = value_of<std::int64_t>(object, "workers/active");
  line.validation_loss = value_of<double>(object, "val/loss");
  line.divergence = value_of<double>(object, "outer/divergence");
  return line;
}

Result<std::uint64_t> for_each_line(const std::filesystem::path& path,
                                    const std::function<bool(std::string_view)>& take) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(errno == ENOENT ? ErrorCode::not_found : ErrorCode::io, "cannot read '" + path.string() + "'");
  std::uint64_t skipped = 0;
  std::string line;
  bool too_long = false;
  std::vector<char> block(64 << 10);
  while (in.read(block.data(), static_cast<std::streamsize>(block.size())), in.gcount() > 0) {
    std::string_view rest(block.data(), static_cast<std::size_t>(in.gcount()));
    while (!rest.empty()) {
      const std::size_t end = rest.find('\n');
      const std::string_view part = rest.substr(0, end);
      too_long = too_long || line.size() + part.size() > max_line_bytes;
      if (!too_long) line += part;
      if (end == std::string_view::npos) break;
      if (too_long || line.empty() || !take(line)) ++skipped;
      line.clear();
      too_long = false;
      rest.remove_prefix(end + 1);
    }
  }
  if (in.bad()) return fail(ErrorCode::io, "cannot read '" + path.string() + "' to its end");
  return skipped + (line.empty() && !too_long ? 0 : 1);
}

namespace {

template <typename Line>
Result<Lines<Line>> read_lines(const std::filesystem::path& path, Result<Line> (*parse)(std::string_view)) {
  Lines<Line> out;
  const auto skipped = for_each_line(path, [&](std::string_view text) {
    auto line = parse(text);
    if (line) out.lines.push_back(std::move(*line));
    return line.has_value();
  });
  if (!skipped) return tl::unexpected<Error>(skipped.error());
  out.skipped = *skipped;
  return out;
}

}  // namespace

Result<Lines<MetricsLine>> read_metrics(const std::filesystem::path& path) {
  return read_lines<MetricsLine>(path, metrics_line_from_json);
}

Result<Lines<EventLine>> read_events(const std::filesystem::path& path) {
  return read_lines<EventLine>(path, event_from_json);
}

}  // namespace starling::metrics
