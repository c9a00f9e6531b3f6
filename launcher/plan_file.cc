#include "launcher/plan_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "gossip/base/printable.h"
#include "gossip/base/real_env.h"

namespace starling::launcher {
namespace {

using nlohmann::json;
using pipeline::PlanInstance;

tl::unexpected<Error> bad(std::string message) { return fail(ErrorCode::bad_config, std::move(message)); }

std::string shown(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 40);
}

// Two tables of the most nodes have 8 million values. So many, even if all are lists, take half a gigabyte when parsed.
constexpr std::size_t max_values = 9'000'000;
constexpr int max_levels = 16;

// Looks at brackets and commas only, before the parser asks for memory and whatever walks through lists for stack.
Status check_size(std::string_view text) {
  std::size_t values = 1;
  int levels = 0;
  bool quoted = false;
  for (std::size_t k = 0; k < text.size(); ++k) {
    const char c = text[k];
    if (quoted) {
      if (c == '\\') ++k;
      quoted = c != '"';
      continue;
    }
    quoted = c == '"';
    if (c == ']' || c == '}') --levels;
    const bool opens = c == '[' || c == '{';
    if (opens && ++levels > max_levels) return bad(fmt::format("lists are nested more than {} deep", max_levels));
    if ((opens || c == ',') && ++values > max_values)
      return bad(fmt::format("there are more than {} values", max_values));
  }
  return {};
}

// NaN and Infinity are what many programs write for a number that is none; JSON has neither. `byte`: where the parser
// stopped, counted from 1, which is inside of the word.
bool is_no_number(std::string_view text, std::size_t byte) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  std::size_t from = std::min(byte == 0 ? 0 : byte - 1, text.size());
  while (from > 0 && is_letter(text[from - 1])) --from;
  std::string word;
  while (from < text.size() && is_letter(text[from])) word += static_cast<char>(text[from++] | 0x20);  // in lower case
  return word == "nan" || word == "inf" || word == "infinity";
}

// The library's message without its own name for the error and without the place, which is said before it.
std::string reason_of(std::string_view what) {
  if (const auto end = what.find("] "); end != what.npos) what.remove_prefix(end + 2);
  if (what.starts_with("parse error at")) what.remove_prefix(what.find(": ") + 2);
  return printable(what, 160);
}

Result<json> parse_object(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == text.npos) return bad("the file is empty");
  if (Status status = check_size(text); !status) return tl::unexpected(status.error());
  std::set<std::string> keys;
  std::optional<std::string> twice;
  const auto note_key = [&](int level, json::parse_event_t event, json& value) {
    if (level != 1 || event != json::parse_event_t::key) return true;
    if (!keys.insert(value.get<std::string>()).second) twice = value.get<std::string>();
    return true;
  };
  try {
    json out = json::parse(text, note_key);
    if (!out.is_object()) return bad("the file must hold one JSON object, got " + shown(out));
    if (twice) return bad(fmt::format("'{}' is given twice", printable(*twice, 40)));
    return out;
  } catch (const json::parse_error& failure) {
    const auto before = static_cast<std::ptrdiff_t>(std::min(failure.byte, text.size()));
    const auto line = 1 + std::count(text.begin(), text.begin() + before, '\n');
    if (is_no_number(text, failure.byte)) {
      return bad(fmt::format(
          "line {} has NaN or Infinity where a number is needed: measure that link, or leave the node out", line));
    }
    return bad(fmt::format("not JSON: line {}, byte {}: {}", line, failure.byte, reason_of(failure.what())));
  } catch (const json::out_of_range& failure) {
    return bad("a number is out of range: " + reason_of(failure.what()));
  }
}

class Reader {
 public:
  explicit Reader(const json& object) : object_(object) {}

  Result<PlanFile> read() {
    if (Status status = read_network(); !status) return tl::unexpected(status.error());
    if (Status status = read_nodes(); !status) return tl::unexpected(status.error());
    if (Status status = read_iteration(); !status) return tl::unexpected(status.error());
    if (Status status = out_.instance.validate(); !status) return tl::unexpected(status.error());
    if (Status status = read_names(); !status) return tl::unexpected(status.error());
    return std::move(out_);
  }

 private:
  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }

  static Result<double> number(const json& value, const std::string& where) {
    if (!value.is_number()) return bad(fmt::format("{} must be a number, got {}", where, shown(value)));
    return value.get<double>();
  }

  Result<int> whole(const json& value, const std::string& where) const {
    const auto got = number(value, where);
    if (!got) return tl::unexpected(got.error());
    if (*got != std::floor(*got) || std::abs(*got) > 1e9)
      return bad(fmt::format("{} must be a whole number of at most 1000000000, got {}", where, shown(value)));
    return static_cast<int>(*got);
  }

  Result<int> whole(const char* key) const {
    const json* value = find(key);
    if (value == nullptr) return bad(fmt::format("'{}' is missing", key));
    return whole(*value, key);
  }

  // A square table of numbers; null: there is no link.
  Result<std::vector<double>> table(const char* key) {
    const json* rows = find(key);
    if (rows == nullptr) return bad(fmt::format("'{}' is missing", key));
    if (!rows->is_array() || rows->empty())
      return bad(fmt::format("'{}' must be a list of rows, one for each node", key));
    const std::size_t n = rows->size();
    if (n > static_cast<std::size_t>(pipeline::max_plan_nodes)) {
      return bad(fmt::format("'{}' has {} rows; at most {} nodes can be planned", key, n, pipeline::max_plan_nodes));
    }
    if (out_.instance.nodes != 0 && n != static_cast<std::size_t>(out_.instance.nodes)) {
      return bad(fmt::format("'{}' has {} rows, but there are {} nodes", key, n, out_.instance.nodes));
    }
    out_.instance.nodes = static_cast<int>(n);
    std::vector<double> out;
    out.reserve(n * n);
    for (std::size_t i = 0; i < n; ++i) {
      const json& row = (*rows)[i];
      if (!row.is_array() || row.size() != n) {
        const std::size_t got = row.is_array() ? row.size() : 0;
        return bad(fmt::format("{}[{}] has {} values instead of {}: {} is missing", key, i, got, n,
                               got < n ? fmt::format("{}[{}][{}]", key, i, got) : std::string("a row")));
      }
      for (std::size_t j = 0; j < n; ++j) {
        if (row[j].is_null() && i != j) {
          return bad(
              fmt::format("nodes {} and {} are disconnected ({}[{}][{}] is null): every node must reach every other", i,
                          j, key, i, j));
        }
        if (row[j].is_null()) {
          out.push_back(0.0);
          continue;
        }
        const auto value = number(row[j], fmt::format("{}[{}][{}]", key, i, j));
        if (!value) return tl::unexpected(value.error());
        if (*value < 0.0) return bad(fmt::format("{}[{}][{}] is negative ({})", key, i, j, *value));
        out.push_back(*value);
      }
    }
    return out;
  }

  Status read_network() {
    if (find("delays") != nullptr) {
      if (find("latency_seconds") != nullptr)
        return bad("give 'delays' or 'latency_seconds' and its companions, not both");
      auto delays = table("delays");
      if (!delays) return tl::unexpected(delays.error());
      out_.instance.delays = std::move(*delays);
      return {};
    }
    if (find("latency_seconds") == nullptr) {
      return bad("'delays' is missing; or give latency_seconds, bandwidth_bytes_per_second and activation_bytes");
    }
    auto latency = table("latency_seconds");
    if (!latency) return tl::unexpected(latency.error());
    auto bandwidth = table("bandwidth_bytes_per_second");
    if (!bandwidth) return tl::unexpected(bandwidth.error());
    const json* bytes = find("activation_bytes");
    if (bytes == nullptr) return bad("'activation_bytes' is missing: how large one microbatch's activation is");
    const auto size = number(*bytes, "activation_bytes");
    if (!size) return tl::unexpected(size.error());
    if (*size <= 0.0) return bad(fmt::format("activation_bytes is {}; it must be more than 0", *size));
    const auto n = static_cast<std::size_t>(out_.instance.nodes);
    for (std::size_t k = 0; k < n * n; ++k) {
      if (k / n == k % n) {
        out_.instance.delays.push_back(0.0);
        continue;
      }
      if ((*bandwidth)[k] <= 0.0) {
        return bad(
            fmt::format("nodes {} and {} are disconnected (bandwidth_bytes_per_second[{}][{}] is 0): every node must "
                        "reach every other",
                        k / n, k % n, k / n, k % n));
      }
      out_.instance.delays.push_back((*latency)[k] + *size / (*bandwidth)[k]);
    }
    return {};
  }

  // A number for all nodes, or a list with one for each.
  Result<std::vector<double>> per_node(const char* key) {
    const json* value = find(key);
    const auto n = static_cast<std::size_t>(out_.instance.nodes);
    if (value == nullptr) return bad(fmt::format("'{}' is missing: a number, or a list with one for each node", key));
    if (!value->is_array()) {
      const auto one = number(*value, key);
      if (!one) return tl::unexpected(one.error());
      return std::vector<double>(n, *one);
    }
    if (value->size() != n) return bad(fmt::format("'{}' has {} values for {} nodes", key, value->size(), n));
    std::vector<double> out;
    for (std::size_t i = 0; i < n; ++i) {
      const auto one = number((*value)[i], fmt::format("{}[{}]", key, i));
      if (!one) return tl::unexpected(one.error());
      out.push_back(*one);
    }
    return out;
  }

  Status read_nodes() {
    auto work = per_node("forward_seconds");
    if (!work) return tl::unexpected(work.error());
    out_.instance.forward_seconds = std::move(*work);
    const auto memory = per_node("memory");
    if (!memory) return tl::unexpected(memory.error());
    for (std::size_t i = 0; i < memory->size(); ++i) {
      const double slots = (*memory)[i];
      if (slots != std::floor(slots) || std::abs(slots) > 1e6) {
        return bad(fmt::format("memory of node {} is {}; it must be a whole number of microbatches, at most 1000000", i,
                               slots));
      }
      out_.instance.memory.push_back(static_cast<int>(slots));
    }
    return {};
  }

  Status read_iteration() {
    PlanInstance& in = out_.instance;
    for (const auto& [key, field] : {std::pair{"num_stages", &in.stages}, std::pair{"path_length", &in.path_length},
                                     std::pair{"microbatches_per_originator", &in.microbatches_per_originator}}) {
      const auto value = whole(key);
      if (!value) return tl::unexpected(value.error());
      *field = *value;
    }
    if (const json* sizes = find("stage_sizes"); sizes != nullptr && !sizes->is_null()) {
      if (!sizes->is_array() || sizes->empty())
        return bad("stage_sizes must be a list with the number of nodes of each stage");
      for (std::size_t s = 0; s < sizes->size(); ++s) {
        const auto size = whole((*sizes)[s], fmt::format("stage_sizes[{}]", s));
        if (!size) return tl::unexpected(size.error());
        in.stage_sizes.push_back(*size);
      }
    }
    if (find("originators") != nullptr) {
      const auto value = whole("originators");
      if (!value) return tl::unexpected(value.error());
      in.originators = *value;
    } else if (!in.stage_sizes.empty()) {
      in.originators = in.stage_sizes[0];
    } else {
      in.originators = in.stages < 1 ? 1 : (in.nodes + in.stages - 1) / in.stages;
    }
    return {};
  }

  Status read_names() {
    const auto n = static_cast<std::size_t>(out_.instance.nodes);
    out_.names.resize(n);
    const json* names = find("locations");
    if (names == nullptr || names->is_null()) return {};
    if (!names->is_array() || names->size() != n)
      return bad(fmt::format("'locations' must be a list with a name for each of the {} nodes", n));
    for (std::size_t i = 0; i < n; ++i) {
      if (!(*names)[i].is_string())
        return bad(fmt::format("locations[{}] must be a text, got {}", i, shown((*names)[i])));
      out_.names[i] = printable((*names)[i].get<std::string>(), 24);
    }
    return {};
  }

  const json& object_;
  PlanFile out_;
};

}  // namespace

Result<PlanFile> parse_plan_file(std::string_view text) {
  const auto object = parse_object(text);
  if (!object) return tl::unexpected(object.error());
  return Reader(*object).read();
}

Result<PlanFile> read_plan_file(const std::string& path) {
  const auto bytes = read_file(path, max_plan_file_bytes);
  if (!bytes) return bad(bytes.error().message);
  auto out = parse_plan_file(as_text(*bytes));
  if (!out) return bad(printable(path, 120) + ": " + out.error().message);
  return out;
}

}  // namespace starling::launcher
