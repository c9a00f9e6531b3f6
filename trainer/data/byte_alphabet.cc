#include "trainer/data/byte_alphabet.h"

#include <array>

#include "trainer/data/unicode_classes.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

constexpr char32_t first_stand_in = 0x100;
constexpr std::size_t stand_ins = 68;

constexpr bool stands_for_itself(std::size_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Alphabet {
  std::array<char32_t, 256> character_of{};
  std::array<int, first_stand_in + stand_ins> byte_of{};  // -1: none
};

constexpr Alphabet alphabet = [] {
  Alphabet out;
  out.byte_of.fill(-1);
  char32_t next = first_stand_in;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char32_t character = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
    out.character_of[byte] = character;
    out.byte_of[character] = static_cast<int>(byte);
  }
  return out;
}();

}  // namespace

std::optional<std::string> from_byte_alphabet(std::string_view spelled) {
  std::string out;
  while (!spelled.empty()) {
    const Utf8Unit unit = next_utf8(spelled);
    if (unit.kind != Utf8::whole) return std::nullopt;
    const char32_t c = code_point(spelled).value;
    if (c >= alphabet.byte_of.size() || alphabet.byte_of[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(alphabet.byte_of[c]));
    spelled.remove_prefix(unit.bytes);
  }
  return out;
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string out;
  for (const char byte : bytes) {
    const char32_t c = alphabet.character_of[static_cast<unsigned char>(byte)];
    if (c < 0x80) {
      out.push_back(static_cast<char>(c));
    } else {  // all of them are below U+0800
      out.push_back(static_cast<char>(0xc0 | (c >> 6)));
      out.push_back(static_cast<char>(0x80 | (c & 0x3f)));
    }
  }
  return out;
}

}  // namespace starling::trainer
