// UTF-8 of others, character by character: what is whole, what is wrong, and what may still become whole.
//
// A wrong stretch is what the Unicode standard calls a maximal subpart (section 3.9, table 3-7): the longest beginning of
// a character that some text has, or one byte. Each becomes one U+FFFD, as in Python, Rust and browsers.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace starling::trainer {

inline constexpr std::string_view replacement_character = "\xef\xbf\xbd";  // U+FFFD

enum class Utf8 {
  whole,  // a character
  wrong,  // no character whatever follows
  cut,    // the text ends inside of what may be a character
};

struct Utf8Unit {
  std::size_t bytes = 0;
  Utf8 kind = Utf8::wrong;
};

// The first character of `text`, or the first bytes that stand for none. REQUIRES: text is not empty.
Utf8Unit next_utf8(std::string_view text);

// Appends `text` to `out` with U+FFFD for all that is wrong. Returns what it left out: the cut character at the end (at
// most 3 bytes), which the caller puts before the text that follows, or an empty text.
std::string_view append_valid_utf8(std::string_view text, std::string& out);

}  // namespace starling::trainer
