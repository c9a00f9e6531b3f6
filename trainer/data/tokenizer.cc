#include "trainer/data/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "gossip/base/log.h"
#include "trainer/data/bpe_tokenizer.h"
#include "trainer/data/byte_file.h"
#include "trainer/data/byte_tokenizer.h"
#include "trainer/data/json_text.h"
#include "trainer/data/sentencepiece_tokenizer.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

using TokenizerResult = Result<std::shared_ptr<const Tokenizer>>;

// The name of the token that ends a text, if the tokenizer_config.json beside a tokenizer.json has one.
Result<std::optional<std::string>> configured_end(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const auto file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  const auto config = parse_json_object(as_text(file->bytes()));
  if (!config) return fail(config.error().code, fmt::format("{}: {}", path.string(), config.error().message));
  const auto found = config->find("eos_token");
  if (found == config->end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && found->at("content").is_string()) {
    return found->at("content").get<std::string>();
  }
  return fail(ErrorCode::bad_input,
              fmt::format("{}: eos_token: expected a text, got {}", path.string(), shown(*found)));
}

TokenizerResult open_json(const std::filesystem::path& path) {
  const auto located = [&path](const Error& error) {
    return fail(error.code, fmt::format("{}: {}", path.string(), error.message));
  };
  const auto file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  auto description = parse_tokenizer_json(as_text(file->bytes()));
  if (!description) return located(description.error());
  auto end = configured_end(path.parent_path() / "tokenizer_config.json");
  if (!end) return tl::unexpected(end.error());
  auto tokenizer = BpeTokenizer::create(std::move(*description), std::move(*end));
  if (!tokenizer) return located(tokenizer.error());
  // A text holds only some of the bytes: UTF-8 never has the others.
  const auto& missing = (*tokenizer)->missing_bytes();
  const bool some_matter = std::any_of(missing.begin(), missing.end(),
                                       [](std::uint8_t byte) { return byte < 0xc0 || (byte > 0xc1 && byte < 0xf5); });
  if (some_matter)
    log_warning("{}: {} bytes have no token: a text loses them, or they become unk_token", path.string(),
                missing.size());
  return *tokenizer;
}

TokenizerResult open_model(const std::filesystem::path& path) {
  const auto file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  auto tokenizer = SentencePieceTokenizer::create(file->bytes());
  if (!tokenizer) return fail(tokenizer.error().code, fmt::format("{}: {}", path.string(), tokenizer.error().message));
  return *tokenizer;
}

}  // namespace

TokenizerResult Tokenizer::open(const std::string& path) {
  if (path == "byte") return std::make_shared<const ByteTokenizer>();
  if (path.ends_with(".json")) return open_json(path);
  if (path.ends_with(".model")) return open_model(path);
  return fail(ErrorCode::bad_config, fmt::format("expected byte or a file NAME.json or NAME.model, got '{}'", path));
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
  std::string out;
  waiting_ = append_valid_utf8(bytes, out);
  return out;
}

std::string TextStream::finish() {
  position_ = TokenPosition::first;
  return std::exchange(waiting_, {}).empty() ? std::string() : std::string(replacement_character);
}

}  // namespace starling::trainer
