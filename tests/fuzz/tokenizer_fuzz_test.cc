// Tokenizer files that nobody meant: damaged bytes, and good JSON with values in the wrong places. None may crash, hang or
// ask for more memory than its size explains (the sanitized build watches), and what is accepted encodes any bytes into
// ids that it has, and decodes any ids into UTF-8.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gossip/base/printable.h"
#include "trainer/data/bpe_tokenizer.h"
#include "trainer/data/split_pattern.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

using nlohmann::json;

json good_file() {
  return json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 5, "content": "<e>", "normalized": false, "special": true}, {"id": 6, "content": "<ef"}],
    "normalizer": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)| ?\\p{L}+|\\s+(?!\\S)|\\s+"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}]},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<e>", "type_id": 0}}]},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "ignore_merges": true, "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3, "\u0120": 4},
              "merges": ["a b", ["ab", "a"]]}})");
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

// True when the file was accepted.
bool use(const std::string& text) {
  auto file = parse_tokenizer_json(text);
  if (!file) {
    RC_ASSERT(is_utf8(file.error().message) && file.error().message.size() < 2000u);
    return false;
  }
  const auto tokenizer = BpeTokenizer::create(std::move(*file), std::nullopt);
  if (!tokenizer) return false;
  const auto noise = *rc::gen::container<std::string>(rc::gen::elementOf(std::string("ab <ef>1\n't\xc3\xa9\xff")));
  const auto ids = (*tokenizer)->encode(noise);
  if (ids) {
    for (const std::int32_t id : *ids) RC_ASSERT(id >= 0 && id < (*tokenizer)->vocab_size());
    RC_ASSERT(is_utf8((*tokenizer)->decode(*ids, SpecialTokens::shown)));
  }
  RC_ASSERT((*tokenizer)->cut(noise) <= noise.size());
  const auto any_ids = *rc::gen::container<TokenIds>(rc::gen::inRange(-3, 12));
  RC_ASSERT(is_utf8((*tokenizer)->decode(any_ids)));
  return true;
}

RC_GTEST_PROP(TokenizerFiles, TheGoodOneIsAccepted, ()) { RC_ASSERT(use(good_file().dump())); }

RC_GTEST_PROP(TokenizerFiles, DamagedBytes, ()) {
  std::string text = good_file().dump();
  const int changes = *rc::gen::inRange(1, 5);
  for (int i = 0; i < changes; ++i) {
    const auto place = *rc::gen::inRange<std::size_t>(0, text.size());
    if (*rc::gen::inRange(0, 6) == 0) {
      text.resize(place + 1);
    } else {
      text[place] = static_cast<char>(*rc::gen::inRange(0, 256));
    }
  }
  use(text);
}

RC_GTEST_PROP(TokenizerFiles, ValuesInTheWrongPlace, ()) {
  json file = good_file();
  const std::vector<json> values{nullptr,
                                 true,
                                 -1,
                                 0,
                                 3,
                                 1e300,
                                 4'000'000'000,
                                 "",
                                 "a",
                                 "b a",
                                 "\\p{L}+",
                                 json::array(),
                                 json::object(),
                                 json::array({"a", "b"}),
                                 file["pre_tokenizer"],
                                 file["model"]["vocab"],
                                 file["added_tokens"]};
  const json flat = file.flatten();
  const int changes = *rc::gen::inRange(1, 4);
  for (int i = 0; i < changes; ++i) {
    const auto place = *rc::gen::inRange<std::size_t>(0, flat.size());
    json::json_pointer pointer(std::next(flat.begin(), static_cast<std::ptrdiff_t>(place)).key());
    for (int up = *rc::gen::inRange(0, 3); up > 0 && !pointer.empty(); --up) pointer.pop_back();
    if (!file.contains(pointer)) continue;
    file[pointer] = values[*rc::gen::inRange<std::size_t>(0, values.size())];
  }
  use(file.dump());
}

RC_GTEST_PROP(SplitPatterns, AnyTextIsAPatternOrRefused, ()) {
  static const std::vector<std::string> parts{
      "a", "b", " ", "\\s", "\\S",   "\\p{L}", "\\p{N}", "[^", "[",   "]", "(?:", "(?i:", "(?!", ")",
      "|", "?", "*", "+",   "{1,3}", "{",      "\\",     "-",  "\\r", "é", "'",   "^",    ".",   "}"};
  std::string pattern;
  for (const std::size_t part :
       *rc::gen::container<std::vector<std::size_t>>(rc::gen::inRange<std::size_t>(0, parts.size()))) {
    pattern += parts[part];
  }
  const auto parsed = SplitPattern::parse(pattern);
  if (!parsed) return;
  const std::string text = "ab a1 \xc3\xa9'b\r\n  -.";
  for (std::size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) continue;
    std::int64_t steps = 10'000;
    const auto end = parsed->match(text, at, steps);
    if (end)
      RC_ASSERT(*end > at && *end <= text.size() &&
                (*end == text.size() || (static_cast<unsigned char>(text[*end]) & 0xc0) != 0x80));
  }
}

}  // namespace
}  // namespace starling::trainer
