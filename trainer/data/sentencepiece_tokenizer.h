// A SentencePiece model (T5's, Llama 2's, Gemma's `*.model`), through its own library: what that gives is right by
// definition. Source: Kudo and Richardson (arXiv 1808.06226).
//
// A text is one sentence to it. The names of control pieces ("</s>") in a text are never recognized, those of user-defined
// pieces always are; SpecialNames changes nothing. The file is parsed by the library, which checks it less than our own
// parsers do: take models from people you trust.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "gossip/base/bytes.h"
#include "trainer/data/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace starling::trainer {

class SentencePieceTokenizer : public Tokenizer {
 public:
  // Errors: bad_input.
  static Result<std::shared_ptr<const SentencePieceTokenizer>> create(ByteView model);
  ~SentencePieceTokenizer() override;

  std::int64_t vocab_size() const override;
  std::unique_ptr<Encoder> encoder() const override;
  std::string bytes_of(std::int32_t id, TokenPosition& position) const override;
  bool is_special(std::int32_t id) const override;
  std::optional<std::int32_t> begin_of_text() const override;
  std::optional<std::int32_t> end_of_text() const override;
  std::optional<std::int32_t> find(std::string_view content) const override;
  // Pieces may lie across words, and every text gets a space in front: none.
  std::size_t cut(std::string_view) const override { return 0; }

 private:
  explicit SentencePieceTokenizer(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor);
  std::string decoded(std::initializer_list<int> ids) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::optional<std::int32_t> printed_;  // a piece with letters, to stand in front of others
  bool eats_all_spaces_ = false;         // in front of a text, and not just the first
};

}  // namespace starling::trainer
