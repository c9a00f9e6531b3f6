#include "launcher/config_yaml.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "gossip/base/printable.h"
#include "gossip/base/real_env.h"
#include "gossip/net/token.h"
#include "launcher/config_fields.h"
#include "launcher/nearest.h"
#include "launcher/version.h"
#include "launcher/yaml_tree.h"

namespace starling::launcher {
namespace {

constexpr std::size_t max_shown_bytes = 80;
constexpr std::string_view environment_prefix = "STARLING_";
// Variables of the build and of the tests; they are none of the run's business.
constexpr std::string_view foreign_prefixes[] = {"STARLING_TEST_", "STARLING_JOBS", "STARLING_TORCH_DIR"};

constexpr std::string_view hash_line = "# BLAKE2b-256 of all lines below this one: ";

// Keys without which a file does not say what to run, with what to write.
struct Required {
  std::string_view key;
  std::string_view advice;
};
constexpr Required required[] = {
    {"version", "a run file begins with version: 1"},
    {"run.name", "it names the run's directory, such as run: {name: my-run}"},
    {"data.train", "it lists the files to train on, such as data: {train: [data/*.txt]}"},
};

std::string shown(std::string_view text) { return printable(text, max_shown_bytes); }

// The existing key or section that was most likely meant by `leaf` in `section` (empty: at top level): the nearest one,
// in the same section rather than elsewhere.
std::optional<std::string> nearest_key(std::string_view section, std::string_view leaf) {
  std::size_t best_distance = std::numeric_limits<std::size_t>::max();
  std::optional<std::string> best;
  const auto consider = [&](const std::string& key, std::size_t penalty) {
    const auto distance = name_distance(leaf, leaf_of(key));
    if (!distance || *distance + penalty >= best_distance) return;
    best_distance = *distance + penalty;
    best = key;
  };
  if (section.empty()) {
    for (const std::string& name : sections()) consider(name, 0);
  }
  for (const Field& field : fields()) consider(field.key, section_of(field.key) == section ? 0 : 1);
  return best;
}

std::string did_you_mean_key(const std::optional<std::string>& key) {
  return key ? fmt::format(" (did you mean '{}'?)", *key) : "";
}

std::string later_message(const LaterKey& later) {
  return fmt::format("'{}' comes in a later version of starling; remove it{}", later.key,
                     later.off.empty() ? "" : fmt::format(" or set {}", later.off));
}

// Whether `text` speaks of `key`, as a word of its own.
bool mentions(std::string_view text, std::string_view key) {
  const auto in_word = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; };
  for (std::size_t at = text.find(key); at != std::string_view::npos; at = text.find(key, at + 1)) {
    const std::size_t end = at + key.size();
    const bool begins = at == 0 || !in_word(text[at - 1]);
    if (begins && (end == text.size() || !in_word(text[end]))) return true;
  }
  return false;
}

// Collects values and problems from all sources, then checks the whole.
class Reader {
 public:
  explicit Reader(std::string file_name) : file_name_(std::move(file_name)) {}

  void read_file(std::string_view text) {
    const YamlTree tree = read_yaml(text);
    for (const YamlFault& fault : tree.faults) problem({file_name_, fault.at}, fault.message);
    if (tree.root.kind == YamlValue::Kind::refused) {
      whole_ = false;
    } else if (tree.root.kind == YamlValue::Kind::null) {
      whole_ = false;
      if (tree.faults.empty()) problem(top(), "the file is empty; 'starling init' writes one to begin with");
    } else if (tree.root.kind != YamlValue::Kind::map) {
      whole_ = false;
      problem({file_name_, tree.root.at},
              fmt::format("expected sections such as 'model:', got {}; 'starling init' writes a "
                          "file to begin with",
                          describe(tree.root)));
    } else {
      for (const YamlEntry& entry : tree.root.entries) read_top_level(entry);
    }
  }

  void read_environment(const Environment& environment) {
    for (const auto& [name, value] : environment) {
      const bool foreign = std::any_of(std::begin(foreign_prefixes), std::end(foreign_prefixes),
                                       [&](std::string_view prefix) { return name.starts_with(prefix); });
      if (foreign || value.empty() || !name.starts_with(environment_prefix)) continue;
      read_variable(name, value);
    }
  }

  void read_sets(const std::vector<std::string>& sets) {
    for (const std::string& set : sets) read_set(set);
  }

  void check_whole() {
    if (!whole_) return;
    for (const Required& need : required) {
      if (!places_.contains(need.key)) problem(top(), fmt::format("missing key '{}': {}", need.key, need.advice));
    }
    for (const Finding& finding : config_.validate()) {
      if (!about_unread(finding)) report(finding);
    }
    if (has_errors(problems_)) return;
    if (const std::size_t bytes = run_spec(config_).size(); bytes > net::max_run_spec_bytes) {
      report(
          {Severity::error, "data.train",
           fmt::format("with all its values written out the run file has {} bytes, of which nodes accept at most {}; "
                       "name files by patterns such as data/*.txt",
                       bytes, net::max_run_spec_bytes)});
    }
  }

  void check_data(DataSummary& summary) {
    if (!whole_ || has_errors(problems_)) return;
    if (const auto good = check_init_from(config_); !good) report(good.error());
    const auto found = launcher::check_data(config_);
    if (found) {
      summary = *found;
    } else {
      report(found.error());
    }
  }

  void cannot_read(std::string message) {
    whole_ = false;
    problem({file_name_, {}}, std::move(message));
  }

  ConfigReading take() {
    // The order of reading puts those of the file first; the checks of the whole add to it later.
    std::stable_sort(problems_.begin(), problems_.end(), [&](const Problem& a, const Problem& b) {
      const bool a_elsewhere = a.source != file_name_;
      const bool b_elsewhere = b.source != file_name_;
      return std::pair(a_elsewhere, a.at) < std::pair(b_elsewhere, b.at);
    });
    return {std::move(config_), std::move(problems_)};
  }

 private:
  struct Place {
    std::string source;
    Position at;
  };

  Place top() const { return {file_name_, {1, 1}}; }

  void problem(const Place& place, std::string message, Severity severity = Severity::error) {
    problems_.push_back({severity, place.source, place.at, std::move(message)});
  }

  void read_top_level(const YamlEntry& entry) {
    const std::string& name = entry.key;
    if (find_field(name) != nullptr || find_later_key(name) != nullptr) {
      read_value(name, {file_name_, entry.at}, entry.value);
    } else if (std::find(sections().begin(), sections().end(), name) != sections().end()) {
      read_section(entry);
    } else {
      problem({file_name_, entry.at},
              fmt::format("unknown key '{}'{}", shown(name), did_you_mean_key(nearest_key("", name))));
    }
  }

  void read_section(const YamlEntry& section) {
    places_[section.key] = {file_name_, section.at};
    const YamlValue& value = section.value;
    // `model:` with all its keys commented out is an empty section.
    if (value.kind == YamlValue::Kind::null || value.kind == YamlValue::Kind::refused) return;
    if (value.kind != YamlValue::Kind::map) {
      problem({file_name_, value.at}, fmt::format("{}: expected keys such as '{}', got {}", section.key,
                                                  first_key(section.key), describe(value)));
      return;
    }
    for (const YamlEntry& entry : value.entries) {
      const std::string key = section.key + "." + entry.key;
      if (find_field(key) != nullptr || find_later_key(key) != nullptr) {
        read_value(key, {file_name_, entry.at}, entry.value);
      } else {
        auto meant = nearest_key(section.key, entry.key);
        if (meant && section_of(*meant) == section.key) meant = std::string(leaf_of(*meant));
        problem({file_name_, entry.at},
                fmt::format("unknown key '{}.{}'{}", section.key, shown(entry.key), did_you_mean_key(meant)));
      }
    }
  }

  static std::string_view first_key(std::string_view section) {
    const auto first = std::find_if(fields().begin(), fields().end(),
                                    [&](const Field& field) { return section_of(field.key) == section; });
    return leaf_of(first->key);
  }

  // REQUIRES: `key` is a field or a later key. `place` is where the key stands.
  void read_value(const std::string& key, Place place, const YamlValue& value) {
    if (value.kind == YamlValue::Kind::refused) {
      unread_.insert(key);
      places_[key] = std::move(place);
      return;
    }
    if (const LaterKey* later = find_later_key(key)) {
      if (!later->is_off(value)) problem(place, later_message(*later));
      return;
    }
    // A value that is not there has no place of its own.
    if (place.at.line > 0 && value.kind != YamlValue::Kind::null) place.at = value.at;
    const auto done = find_field(key)->read(config_, value);
    if (!done) {
      problem(place, fmt::format("{}: {}", key, done.error()));
      unread_.insert(key);
    }
    places_[key] = std::move(place);
  }

  void read_variable(const std::string& name, const std::string& text) {
    const Place place{fmt::format("{}={}", shown(name), shown(text)), {}};
    std::vector<std::string> known;
    for (const Field& field : fields()) {
      known.push_back(environment_name(field.key));
      if (known.back() == name) return read_override(field.key, place, text);
    }
    for (const LaterKey& later : later_keys()) {
      if (environment_name(later.key) == name) return read_override(later.key, place, text);
    }
    problem(place, fmt::format("unknown variable {}{}; unset it", shown(name), did_you_mean(name, known)));
  }

  void read_set(const std::string& set) {
    const Place place{fmt::format("--set {}", shown(set)), {}};
    const std::size_t equals = set.find('=');
    if (equals == std::string::npos || equals == 0) {
      return problem(place, "expected key=value, such as --set training.max_steps=100");
    }
    const std::string key = set.substr(0, equals);
    if (find_field(key) != nullptr || find_later_key(key) != nullptr) {
      return read_override(key, place, set.substr(equals + 1));
    }
    if (std::find(sections().begin(), sections().end(), key) != sections().end()) {
      return problem(place,
                     fmt::format("'{0}' is a section; set one of its keys, such as {0}.{1}", key, first_key(key)));
    }
    const auto meant = nearest_key(section_of(key), leaf_of(key));
    problem(place, fmt::format("unknown key '{}'{}", shown(key), did_you_mean_key(meant)));
  }

  void read_override(const std::string& key, const Place& place, const std::string& text) {
    const YamlTree tree = read_yaml(text);
    for (const YamlFault& fault : tree.faults) problem(place, fmt::format("{}: {}", key, fault.message));
    if (!tree.faults.empty()) unread_.insert(key);
    if (tree.faults.empty()) read_value(key, place, tree.root);
  }

  bool about_unread(const Finding& finding) const {
    const bool missing = std::any_of(std::begin(required), std::end(required), [&](const Required& need) {
      return need.key == finding.key && !places_.contains(need.key);
    });
    const auto unread = [&](const std::string& key) {
      const bool same_section = section_of(key) == section_of(finding.key);
      return key == finding.key || mentions(finding.message, key) ||
             (same_section && mentions(finding.message, leaf_of(key)));
    };
    return missing || std::any_of(unread_.begin(), unread_.end(), unread);
  }

  // Says a finding where its key was set, else at its section, else at the top of the file.
  void report(const Finding& finding) {
    const auto place = places_.find(finding.key);
    if (place != places_.end()) {
      return problem(place->second, fmt::format("{}: {}", finding.key, finding.message), finding.severity);
    }
    const auto section = places_.find(section_of(finding.key));
    const bool is_field = find_field(finding.key) != nullptr;
    problem(section != places_.end() ? section->second : top(),
            fmt::format("{}{}: {}", finding.key, is_field ? " (not set)" : "", finding.message), finding.severity);
  }

  std::string file_name_;
  RunConfig config_;
  std::vector<Problem> problems_;
  // Where each key, and each section, was set last.
  std::map<std::string, Place, std::less<>> places_;
  // Keys whose value could not be read: what is found about them would be about their defaults.
  std::set<std::string> unread_;
  bool whole_ = true;  // the file was read to its end
};

}  // namespace

ConfigReading read_config(std::string_view text, const std::string& name, const Overrides& overrides) {
  Reader reader(name);
  reader.read_file(text);
  reader.read_environment(overrides.environment);
  reader.read_sets(overrides.sets);
  reader.check_whole();
  return reader.take();
}

ConfigReading load_config(const std::filesystem::path& path, const Overrides& overrides, DataSummary* data) {
  Reader reader(path.string());
  // Looked at before it is opened: opening a pipe would wait for somebody to write into it.
  std::error_code ignored;
  const auto status = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    reader.cannot_read("expected a file, got a directory or a device");
    return reader.take();
  }
  const auto bytes = read_file(path, max_yaml_bytes);
  if (bytes) {
    reader.read_file(as_text(*bytes));
  } else {
    const bool missing = bytes.error().code == ErrorCode::not_found;
    const bool huge = bytes.error().code == ErrorCode::limit;
    reader.cannot_read(bytes.error().message + (missing ? "; 'starling init' writes one to begin with"
                                                : huge  ? "; a run file is far smaller: is this the right file?"
                                                        : ""));
  }
  reader.read_environment(overrides.environment);
  reader.read_sets(overrides.sets);
  reader.check_whole();
  if (data != nullptr) reader.check_data(*data);
  return reader.take();
}

std::string run_spec(const RunConfig& config) {
  std::string out;
  std::string_view section;
  for (const Field& field : fields()) {
    const std::string_view own = section_of(field.key);
    if (own != section) out += fmt::format("{}:\n", own);
    section = own;
    out += fmt::format("{}{}: {}\n", own.empty() ? "" : "  ", leaf_of(field.key), field.write(config));
  }
  return out;
}

Hash256 config_hash(const RunConfig& config) { return blake2b_256(as_bytes(run_spec(config))); }

Result<RunConfig> read_run_spec(std::string_view text) {
  ConfigReading reading = read_config(text, "run spec", {});
  if (!reading.ok()) return fail(ErrorCode::bad_config, describe(reading.problems));
  return std::move(reading.config);
}

std::string resolved_file(const RunConfig& config) {
  return fmt::format("# The run as starling {} read it: every value, defaults included.\n{}{}\n{}", version(),
                     hash_line, to_hex(config_hash(config)), run_spec(config));
}

Result<RunConfig> read_resolved_file(std::string_view text) {
  const std::size_t mark = text.find(hash_line);
  const std::size_t end = mark == std::string_view::npos ? mark : text.find('\n', mark);
  if (end == std::string_view::npos) {
    return fail(ErrorCode::bad_config,
                fmt::format("a resolved run file has a line '{}...', this one has none", hash_line));
  }
  const std::string_view hash = text.substr(mark + hash_line.size(), end - mark - hash_line.size());
  const std::string_view body = text.substr(end + 1);
  if (to_hex(blake2b_256(as_bytes(body))) != hash) {
    return fail(
        ErrorCode::bad_config,
        "the resolved run file was changed after the run began (its hash no longer holds); put it back, or start a "
        "new run from the changed file");
  }
  return read_run_spec(body);
}

}  // namespace starling::launcher
