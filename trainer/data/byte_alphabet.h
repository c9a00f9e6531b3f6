// GPT-2's way to write any byte as a visible character, in which the tokens of a tokenizer.json are spelled: a byte that
// is printable in Latin-1 is the character of that number, the other 68 are U+0100, U+0101 and so on in their order.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace starling::trainer {

// The bytes that `spelled` stands for; nothing when it has a character that stands for no byte, or is no UTF-8.
std::optional<std::string> from_byte_alphabet(std::string_view spelled);
std::string to_byte_alphabet(std::string_view bytes);

}  // namespace starling::trainer
