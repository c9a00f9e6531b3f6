// A text in the part of YAML that a run file may use, as a tree of values that know where they stand.
//
// YAML has more than a configuration needs, and its readers differ in the rest: yaml-cpp keeps the last of two equal keys
// without a word, leaves `<<` alone and reads 010 as 8. So this reader listens to yaml-cpp's events instead of taking its
// nodes, and refuses what could mean two things: duplicate keys, anchors, aliases, merge keys, tags, several documents,
// keys that are no plain words, tabs in the indentation. What a value means (number, text, ...) is decided by who asks
// for it (yaml_value.h), never by how it looks.
//
// The text is hostile: its size, its depth and the number of its values are bounded.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/problem.h"

namespace starling::launcher {

inline constexpr std::size_t max_yaml_bytes = 1 << 20;
inline constexpr std::size_t max_yaml_values = 5'000;
inline constexpr int max_yaml_depth = 16;

struct YamlEntry;

struct YamlValue {
  // refused: a fault stands in its place, and nobody needs to complain about it again.
  enum class Kind { null, plain, quoted, list, map, refused };
  Kind kind = Kind::null;
  Position at;
  std::string text;                // plain and quoted scalars
  std::vector<YamlValue> items;    // list
  std::vector<YamlEntry> entries;  // map, in the order of the text, each key once
};

struct YamlEntry {
  std::string key;
  Position at;
  YamlValue value;
};

// A fault of the text itself; the caller knows what the text is called.
struct YamlFault {
  Position at;
  std::string message;
};

struct YamlTree {
  YamlValue root;                 // null when the text is empty, refused when it could not be read to its end
  std::vector<YamlFault> faults;  // in the order of the text, each at a line
};

// Never fails and never throws: whatever is wrong is a fault.
YamlTree read_yaml(std::string_view text);

}  // namespace starling::launcher
