// What kind of character a code point is, for the patterns that cut a text into words.
//
// The table lies in the program and not in a library of the system: the ids of a text must not depend on which version of
// Unicode a machine has. It is the version that the regular expressions of Python's `tokenizers` know (Unicode 16), and
// unicode_classes.py makes it out of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace starling::trainer {

// A set of general categories, one bit each.
using CategorySet = std::uint32_t;

// The set with the one category that `code_point` has. REQUIRES: code_point <= U+10FFFF.
CategorySet category_of(char32_t code_point);

// "L" and the other first letters for all categories of a kind, "Lu" and so on for one; nothing for other names.
std::optional<CategorySet> category_set(std::string_view name);

// The character that starts at `text[0]`. REQUIRES: `text` is not empty and valid UTF-8.
struct CodePoint {
  char32_t value = 0;
  std::size_t bytes = 1;
};
inline CodePoint code_point(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xe0) return {(first & 0x1f) << 6 | (byte(1) & 0x3f), 2};
  if (first < 0xf0) return {(first & 0x0f) << 12 | (byte(1) & 0x3f) << 6 | (byte(2) & 0x3f), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3f) << 12 | (byte(2) & 0x3f) << 6 | (byte(3) & 0x3f), 4};
}

}  // namespace starling::trainer
