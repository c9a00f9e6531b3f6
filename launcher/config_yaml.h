// From a run file to a RunConfig and back.
//
// Values come from four places, the later one wins: defaults, the file, STARLING_<SECTION>_<KEY> in the environment,
// --set section.key=value. Whatever is wrong in any of them is found in one go, and each problem says where it stands: in
// the file by line and column, else by the variable or flag. Then the configuration as a whole is checked; what comes out
// of that is said at the place where the key was set. A finding that speaks of a key whose value could not be read is left
// out, as it would be about a default that nobody asked for.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "launcher/problem.h"
#include "launcher/run_config.h"

namespace starling::launcher {

// The process's variables that begin with STARLING_.
using Environment = std::map<std::string, std::string>;

struct Overrides {
  Environment environment;
  std::vector<std::string> sets;  // "section.key=value"
};

struct ConfigReading {
  RunConfig config;               // to be used only when ok()
  std::vector<Problem> problems;  // those of the file in the order of its lines, then the others
  bool ok() const { return !has_errors(problems); }
};

// `name` is how problems call the text. Reads no file.
ConfigReading read_config(std::string_view text, const std::string& name, const Overrides& overrides);

// As read_config, for a file of at most 1 MiB. A file that cannot be read is a problem like any other. `data`, if given,
// asks to open the run's data too, when nothing else is wrong, and is filled with what was found.
ConfigReading load_config(const std::filesystem::path& path, const Overrides& overrides, DataSummary* data = nullptr);

// Every value, defaults included, as a run file. The same configuration gives the same bytes, and reading them gives the
// same configuration. This text is what a run's nodes get to know of it.
std::string run_spec(const RunConfig& config);
// BLAKE2b-256 of run_spec(config).
Hash256 config_hash(const RunConfig& config);
// Reads what run_spec wrote; knows no overrides. Errors: bad_config, all problems in one text.
Result<RunConfig> read_run_spec(std::string_view text);

// The run.yaml of a run's directory: run_spec below a comment with its hash.
std::string resolved_file(const RunConfig& config);
// Errors: bad_config, also when the text below the hash was changed.
Result<RunConfig> read_resolved_file(std::string_view text);

}  // namespace starling::launcher
