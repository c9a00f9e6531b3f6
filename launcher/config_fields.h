// The keys of a run file: one table from which reading, writing, overrides and "did you mean" all follow, so that they
// cannot disagree. A new key is one line in config_fields.cc.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/run_config.h"
#include "launcher/yaml_value.h"

namespace starling::launcher {

struct Field {
  std::string key;  // "model.hidden_size"; "version" is the only one outside of a section
  // Sets the field, or leaves it as it is and says what was expected.
  std::function<Read<void>(RunConfig&, const YamlValue&)> read;
  // The value as the run file writes it.
  std::function<std::string(const RunConfig&)> write;
};

// A key whose feature does not exist yet. It may stand in a file with the value that leaves the feature off.
struct LaterKey {
  std::string key;
  std::function<bool(const YamlValue&)> is_off;
  std::string off;  // what to set, as the user writes it; empty: remove the key
};

// In the order in which a resolved file has them; the keys of a section stand together.
std::span<const Field> fields();
std::span<const LaterKey> later_keys();

const Field* find_field(std::string_view key);
const LaterKey* find_later_key(std::string_view key);

// "model" of "model.hidden_size"; "" of "version".
std::string_view section_of(std::string_view key);
// "hidden_size" of "model.hidden_size".
std::string_view leaf_of(std::string_view key);
// Every section that holds a field.
std::span<const std::string> sections();

// STARLING_MODEL_HIDDEN_SIZE of "model.hidden_size".
std::string environment_name(std::string_view key);

}  // namespace starling::launcher
