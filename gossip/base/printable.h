// Text of others, made safe to print: names, error texts and addresses come from peers and may hold line breaks, escape
// sequences of terminals or bytes that are no text at all.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace starling {

// `text` as one line of valid UTF-8 without control characters: line break, tab and return become \n, \t, \r, and every
// other control character (also U+0080 to U+009F) and every byte that is not part of valid UTF-8 becomes \xHH. What is
// longer than `max_bytes` is cut between characters and ends in "...". REQUIRES: max_bytes >= 3.
std::string printable(std::string_view text, std::size_t max_bytes);

// The bytes of the valid UTF-8 character that `text` starts with, 0 when it starts with none.
// REQUIRES: text is not empty.
std::size_t utf8_length(std::string_view text);

}  // namespace starling
