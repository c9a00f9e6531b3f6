// One file of tokens, never read as a whole into memory.
//
//   text            every byte is a token: the byte tokenizer is the identity, so there is nothing to prepare
//   bin             llm.c's shards: a header (llmc.h), then uint16 or uint32 ids, as its magic says
//   uint16, uint32  little-endian ids and nothing else (nanoGPT's files are uint16)
//
// All ids of a file of this machine are compared with the vocabulary once, when it is opened: that reads it from end to end,
// and a wrong id is found before the first step instead of after a day. Those of a file that lies elsewhere are compared as
// they are read.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/data/byte_file.h"

namespace starling::trainer {

enum class TokenFormat { automatic, bin, uint16, uint32, text };

// The value of `data.format`. Errors: bad_config, naming the known ones.
Result<TokenFormat> token_format(std::string_view name);

// True for what no person would call text: a zero byte near the beginning.
bool looks_binary(ByteView bytes);

class TokenFile {
 public:
  // `automatic`: bin when a magic is there, else by the name: uint16 for .bin and .uint16, uint32 for .uint32, else text.
  // Errors: those of ByteFile::read; bad_input with what to do for a header that is not llm.c's, a length that the header
  // does not announce or that is no whole number of ids, binary bytes where text was expected, an id >= vocab_size (names
  // file, position and id).
  static Result<TokenFile> open(std::shared_ptr<const ByteFile> file, TokenFormat format, std::int64_t vocab_size);

  std::int64_t size() const { return size_; }  // tokens
  bool is_text() const { return token_bytes_ == 1; }
  // Tokens first .. first + out.size(). REQUIRES: they are inside [0, size()). Errors: those of ByteFile::read; bad_input for
  // an id >= vocab_size.
  Status read(std::int64_t first, std::span<std::int32_t> out) const;

 private:
  TokenFile(std::shared_ptr<const ByteFile> file, std::size_t header_bytes, std::size_t token_bytes,
            std::int64_t vocab_size);
  Status check_ids() const;

  std::shared_ptr<const ByteFile> file_;
  std::int64_t header_bytes_;
  std::int64_t token_bytes_;
  std::int64_t size_;
  std::int64_t vocab_size_;
};

}  // namespace starling::trainer
