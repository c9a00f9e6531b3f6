// JSON of others as a tree (config.json, an index, a manifest, tokenizer.json), with what nlohmann's parser lets pass
// refused.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "gossip/base/error.h"

namespace starling::trainer {

// An object that is valid UTF-8, names no key twice, is at most 16 levels deep and has at most 4 million values: a small
// text can ask for a large tree.
// Errors: bad_input, with the position where there is one.
Result<nlohmann::json> parse_json_object(std::string_view text);

// The text of one line without what a terminal would obey, cut at 120 bytes: for messages about what files of others say.
std::string shown(std::string_view text);
inline std::string shown(const std::string& text) { return shown(std::string_view(text)); }
std::string shown(const nlohmann::json& value);

}  // namespace starling::trainer
