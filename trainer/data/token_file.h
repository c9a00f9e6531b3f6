// One file of tokens, mapped into memory and never copied as a whole.
//
//   text    every byte is a token: the byte tokenizer is the identity, so there is nothing to prepare
//   bin     llm.c's shards: 256 little-endian int32 (magic 20240520, version 1, number of tokens), then uint16 ids
//   uint16  little-endian uint16 ids and nothing else (nanoGPT's files)
//
// All ids are compared with the vocabulary once, when the file is opened: that reads the file from end to end, and a
// wrong id is found before the first step instead of after a day. The file must not change while it is mapped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::trainer {

enum class TokenFormat { automatic, bin, uint16, text };

// The value of `data.format`. Errors: bad_config, naming the known ones.
Result<TokenFormat> token_format(std::string_view name);

// A read-only mapping of a whole regular file.
class MappedFile {
 public:
  // Errors: not_found, io, bad_input (a folder or a device, or empty).
  static Result<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  ByteView bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// True for what no person would call text: a zero byte near the beginning.
bool looks_binary(ByteView bytes);

class TokenFile {
 public:
  // `automatic`: bin when the magic is there, else uint16 for names that end in .bin, else text.
  // Errors: as MappedFile::open; bad_input with what to do for a header that is not llm.c's, a length that the header
  // does not announce, an odd length of uint16, binary bytes where text was expected, an id >= vocab_size.
  static Result<TokenFile> open(const std::filesystem::path& path, TokenFormat format, std::int64_t vocab_size);

  std::int64_t size() const { return size_; }  // tokens
  bool is_text() const { return token_bytes_ == 1; }
  // Tokens first .. first + out.size(). REQUIRES: they are inside [0, size()).
  void read(std::int64_t first, std::span<std::int32_t> out) const;

 private:
  TokenFile(MappedFile file, std::size_t header_bytes, std::size_t token_bytes);
  Status check_ids(const std::filesystem::path& path, std::int64_t vocab_size) const;

  MappedFile file_;
  ByteView tokens_;
  std::size_t token_bytes_;
  std::int64_t size_;
};

}  // namespace starling::trainer
