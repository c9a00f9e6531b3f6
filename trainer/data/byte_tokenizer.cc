#include "trainer/data/byte_tokenizer.h"

namespace starling::trainer {
namespace {

class ByteEncoder : public Encoder {
 public:
  Status append(std::string_view text, SpecialNames, TokenIds& out) override {
    out.reserve(out.size() + text.size());
    for (const char c : text) out.push_back(static_cast<unsigned char>(c));
    return {};
  }
};

}  // namespace

std::unique_ptr<Encoder> ByteTokenizer::encoder() const { return std::make_unique<ByteEncoder>(); }

std::string ByteTokenizer::bytes_of(std::int32_t id, TokenPosition&) const {
  if (id < 0 || id >= size) return {};
  return {static_cast<char>(static_cast<unsigned char>(id))};
}

std::optional<std::int32_t> ByteTokenizer::find(std::string_view content) const {
  if (content.size() != 1) return std::nullopt;
  return static_cast<unsigned char>(content[0]);
}

}  // namespace starling::trainer
