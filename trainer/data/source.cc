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
#include "trainer/data/remote_file.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_files = 16384;
constexpr std::int64_t held_out_divisor = 20;  // one twentieth: 5 %

using Files = std::vector<std::shared_ptr<const TokenFile>>;

// Reads one list of paths and patterns, each file once.
class FileList {
 public:
  FileList(const char* key, TokenFormat format, const std::string& tokenizer, std::int64_t vocab_size,
           std::shared_ptr<Downloads> downloads)
      : key_(key), format_(format), tokenizer_(tokenizer), vocab_size_(vocab_size), downloads_(std::move(downloads)) {}

  Result<Files> read(const std::vector<std::string>& paths) {
    for (const std::string& path : paths) {
      const Status ok = is_url(path) ? add_url(path) : is_pattern(path) ? add_pattern(path) : add(path);
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
    if (Status ok = add(open_local(path)); !ok) return ok;
    std::error_code ignored;
    seen_.insert(std::filesystem::canonical(path, ignored));
    return {};
  }

  Status add_url(const std::string& url) { return add(open_remote(url, downloads_)); }

  Status add(const Result<std::shared_ptr<const ByteFile>>& bytes) {
    if (files_.size() >= max_files) {
      return fail(ErrorCode::limit, fmt::format("{}: more than {} files; join them into fewer", key_, max_files));
    }
    if (!bytes) return fail(bytes.error().code, fmt::format("{}: {}", key_, bytes.error().message));
    Result<TokenFile> file = TokenFile::open(*bytes, format_, vocab_size_);
    if (!file) return fail(file.error().code, fmt::format("{}: {}", key_, file.error().message));
    if (file->is_text() && tokenizer_ != "byte") {
      return fail(ErrorCode::bad_config,
                  fmt::format("{}: {} is text, and a text is read as it is by the byte tokenizer only; make ids of it: "
                              "starling tokenize --tokenizer {} --out PREFIX {}",
                              key_, (*bytes)->name(), tokenizer_, (*bytes)->name()));
    }
    files_.push_back(std::make_shared<const TokenFile>(std::move(*file)));
    return {};
  }

  const char* key_;
  TokenFormat format_;
  std::string tokenizer_;
  std::int64_t vocab_size_;
  std::shared_ptr<Downloads> downloads_;
  std::set<std::filesystem::path> seen_;
  Files files_;
};

// The tokenizer that made the ids. Text is compared with the byte tokenizer's vocabulary file by file, and what has ids
// already needs none of it.
Result<std::shared_ptr<const Tokenizer>> fitting_tokenizer(const std::string& path, std::int64_t vocab_size) {
  auto tokenizer = Tokenizer::open(path);
  if (!tokenizer) return fail(tokenizer.error().code, "tokenizer.path: " + tokenizer.error().message);
  if (path == "byte" || (*tokenizer)->vocab_size() <= vocab_size) return tokenizer;
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

Status TokenText::read(std::int64_t first, std::span<std::int32_t> out) const {
  STARLING_CHECK(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= size_, "tokens outside of the text");
  auto slice = std::upper_bound(slices_.begin(), slices_.end(), first,
                                [](std::int64_t position, const Slice& s) { return position < s.end; });
  for (; !out.empty(); ++slice) {
    const auto count = std::min<std::size_t>(out.size(), static_cast<std::size_t>(slice->end - first));
    if (Status ok = slice->file->read(slice->first + (first - slice->begin), out.first(count)); !ok) return ok;
    out = out.subspan(count);
    first += static_cast<std::int64_t>(count);
  }
  return {};
}

Result<Source> Source::open(const DataConfig& config, BatchShape shape, std::int64_t vocab_size) {
  STARLING_CHECK(shape.sequences > 0 && shape.seq_len > 0, "a batch without tokens");
  const auto tokenizer = fitting_tokenizer(config.tokenizer, vocab_size);
  if (!tokenizer) return tl::unexpected(tokenizer.error());
  const Result<TokenFormat> format = token_format(config.format);
  if (!format) return tl::unexpected(format.error());
  if (config.train.empty()) {
    return fail(ErrorCode::bad_config, "data.train: expected paths of text or token files, got none");
  }
  const auto downloads = Downloads::create({});
  if (!downloads) return tl::unexpected(downloads.error());
  const Result<Files> train =
      FileList("data.train", *format, config.tokenizer, vocab_size, *downloads).read(config.train);
  if (!train) return tl::unexpected(train.error());

  Source source(shape);
  source.begin_of_text_ = (*tokenizer)->begin_of_text();
  source.end_of_text_ = (*tokenizer)->end_of_text();
  const bool hold_out = config.val.empty();
  for (const std::shared_ptr<const TokenFile>& file : *train) {
    const std::int64_t held_out = hold_out ? file->size() / held_out_divisor : 0;
    source.training_.append(file, 0, file->size() - held_out);
    source.validation_.append(file, file->size() - held_out, held_out);
  }
  if (!hold_out) {
    const Result<Files> val = FileList("data.val", *format, config.tokenizer, vocab_size, *downloads).read(config.val);
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

Result<TokenBatch> Source::sample(std::uint64_t seed, Slot slot, Step step, std::uint32_t index) const {
  const std::array<std::uint64_t, 3> name{static_cast<std::uint64_t>(slot), static_cast<std::uint64_t>(step), index};
  Stream stream(mix_seed(mix_seed(seed, "data.sample"), name));
  TokenBatch batch(static_cast<std::size_t>(shape_.tokens()));
  const auto length = static_cast<std::size_t>(shape_.seq_len + 1);
  const auto starts = static_cast<std::uint64_t>(training_.size() - shape_.seq_len);
  for (std::span<std::int32_t> rest(batch); !rest.empty(); rest = rest.subspan(length)) {
    const auto first = static_cast<std::int64_t>(stream.below(starts));
    if (Status ok = training_.read(first, rest.first(length)); !ok) return tl::unexpected(ok.error());
  }
  return batch;
}

Result<TokenBatch> Source::validation(std::uint32_t index) const {
  TokenBatch batch(static_cast<std::size_t>(shape_.tokens()));
  const auto length = static_cast<std::size_t>(shape_.seq_len + 1);
  std::int64_t window = static_cast<std::int64_t>(index) * shape_.sequences;
  for (std::span<std::int32_t> rest(batch); !rest.empty(); rest = rest.subspan(length), ++window) {
    const std::int64_t first = window % validation_windows() * shape_.seq_len;
    if (Status ok = validation_.read(first, rest.first(length)); !ok) return tl::unexpected(ok.error());
  }
  return batch;
}

std::vector<std::uint32_t> Source::document_borders(const TokenBatch& batch) const {
  STARLING_CHECK(batch.size() == static_cast<std::size_t>(shape_.tokens()), "a batch of this source");
  std::vector<std::uint32_t> out;
  const auto length = static_cast<std::size_t>(shape_.seq_len + 1);
  std::uint32_t row = 0;
  for (std::span<const std::int32_t> rest(batch); !rest.empty(); rest = rest.subspan(length)) {
    for (std::size_t i = 0; i + 1 < length; ++i, ++row) {
      // One border, also where a document ends and the next one says that it begins.
      if (i > 0 && (rest[i - 1] == end_of_text_ || rest[i] == begin_of_text_)) out.push_back(row);
    }
  }
  return out;
}

}  // namespace starling::trainer
