#include "trainer/data/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <system_error>
#include <utility>

#include "gossip/base/log.h"
#include "gossip/base/random.h"
#include "trainer/data/file_pattern.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_files = 16384;
constexpr std::int64_t held_out_divisor = 20;  // one twentieth: 5 %

using Files = std::vector<std::shared_ptr<const TokenFile>>;

// Reads one list of paths and patterns, each file once.
class FileList {
 public:
  FileList(const char* key, TokenFormat format, const std::string& tokenizer, std::int64_t vocab_size)
      : key_(key), format_(format), tokenizer_(tokenizer), vocab_size_(vocab_size) {}

  Result<Files> read(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      const Status ok = is_pattern(path) ? add_pattern(path) : add(path);
      if (!ok) return tl::unexpected(ok.error());
    }
    return std::move(files_);
  }

 private:
  Status add_pattern(const std::string& pattern) {
    const auto found = matching_files(pattern);
    if (!found) return tl::unexpected(found.error());
    const std::size_t before = files_.size();
    std::size_t passed_over = 0;
    for (const std::filesystem::path& path : *found) {
      if (!worth_reading(path)) {
        ++passed_over;
      } else if (const Status ok = add(path); !ok) {
        return ok;
      }
    }
    if (passed_over > 0) log_debug("{}: {} matches are folders, empty, binary or second names", pattern, passed_over);
    if (files_.size() > before) return {};
    return fail(ErrorCode::not_found, fmt::format("{}: no file matches '{}'{}; give a path to text or token files",
                                                  key_, pattern, found->empty() ? "" : " that could be read as data"));
  }

  // For matches of a pattern, where not every file need be meant.
  bool worth_reading(const std::filesystem::path& path) const {
    std::error_code ignored;
    if (!std::filesystem::is_regular_file(path, ignored)) return false;
    if (seen_.contains(std::filesystem::canonical(path, ignored))) return false;
    if (std::filesystem::file_size(path, ignored) == 0) return false;
    const bool may_be_text =
        format_ == TokenFormat::text || (format_ == TokenFormat::automatic && path.extension() != ".bin");
    if (!may_be_text) return true;
    const Result<MappedFile> file = MappedFile::open(path);
    return !file || !looks_binary(file->bytes());  // what cannot be opened is reported by add()
  }

  Status add(const std::filesystem::path& path) {
    if (files_.size() >= max_files) {
      return fail(ErrorCode::limit, fmt::format("{}: more than {} files; join them into fewer", key_, max_files));
    }
    Result<TokenFile> file = TokenFile::open(path, format_, vocab_size_);
    if (!file) return fail(file.error().code, fmt::format("{}: {}", key_, file.error().message));
    if (file->is_text() && tokenizer_ != "byte") {
      return fail(ErrorCode::bad_config,
                  fmt::format("{}: {} is text, and a text is read as it is by the byte tokenizer only; make ids of it: "
                              "starling tokenize --tokenizer {} {}",
                              key_, path.string(), tokenizer_, path.string()));
    }
    std::error_code ignored;
    seen_.insert(std::filesystem::canonical(path, ignored));
    files_.push_back(std::make_shared<const TokenFile>(std::move(*file)));
    return {};
  }

  const char* key_;
  TokenFormat format_;
  std::string tokenizer_;
  std::int64_t vocab_size_;
  std::set<std::filesystem::path> seen_;
  Files files_;
};

// Text is not checked against the byte tokenizer here but file by file: what has token ids already needs none of its own.
Status check_tokenizer(const std::string& path, std::int64_t vocab_size) {
  if (path == "byte") return {};
  const auto tokenizer = Tokenizer::open(path);
  if (!tokenizer) return fail(tokenizer.error().code, "tokenizer.path: " + tokenizer.error().message);
  if ((*tokenizer)->vocab_size() <= vocab_size) return {};
  return fail(ErrorCode::bad_config,
              fmt::format("tokenizer.path: {} has ids up to {}, but model.vocab_size is {}; set it to at least {}",
                          path, (*tokenizer)->vocab_size() - 1, vocab_size, (*tokenizer)->vocab_size()));
}

Status long_enough(const char* what, const TokenText& text, std::int64_t seq_len, const char* advice) {
  if (text.size() > seq_len) return {};
  return fail(
      ErrorCode::bad_input,
      fmt::format("{}: expected at least {} tokens, one sequence of training.seq_len and its last target, got {}; "
                  "{} or set a shorter training.seq_len",
                  what, seq_len + 1, text.size(), advice));
}

}  // namespace

void TokenText::append(std::shared_ptr<const TokenFile> file, std::int64_t first, std::int64_t count) {
  STARLING_CHECK(first >= 0 && count >= 0 && first + count <= file->size(), "a slice outside of its file");
  if (count == 0) return;
  slices_.push_back({std::move(file), first, size_, size_ + count});
  size_ += count;
}

void TokenText::read(std::int64_t first, std::span<std::int32_t> out) const {
  STARLING_CHECK(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= size_, "tokens outside of the text");
  auto slice = std::upper_bound(slices_.begin(), slices_.end(), first,
                                [](std::int64_t position, const Slice& s) { return position < s.end; });
  for (; !out.empty(); ++slice) {
    const auto count = std::min<std::size_t>(out.size(), static_cast<std::size_t>(slice->end - first));
    slice->file->read(slice->first + (first - slice->begin), out.first(count));
    out = out.subspan(count);
    first += static_cast<std::int64_t>(count);
  }
}

Result<Source> Source::open(const DataConfig& config, BatchShape shape, std::int64_t vocab_size) {
  STARLING_CHECK(shape.sequences > 0 && shape.seq_len > 0, "a batch without tokens");
  if (Status ok = check_tokenizer(config.tokenizer, vocab_size); !ok) return tl::unexpected(ok.error());
  const Result<TokenFormat> format = token_format(config.format);
  if (!format) return tl::unexpected(format.error());
  if (config.train.empty()) {
    return fail(ErrorCode::bad_config, "data.train: expected paths of text or token files, got none");
  }
  const Result<Files> train = FileList("data.train", *format, config.tokenizer, vocab_size).read(config.train);
  if (!train) return tl::unexpected(train.error());

  Source source(shape);
  const bool hold_out = config.val.empty();
  for (const std::shared_ptr<const TokenFile>& file : *train) {
    const std::int64_t held_out = hold_out ? file->size() / held_out_divisor : 0;
    source.training_.append(file, 0, file->size() - held_out);
    source.validation_.append(file, file->size() - held_out, held_out);
  }
  if (!hold_out) {
    const Result<Files> val = FileList("data.val", *format, config.tokenizer, vocab_size).read(config.val);
    if (!val) return tl::unexpected(val.error());
    for (const std::shared_ptr<const TokenFile>& file : *val) source.validation_.append(file, 0, file->size());
  }
  if (Status ok = long_enough("data.train", source.training_, shape.seq_len, "give more text"); !ok) {
    return tl::unexpected(ok.error());
  }
  const Status enough = hold_out ? long_enough("the last 5 % of data.train, held out", source.validation_,
                                               shape.seq_len, "give more text, or set data.val to files of its own")
                                 : long_enough("data.val", source.validation_, shape.seq_len, "give more text");
  if (!enough) return tl::unexpected(enough.error());
  return source;
}

TokenBatch Source::sample(std::uint64_t seed, Slot slot, Step step, std::uint32_t index) const {
  const std::array<std::uint64_t, 3> name{static_cast<std::uint64_t>(slot), static_cast<std::uint64_t>(step), index};
  Stream stream(mix_seed(mix_seed(seed, "data.sample"), name));
  TokenBatch batch(static_cast<std::size_t>(shape_.tokens()));
  const auto length = static_cast<std::size_t>(shape_.seq_len + 1);
  const auto starts = static_cast<std::uint64_t>(training_.size() - shape_.seq_len);
  for (std::span<std::int32_t> rest(batch); !rest.empty(); rest = rest.subspan(length)) {
    training_.read(static_cast<std::int64_t>(stream.below(starts)), rest.first(length));
  }
  return batch;
}

TokenBatch Source::validation(std::uint32_t index) const {
  TokenBatch batch(static_cast<std::size_t>(shape_.tokens()));
  const auto length = static_cast<std::size_t>(shape_.seq_len + 1);
  std::int64_t window = static_cast<std::int64_t>(index) * shape_.sequences;
  for (std::span<std::int32_t> rest(batch); !rest.empty(); rest = rest.subspan(length), ++window) {
    validation_.read(window % validation_windows() * shape_.seq_len, rest.first(length));
  }
  return batch;
}

}  // namespace starling::trainer
