#include "trainer/data/tokenizer.h"

#include <fmt/format.h>

#include <utility>

#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {

Result<std::shared_ptr<const Tokenizer>> Tokenizer::open(const std::string& path) {
  if (path == "byte") return std::make_shared<const ByteTokenizer>();
  return fail(ErrorCode::bad_config, fmt::format("tokenizer.path: expected byte, got '{}'", path));
}

Result<TokenIds> Tokenizer::encode(std::string_view text, SpecialNames names) const {
  TokenIds ids;
  if (Status ok = encoder()->append(text, names, ids); !ok) return tl::unexpected(ok.error());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, SpecialTokens special) const {
  TextStream stream(*this, special);
  std::string out;
  for (const std::int32_t id : ids) out += stream.next(id);
  return out += stream.finish();
}

std::string TextStream::next(std::int32_t id) {
  if (special_ == SpecialTokens::skipped && tokenizer_->is_special(id)) return {};
  const std::string bytes = std::move(waiting_) + tokenizer_->bytes_of(id, position_);
  if (!bytes.empty()) position_ = TokenPosition::later;
  std::string out;
  waiting_ = append_valid_utf8(bytes, out);
  return out;
}

std::string TextStream::finish() {
  position_ = TokenPosition::first;
  return std::exchange(waiting_, {}).empty() ? std::string() : std::string(replacement_character);
}

}  // namespace starling::trainer
