#include "metrics/status.h"

#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace starling::metrics {
namespace {

// Written in order, so that the keys come out as they are documented; read into a tree, since an ordered object takes
// quadratic time to read and its size is up to whoever wrote it.
using OrderedJson = nlohmann::ordered_json;
using Json = nlohmann::json;

constexpr std::array<std::string_view, 3> run_states = {"waiting", "training", "finished"};
constexpr std::array<std::string_view, 6> worker_states = {"joining", "active", "paused", "suspect", "dead", "left"};

OrderedJson number_or_null(const std::optional<double>& value) {
  if (!value || !std::isfinite(*value)) return nullptr;
  return *value;
}
template <typename T>
OrderedJson or_null(const std::optional<T>& value) {
  if (!value) return nullptr;
  return *value;
}

OrderedJson worker_json(const WorkerStatus& worker) {
  OrderedJson out;
  out["id"] = worker.id;
  out["name"] = worker.name;
  if (worker.pid) out["pid"] = *worker.pid;
  out["host"] = worker.host;
  out["stage"] = worker.stage;
  out["state"] = to_string(worker.state);
  out["step"] = worker.step;
  out["tokens_per_second"] = number_or_null(worker.tokens_per_second);
  out["http"] = or_null(worker.http);
  out["rss_bytes"] = or_null(worker.rss_bytes);
  return out;
}

// Reads the keys of one object and remembers the first thing that is wrong.
class ObjectReader {
 public:
  ObjectReader(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) refuse("", "an object", object);
  }

  std::string text(const char* key, std::size_t max_bytes) {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_string()) return refuse(key, "a text", *value), std::string();
    const auto& text = value->get_ref<const std::string&>();
    if (text.size() > max_bytes) refuse(key, "at most " + std::to_string(max_bytes) + " bytes", text.size());
    return text;
  }

  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) {
    const Json* value = find(key);
    if (value == nullptr) return low;
    const std::string expected = "an integer from " + std::to_string(low) + " to " + std::to_string(high);
    if (!value->is_number_integer()) return refuse(key, expected, *value), low;
    if (value->is_number_unsigned() && value->get<std::uint64_t>() > static_cast<std::uint64_t>(high)) {
      return refuse(key, expected, *value), low;
    }
    const auto number = value->get<std::int64_t>();
    if (number < low || number > high) return refuse(key, expected, *value), low;
    return number;
  }

  std::optional<double> maybe_number(const char* key) {
    if (!has(key)) return std::nullopt;
    const Json* value = find(key);
    if (!value->is_number()) return refuse(key, "a number or null", *value), std::nullopt;
    return value->get<double>();
  }
  std::optional<std::string> maybe_text(const char* key, std::size_t max_bytes) {
    if (!has(key)) return std::nullopt;
    return text(key, max_bytes);
  }
  std::optional<std::int64_t> maybe_integer(const char* key, std::int64_t low, std::int64_t high) {
    if (!has(key)) return std::nullopt;
    return integer(key, low, high);
  }

  // The index of a text among `names`.
  template <std::size_t N>
  std::size_t choice(const char* key, const std::array<std::string_view, N>& names) {
    const std::string name = text(key, 64);
    for (std::size_t i = 0; i < N; ++i) {
      if (names[i] == name) return i;
    }
    std::string expected = "one of";
    for (const std::string_view each : names) expected.append(" ").append(each);
    refuse(key, expected, name);
    return 0;
  }

  // The elements of a list of objects.
  const Json& list(const char* key, std::size_t max_size) {
    static const Json none = Json::array();
    const Json* value = find(key);
    if (value == nullptr) return none;
    if (!value->is_array()) return refuse(key, "a list", *value), none;
    if (value->size() > max_size) return refuse(key, "at most " + std::to_string(max_size), value->size()), none;
    return *value;
  }

  void take_error_of(const ObjectReader& part) {
    if (error_.empty()) error_ = part.error_;
  }
  const std::string& error() const { return error_; }

 private:
  bool has(const char* key) const {
    const auto found = object_.is_object() ? object_.find(key) : object_.end();
    return found != object_.end() && !found->is_null();
  }
  // Null, and an error, when the key is not there.
  const Json* find(const char* key) {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(key);
    if (found != object_.end()) return &*found;
    if (error_.empty()) error_ = where_ + key + ": expected it, but it is not there";
    return nullptr;
  }
  void refuse(const char* key, const std::string& expected, const Json& got) {
    if (!error_.empty()) return;
    // What is nested is not shown: writing it out would recurse as deep as a stranger likes.
    std::string shown = got.is_structured() ? std::string("an ") + got.type_name()
                                            : got.dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
    error_ = where_ + key + ": expected " + expected + ", got " + shown;
  }

  const Json& object_;
  std::string where_;
  std::string error_;
};

constexpr std::int64_t any_count = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t max_stages = 4096;
constexpr std::size_t max_name_bytes = 256;
constexpr std::size_t max_token_bytes = 64 << 10;

WorkerStatus read_worker(ObjectReader& object) {
  WorkerStatus worker;
  worker.id = object.text("id", max_name_bytes);
  worker.name = object.text("name", max_name_bytes);
  worker.pid = object.maybe_integer("pid", 1, std::numeric_limits<std::int32_t>::max());
  worker.host = object.text("host", max_name_bytes);
  worker.stage = static_cast<Stage>(object.integer("stage", no_stage, max_stages - 1));
  worker.state = static_cast<WorkerState>(object.choice("state", worker_states));
  worker.step = object.integer("step", 0, any_count);
  worker.tokens_per_second = object.maybe_number("tokens_per_second");
  worker.http = object.maybe_text("http", max_name_bytes);
  if (const auto rss = object.maybe_integer("rss_bytes", 0, any_count)) {
    worker.rss_bytes = static_cast<std::uint64_t>(*rss);
  }
  return worker;
}

}  // namespace

std::string_view to_string(RunState state) { return run_states.at(static_cast<std::size_t>(state)); }
std::string_view to_string(WorkerState state) { return worker_states.at(static_cast<std::size_t>(state)); }

std::string to_json(const RunStatus& status) {
  OrderedJson out;
  out["run_id"] = status.run_id;
  out["name"] = status.name;
  out["state"] = to_string(status.state);
  out["step"] = status.step;
  out["max_steps"] = status.max_steps;
  out["loss"] = number_or_null(status.loss);
  out["tokens_per_second"] = number_or_null(status.tokens_per_second);
  out["join"] = or_null(status.join);
  out["stages"] = OrderedJson::array();
  for (const StageStatus& stage : status.stages) {
    OrderedJson each;
    each["stage"] = stage.stage;
    each["replicas"] = stage.replicas;
    out["stages"].push_back(std::move(each));
  }
  out["workers"] = OrderedJson::array();
  for (const WorkerStatus& worker : status.workers) out["workers"].push_back(worker_json(worker));
  return out.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

Result<RunStatus> parse_run_status(std::string_view json) {
  if (json.size() > max_status_bytes) {
    return fail(ErrorCode::limit, "a status has at most " + std::to_string(max_status_bytes) + " bytes, got " +
                                      std::to_string(json.size()));
  }
  const Json document = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded())
    return fail(ErrorCode::bad_input, "expected the status of a run as JSON; this is no JSON");

  ObjectReader object(document, "");
  RunStatus status;
  status.run_id = object.text("run_id", max_name_bytes);
  status.name = object.text("name", max_name_bytes);
  status.state = static_cast<RunState>(object.choice("state", run_states));
  status.step = object.integer("step", 0, any_count);
  status.max_steps = object.integer("max_steps", 0, any_count);
  status.loss = object.maybe_number("loss");
  status.tokens_per_second = object.maybe_number("tokens_per_second");
  status.join = object.maybe_text("join", max_token_bytes);
  for (const Json& each : object.list("stages", max_stages)) {
    ObjectReader stage(each, "stages[" + std::to_string(status.stages.size()) + "].");
    StageStatus& added = status.stages.emplace_back();
    added.stage = static_cast<Stage>(stage.integer("stage", 0, max_stages - 1));
    added.replicas = stage.integer("replicas", 0, static_cast<std::int64_t>(max_status_workers));
    object.take_error_of(stage);
  }
  for (const Json& each : object.list("workers", max_status_workers)) {
    ObjectReader worker(each, "workers[" + std::to_string(status.workers.size()) + "].");
    status.workers.push_back(read_worker(worker));
    object.take_error_of(worker);
  }
  if (!object.error().empty()) return fail(ErrorCode::bad_input, "the status of a run: " + object.error());
  return status;
}

}  // namespace starling::metrics
