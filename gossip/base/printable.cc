#include "gossip/base/printable.h"

#include <cstdint>

#include "gossip/base/error.h"

namespace starling {
namespace {

std::string escaped(unsigned char byte) {
  static constexpr char digits[] = "0123456789abcdef";
  switch (byte) {
    case '\n':
      return "\\n";
    case '\t':
      return "\\t";
    case '\r':
      return "\\r";
    default:
      return {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
  }
}

bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7f;
  return character.size() == 2 && first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first < 0xe0   ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || text.size() < length) return 0;
  std::uint32_t code = first & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = (code << 6) | (byte(i) & 0x3fU);
  }
  // Overlong forms, halves of surrogate pairs, and what lies beyond the last character.
  if (length == 3 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) return 0;
  if (length == 4 && (code < 0x10000 || code > 0x10ffff)) return 0;
  return length;
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  static constexpr std::string_view cut_mark = "...";
  STARLING_CHECK(max_bytes >= cut_mark.size(), "there must be room for the mark of a cut");
  std::string out;
  std::size_t cut_at = 0;  // the longest whole prefix that leaves room for the mark
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const std::string_view character = text.substr(0, length);
    if (length == 0 || is_control(character)) {
      // A control character of two bytes is escaped byte by byte.
      for (const char c : text.substr(0, length == 0 ? 1 : length)) out += escaped(static_cast<unsigned char>(c));
    } else {
      out += character;
    }
    if (out.size() > max_bytes) return out.substr(0, cut_at).append(cut_mark);
    if (out.size() + cut_mark.size() <= max_bytes) cut_at = out.size();
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

}  // namespace starling
