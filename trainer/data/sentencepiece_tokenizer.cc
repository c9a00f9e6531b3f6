#include "trainer/data/sentencepiece_tokenizer.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <charconv>
#include <utility>
#include <vector>

#include "trainer/data/json_text.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_model_bytes = std::size_t{64} << 20;
constexpr std::size_t max_text_bytes = std::size_t{16} << 20;  // the library needs some hundred bytes for each
constexpr std::string_view space_mark = "\xe2\x96\x81";        // U+2581: how pieces spell a space

class SentencePieceEncoder : public Encoder {
 public:
  explicit SentencePieceEncoder(const sentencepiece::SentencePieceProcessor& processor) : processor_(processor) {}

  Status append(std::string_view text, SpecialNames, TokenIds& out) override {
    if (text.size() > max_text_bytes) {
      return fail(ErrorCode::limit,
                  fmt::format("expected a text of at most {} bytes for a SentencePiece model, got {}; "
                              "cut it into documents",
                              max_text_bytes, text.size()));
    }
    std::string repaired;
    if (!append_valid_utf8(text, repaired).empty()) repaired += replacement_character;
    std::vector<int> ids;
    if (const auto status = processor_.Encode(repaired, &ids); !status.ok()) {
      return fail(ErrorCode::bad_input, "the SentencePiece model cannot encode: " + shown(status.ToString()));
    }
    out.insert(out.end(), ids.begin(), ids.end());
    return {};
  }

 private:
  const sentencepiece::SentencePieceProcessor& processor_;
};

}  // namespace

Result<std::shared_ptr<const SentencePieceTokenizer>> SentencePieceTokenizer::create(ByteView model) {
  if (model.size() > max_model_bytes) {
    return fail(ErrorCode::bad_input, fmt::format("expected a SentencePiece model of at most {} bytes, got {}",
                                                  max_model_bytes, model.size()));
  }
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  if (const auto status = processor->LoadFromSerializedProto(as_text(model)); !status.ok()) {
    return fail(ErrorCode::bad_input, "expected a SentencePiece model; its library says: " + shown(status.ToString()));
  }
  return std::shared_ptr<const SentencePieceTokenizer>(new SentencePieceTokenizer(std::move(processor)));
}

SentencePieceTokenizer::SentencePieceTokenizer(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor)
    : processor_(std::move(processor)) {
  const auto space = find(space_mark);
  for (int id = 0; id < processor_->GetPieceSize() && !printed_; ++id) {
    const bool plain = !processor_->IsControl(id) && !processor_->IsUnknown(id) && !processor_->IsByte(id);
    if (plain && processor_->IdToPiece(id).find(space_mark) == std::string::npos) printed_ = id;
  }
  if (space && printed_) eats_all_spaces_ = !decoded({*space, *space, *printed_}).starts_with(' ');
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::string SentencePieceTokenizer::decoded(std::initializer_list<int> ids) const {
  std::string text;
  if (!processor_->Decode(std::vector<int>(ids), &text).ok()) return {};
  return text;
}

std::int64_t SentencePieceTokenizer::vocab_size() const { return processor_->GetPieceSize(); }

std::unique_ptr<Encoder> SentencePieceTokenizer::encoder() const {
  return std::make_unique<SentencePieceEncoder>(*processor_);
}

// What the library makes of a whole is put together from what it makes of this piece alone, or behind another one.
std::string SentencePieceTokenizer::bytes_of(std::int32_t id, TokenPosition& position) const {
  if (id < 0 || id >= vocab_size()) return {};
  const std::string& piece = processor_->IdToPiece(id);
  if (processor_->IsControl(id)) return piece;
  const TokenPosition here = position;
  if (processor_->IsByte(id)) {
    position = TokenPosition::later;
    unsigned byte = 0;  // "<0xE2>"
    if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, byte, 16);
    return {static_cast<char>(byte)};
  }
  if (here == TokenPosition::later && printed_) {
    return decoded({*printed_, id}).substr(decoded({*printed_}).size());
  }
  std::string out = decoded({id});
  const bool ate_space = piece.starts_with(space_mark);
  if (!out.empty() || (ate_space && !eats_all_spaces_)) position = TokenPosition::later;
  return out;
}

bool SentencePieceTokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && processor_->IsControl(id);
}

std::optional<std::int32_t> SentencePieceTokenizer::begin_of_text() const {
  if (processor_->bos_id() < 0) return std::nullopt;
  return processor_->bos_id();
}

std::optional<std::int32_t> SentencePieceTokenizer::end_of_text() const {
  if (processor_->eos_id() < 0) return std::nullopt;
  return processor_->eos_id();
}

std::optional<std::int32_t> SentencePieceTokenizer::find(std::string_view content) const {
  const int id = processor_->PieceToId(content);
  if (id < 0 || id >= vocab_size() || processor_->IdToPiece(id) != content) return std::nullopt;
  return id;
}

}  // namespace starling::trainer
