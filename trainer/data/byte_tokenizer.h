// The tokenizer that is none: token b is the byte b. Any file is its own tokens, and nothing is special.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "trainer/data/tokenizer.h"

namespace starling::trainer {

class ByteTokenizer : public Tokenizer {
 public:
  static constexpr std::int64_t size = 256;
  std::int64_t vocab_size() const override { return size; }
  std::unique_ptr<Encoder> encoder() const override;
  std::string bytes_of(std::int32_t id, TokenPosition& position) const override;
  bool is_special(std::int32_t) const override { return false; }
  std::optional<std::int32_t> begin_of_text() const override { return std::nullopt; }
  std::optional<std::int32_t> end_of_text() const override { return std::nullopt; }
  std::optional<std::int32_t> find(std::string_view content) const override;
  std::size_t cut(std::string_view text) const override { return text.empty() ? 0 : text.size() - 1; }
};

}  // namespace starling::trainer
