#include "trainer/data/bpe_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "gossip/base/bytes.h"
#include "trainer/data/byte_alphabet.h"
#include "trainer/data/json_text.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_text_bytes = std::size_t{256} << 20;
// The known patterns take below ten steps for a byte.
constexpr std::int64_t steps_per_byte = 256;
constexpr std::int64_t spare_steps = 1'000'000;
constexpr std::array<std::string_view, 3> usual_ends{"<|endoftext|>", "<|end_of_text|>", "</s>"};

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool has_word_end(std::string_view text) {
  for (std::size_t i = 1; i < text.size(); ++i) {
    if (text[i] == ' ' && is_ascii_letter(text[i - 1])) return true;
  }
  return false;
}

std::vector<AddedToken> group(const std::vector<AddedToken>& all, bool normalized) {
  std::vector<AddedToken> out;
  std::copy_if(all.begin(), all.end(), std::back_inserter(out),
               [normalized](const AddedToken& token) { return token.normalized == normalized; });
  return out;
}

// The words seen last and their ids. A word has one place; a newer one takes it over.
class WordMemory {
 public:
  WordMemory() : entries_(count) {}

  // Appends the ids of a word that is remembered.
  bool recall(std::string_view word, TokenIds& out) {
    here_ = nullptr;
    if (word.size() > max_word_bytes) return false;
    here_ = &entries_[xxh3_64(as_bytes(word)) & (count - 1)];
    if (here_->word_bytes != word.size() || std::memcmp(here_->word, word.data(), word.size()) != 0) return false;
    out.insert(out.end(), here_->ids, here_->ids + here_->id_count);
    return true;
  }
  // The word that recall() was asked for last has these ids.
  void keep(std::string_view word, std::span<const std::int32_t> ids) {
    if (here_ == nullptr || ids.size() > max_ids) return;
    here_->word_bytes = static_cast<std::uint8_t>(word.size());
    here_->id_count = static_cast<std::uint8_t>(ids.size());
    std::memcpy(here_->word, word.data(), word.size());
    std::copy(ids.begin(), ids.end(), here_->ids);
  }

 private:
  static constexpr std::size_t count = std::size_t{1} << 15;
  static constexpr std::size_t max_word_bytes = 22;
  static constexpr std::size_t max_ids = 10;
  struct Entry {  // one line of a processor's cache; no word is empty, so zero bytes mean none
    std::uint8_t word_bytes = 0;
    std::uint8_t id_count = 0;
    char word[max_word_bytes] = {};
    std::int32_t ids[max_ids] = {};
  };
  static_assert(sizeof(Entry) == 64);
  std::vector<Entry> entries_;
  Entry* here_ = nullptr;
};

}  // namespace

class BpeEncoder : public Encoder {
 public:
  explicit BpeEncoder(const BpeTokenizer& tokenizer) : tokenizer_(tokenizer) {}

  Status append(std::string_view text, SpecialNames names, TokenIds& out) override {
    if (text.size() > max_text_bytes) {
      return fail(ErrorCode::limit, fmt::format("expected a text of at most {} bytes, got {}; encode it in parts",
                                                max_text_bytes, text.size()));
    }
    const std::size_t before = out.size();
    out_ = &out;
    names_ = names;
    steps_ = spare_steps + steps_per_byte * static_cast<std::int64_t>(text.size());
    std::string repaired;
    repaired.reserve(text.size());
    if (!append_valid_utf8(text, repaired).empty()) repaired += replacement_character;
    between(tokenizer_.literal_, repaired, [this](std::string_view piece) {
      between(tokenizer_.normalized_, piece, [this](std::string_view rest) { split(0, rest); });
    });
    if (steps_ >= 0) return {};
    out.resize(before);
    return fail(ErrorCode::bad_input,
                "pre_tokenizer: expected a pattern that can be followed in a reasonable time, got one "
                "that tries too many ways through this text");
  }

 private:
  // Gives `use` what stands between the added tokens of a group, and appends these.
  template <typename Use>
  void between(const AddedTokenFinder& finder, std::string_view text, const Use& use) {
    std::size_t begin = 0;
    for (std::size_t from = 0; const auto found = finder.next(text, from);) {
      from = found->begin + found->token->content.size();
      if (names_ == SpecialNames::text && found->token->special) continue;
      if (found->begin > begin) use(text.substr(begin, found->begin - begin));
      out_->push_back(found->token->id);
      begin = from;
    }
    if (begin < text.size()) use(text.substr(begin));
  }

  void split(std::size_t stage, std::string_view text) {
    if (stage == tokenizer_.stages_.size()) return word(text);
    const SplitStage& how = tokenizer_.stages_[stage];
    if (how.kind == SplitStage::Kind::space_in_front) {
      if (text[0] == ' ') return split(stage + 1, text);
      return split(stage + 1, std::string(" ").append(text));
    }
    const bool gaps = how.kind == SplitStage::Kind::pattern;
    std::size_t gap = 0;
    for (std::size_t at = 0; at < text.size() && steps_ >= 0;) {
      const auto end = how.pattern->match(text, at, steps_);
      if (!end) {
        at += code_point(text.substr(at)).bytes;
        continue;
      }
      if (gaps && at > gap) split(stage + 1, text.substr(gap, at - gap));
      split(stage + 1, text.substr(at, *end - at));
      at = gap = *end;
    }
    if (gaps && gap < text.size()) split(stage + 1, text.substr(gap));
  }

  void word(std::string_view text) {
    if (memory_.recall(text, *out_)) return;
    const std::size_t before = out_->size();
    tokenizer_.pairs_.append(text, workspace_, *out_);
    memory_.keep(text, std::span(*out_).subspan(before));
  }

  const BpeTokenizer& tokenizer_;
  WordMemory memory_;
  BytePairs::Workspace workspace_;
  TokenIds* out_ = nullptr;
  SpecialNames names_ = SpecialNames::recognized;
  std::int64_t steps_ = 0;
};

AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  for (const AddedToken& token : tokens_) may_begin_[static_cast<unsigned char>(token.content[0])] = true;
}

std::optional<AddedTokenFinder::Found> AddedTokenFinder::next(std::string_view text, std::size_t from) const {
  if (tokens_.empty()) return std::nullopt;
  for (; from < text.size(); ++from) {
    if (!may_begin_[static_cast<unsigned char>(text[from])]) continue;
    // Those that begin with the same `length` bytes as the text here are first .. last.
    auto first = tokens_.begin();
    auto last = tokens_.end();
    const AddedToken* longest = nullptr;
    for (std::size_t length = 0; first != last; ++length) {
      if (first->content.size() == length) longest = &*first++;
      if (from + length == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[from + length]);
      const auto at = [length](const AddedToken& token) { return static_cast<unsigned char>(token.content[length]); };
      first = std::partition_point(first, last, [&](const AddedToken& token) { return at(token) < byte; });
      last = std::partition_point(first, last, [&](const AddedToken& token) { return at(token) == byte; });
    }
    if (longest != nullptr) return Found{from, longest};
  }
  return std::nullopt;
}

BpeTokenizer::BpeTokenizer(TokenizerJson file)
    : pairs_(file.words, file.merges, file.whole_words, file.unknown),
      stages_(std::move(file.stages)),
      literal_(group(file.added, false)),
      normalized_(group(file.added, true)),
      bytes_(file.contents.size()),
      special_(file.contents.size(), false),
      begin_of_text_(file.begin_of_text) {
  words_part_ = find_out_if_words_part();
  for (const AddedToken& token : file.added) {
    if (token.special) special_[static_cast<std::size_t>(token.id)] = true;
    if (has_word_end(token.content)) words_part_ = false;
  }
  for (std::size_t id = 0; id < bytes_.size(); ++id) {
    std::string& content = file.contents[id];
    if (content.empty()) continue;
    // Also for added tokens, as Python's `tokenizers` has it: one that is spelled in letters of the alphabet is decoded.
    bytes_[id] = from_byte_alphabet(content).value_or(content);
    id_of_.emplace(std::move(content), static_cast<std::int32_t>(id));
  }
}

Result<std::shared_ptr<const BpeTokenizer>> BpeTokenizer::create(TokenizerJson file,
                                                                 std::optional<std::string> end_of_text) {
  std::shared_ptr<BpeTokenizer> out(new BpeTokenizer(std::move(file)));
  if (end_of_text) {
    out->end_of_text_ = out->find(*end_of_text);
    if (!out->end_of_text_) {
      return fail(
          ErrorCode::bad_input,
          fmt::format("eos_token: expected a token of the tokenizer.json beside it, got '{}'", shown(*end_of_text)));
    }
  }
  for (const std::string_view name : usual_ends) {
    const auto id = out->find(name);
    if (!out->end_of_text_ && id && out->is_special(*id)) out->end_of_text_ = id;
  }
  return out;
}

// A stage that always ends a piece there, and none that could go across or look across.
bool BpeTokenizer::find_out_if_words_part() const {
  bool some_parts = false;
  for (const SplitStage& stage : stages_) {
    if (!stage.pattern) continue;
    if (stage.pattern->may_cross_words()) return false;
    some_parts = some_parts || stage.pattern->takes_letters();
  }
  return some_parts;
}

std::size_t BpeTokenizer::cut(std::string_view text) const {
  if (!words_part_) return 0;
  for (std::size_t i = text.size(); i-- > 1;) {
    if (text[i] == ' ' && is_ascii_letter(text[i - 1])) return i;
  }
  return 0;
}

std::unique_ptr<Encoder> BpeTokenizer::encoder() const { return std::make_unique<BpeEncoder>(*this); }

std::string BpeTokenizer::bytes_of(std::int32_t id, TokenPosition&) const {
  if (id < 0 || id >= vocab_size()) return {};
  return bytes_[static_cast<std::size_t>(id)];
}

bool BpeTokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && special_[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> BpeTokenizer::find(std::string_view content) const {
  const auto found = id_of_.find(std::string(content));
  if (found == id_of_.end()) return std::nullopt;
  return found->second;
}

}  // namespace starling::trainer
