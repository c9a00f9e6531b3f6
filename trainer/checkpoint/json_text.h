// JSON of others as a tree: small texts (config.json, an index, a manifest) with what nlohmann's parser lets pass refused.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "gossip/base/error.h"

namespace starling::trainer {

// An object that is valid UTF-8, names no key twice and is at most 16 levels deep.
// Errors: bad_input, with the position where there is one.
Result<nlohmann::json> parse_json_object(std::string_view text);

// The text of one line without what a terminal would obey, cut at 120 bytes: for messages about what files of others say.
std::string shown(std::string_view text);
std::string shown(const nlohmann::json& value);

}  // namespace starling::trainer
