#include "trainer/data/utf8.h"

namespace starling::trainer {

Utf8Unit next_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, Utf8::whole};
  if (first < 0xc2 || first > 0xf4) return {1, Utf8::wrong};
  const std::size_t length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  // The second byte has a narrower range after four first bytes: no overlong forms, no halves of surrogate pairs, nothing
  // beyond U+10FFFF.
  const unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, Utf8::cut};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xbf)) return {i, Utf8::wrong};
  }
  return {length, Utf8::whole};
}

std::string_view append_valid_utf8(std::string_view text, std::string& out) {
  while (!text.empty()) {
    // A run of good characters is copied at once.
    std::size_t good = 0;
    Utf8Unit unit{0, Utf8::whole};
    while (good < text.size()) {
      if (static_cast<unsigned char>(text[good]) < 0x80) {
        ++good;
        continue;
      }
      unit = next_utf8(text.substr(good));
      if (unit.kind != Utf8::whole) break;
      good += unit.bytes;
    }
    out.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) break;
    if (unit.kind == Utf8::cut) return text;
    out.append(replacement_character);
    text.remove_prefix(unit.bytes);
  }
  return {};
}

}  // namespace starling::trainer
