// Text to token ids and back: what `tokenizer.path` of the run file names. Torch-free.
//
//   byte            every byte is a token, 256 in all
//   NAME.json       Hugging Face's tokenizer.json with byte-level BPE (tokenizer_json.h); the name of the token that ends a
//                   text comes from the tokenizer_config.json beside it, if there is one
//   NAME.model      a SentencePiece model
//
// A Tokenizer is immutable and may be used by several threads at once. What makes encoding fast is a memory of words seen
// before, and that lies in an Encoder: each thread has its own.
//
// Special tokens ("<|endoftext|>") are ids that mean something to a model. Where a text of others names one it is data, so
// encoding has to be told whether such names are recognized; it never adds one by itself: who wants a document to begin
// with begin_of_text() puts it there.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"

namespace starling::trainer {

using TokenIds = std::vector<std::int32_t>;

// What the name of a special token in a text is.
enum class SpecialNames {
  recognized,  // its id, as `encode` of Python's tokenizers does
  text,        // text like any other, as `encode_special_tokens = True` does there
};

// What a special token among decoded ids becomes.
enum class SpecialTokens { skipped, shown };

// Where a token stands among those that are decoded: some tokenizers write the space before a first word only inside.
enum class TokenPosition { first, later };

class Encoder {
 public:
  virtual ~Encoder() = default;
  // Appends the ids of `text`, a whole document or a part that Tokenizer::cut() gave. Where a tokenizer reads characters and not bytes, each wrong stretch of
  // UTF-8 counts as U+FFFD. Errors: limit, bad_input; `out` is then as it was.
  virtual Status append(std::string_view text, SpecialNames names, TokenIds& out) = 0;
};

class Tokenizer {
 public:
  // `path` as in the run file. Errors: bad_config (no tokenizer has such a name), not_found, io, bad_input (a file that is
  // damaged, or of a kind that is not known: names the field), each beginning with the path.
  static Result<std::shared_ptr<const Tokenizer>> open(const std::string& path);

  virtual ~Tokenizer() = default;
  // The highest id + 1: what model.vocab_size must be at least.
  virtual std::int64_t vocab_size() const = 0;
  // An encoder for one thread; it may outlive nothing of its tokenizer.
  virtual std::unique_ptr<Encoder> encoder() const = 0;
  // The bytes that a token stands for; none for an id that no token has. They need not be whole characters. `position` is
  // moved on to that of the next token.
  virtual std::string bytes_of(std::int32_t id, TokenPosition& position) const = 0;
  virtual bool is_special(std::int32_t id) const = 0;
  // The special tokens that open and close a document, where the tokenizer has them.
  virtual std::optional<std::int32_t> begin_of_text() const = 0;
  virtual std::optional<std::int32_t> end_of_text() const = 0;
  // The id of the token that is written as `content` (for special tokens their name), if there is one.
  virtual std::optional<std::int32_t> find(std::string_view content) const = 0;

  // The last place at which `text` can be cut in two so that the ids of the parts are the ids of the whole, whatever
  // follows the text; 0 where there is none. The part behind it is longer than nothing.
  virtual std::size_t cut(std::string_view text) const = 0;

  // For a text or two; who encodes much keeps an encoder(). Errors: those of Encoder::append.
  Result<TokenIds> encode(std::string_view text, SpecialNames names = SpecialNames::recognized) const;
  // Valid UTF-8, U+FFFD for what is none. The same text as a TextStream prints.
  std::string decode(std::span<const std::int32_t> ids, SpecialTokens special = SpecialTokens::skipped) const;
};

// Decodes token by token and gives whole characters only: bytes of a character that is not complete wait for the next
// token. All that next() and finish() gave, one after the other, is decode() of all ids. A part for a terminal:
//
//   TextStream stream(*tokenizer);
//   for (id : generated) out << stream.next(id) << std::flush;
//   out << stream.finish();
class TextStream {
 public:
  // REQUIRES: the tokenizer outlives the stream.
  explicit TextStream(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::skipped)
      : tokenizer_(&tokenizer), special_(special) {}
  std::string next(std::int32_t id);
  // What still waits, as U+FFFD, since no character can come of it. The stream is then as new.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  SpecialTokens special_;
  TokenPosition position_ = TokenPosition::first;
  std::string waiting_;  // the beginning of a character
};

}  // namespace starling::trainer
