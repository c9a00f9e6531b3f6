// Byte-level BPE out of a tokenizer.json: the same ids as Python's `tokenizers` gives for the same file.
//
//   text -> valid UTF-8 -> pieces between added tokens -> pieces by each stage in turn -> words -> ids
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "trainer/data/byte_pair.h"
#include "trainer/data/tokenizer.h"
#include "trainer/data/tokenizer_json.h"

namespace starling::trainer {

// Finds the added tokens of one group in a text: of those that begin at the first place where any does, the longest.
class AddedTokenFinder {
 public:
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);
  struct Found {
    std::size_t begin = 0;
    const AddedToken* token = nullptr;
  };
  std::optional<Found> next(std::string_view text, std::size_t from) const;

 private:
  std::vector<AddedToken> tokens_;  // sorted by content
  std::array<bool, 256> may_begin_{};
};

class BpeTokenizer : public Tokenizer {
 public:
  // `end_of_text`: the content of the token that closes a document; nothing: the first of the usual names that there is.
  // Errors: bad_input when that token does not exist.
  static Result<std::shared_ptr<const BpeTokenizer>> create(TokenizerJson file, std::optional<std::string> end_of_text);

  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(bytes_.size()); }
  std::unique_ptr<Encoder> encoder() const override;
  std::string bytes_of(std::int32_t id, TokenPosition& position) const override;
  bool is_special(std::int32_t id) const override;
  std::optional<std::int32_t> begin_of_text() const override { return begin_of_text_; }
  std::optional<std::int32_t> end_of_text() const override { return end_of_text_; }
  std::optional<std::int32_t> find(std::string_view content) const override;
  std::size_t cut(std::string_view text) const override;
  // Bytes that no token stands for. Without an unk_token a text loses them, as it does with Python's `tokenizers`.
  const std::vector<std::uint8_t>& missing_bytes() const { return pairs_.missing_bytes(); }

 private:
  friend class BpeEncoder;
  explicit BpeTokenizer(TokenizerJson file);
  bool find_out_if_words_part() const;

  BytePairs pairs_;
  std::vector<SplitStage> stages_;
  AddedTokenFinder literal_;     // looked for first
  AddedTokenFinder normalized_;  // looked for in what is left
  std::vector<std::string> bytes_;
  std::vector<bool> special_;
  std::unordered_map<std::string, std::int32_t> id_of_;  // by content
  std::optional<std::int32_t> begin_of_text_;
  std::optional<std::int32_t> end_of_text_;
  bool words_part_ = false;  // a letter and the space after it are never in one word
};

}  // namespace starling::trainer
