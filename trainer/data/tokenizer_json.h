// Hugging Face's tokenizer.json, as far as it describes byte-level BPE: what GPT-2, Llama 3, SmolLM and their relatives
// have. Every field that would change an id is either understood or refused by name; nothing is passed over.
//
//   normalizer       null
//   pre_tokenizer    ByteLevel, or a Sequence of Split (a regular expression) and Digits that ends in ByteLevel
//   model            BPE without dropout, affixes and byte_fallback
//   decoder          ByteLevel
//   post_processor   null, ByteLevel, TemplateProcessing or a Sequence of these: it adds special tokens, which nobody here
//                    wants unasked, so that only the token which opens a text is taken from it
//   added_tokens     without single_word, lstrip and rstrip
//   truncation, padding   have no say: texts are encoded whole
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/byte_pair.h"
#include "trainer/data/split_pattern.h"

namespace starling::trainer {

// A token that is looked for in the text itself, before it is cut into words.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool special = false;
  bool normalized = false;  // is looked for only after those that are not
};

// One step that cuts pieces of text into smaller ones.
struct SplitStage {
  enum class Kind {
    pattern,         // every match is a piece, and so is what stands between two
    pattern_only,    // what stands between two matches is dropped
    space_in_front,  // cuts nothing: a piece that does not begin with a space gets one
  } kind = Kind::pattern;
  std::optional<SplitPattern> pattern;
};

struct TokenizerJson {
  std::vector<std::string> contents;  // by id, as the file spells them; empty: no token has this id
  std::vector<std::string> words;     // by id, the bytes; empty for tokens that no word contains
  std::vector<Merge> merges;
  BytePairs::WholeWords whole_words = BytePairs::WholeWords::merged;
  BytePairs::Unknown unknown;
  std::vector<SplitStage> stages;
  std::vector<AddedToken> added;
  std::optional<std::int32_t> begin_of_text;
};

// Errors: bad_input, each naming the field: no JSON; a kind that is not known; an id that is negative, taken twice or out
// of all proportion; a merge of tokens that do not exist. Bounds: 64 MiB, 4 million values, 16 levels.
Result<TokenizerJson> parse_tokenizer_json(std::string_view text);

}  // namespace starling::trainer
