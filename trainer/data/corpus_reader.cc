#include "trainer/data/corpus_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "trainer/data/json_text.h"

namespace starling::trainer {
namespace {

// Adds documents to a list of ids.
class PartEncoder {
 public:
  PartEncoder(const CorpusPart& part, const Tokenizer& tokenizer, SpecialNames names, Encoder& encoder)
      : part_(part), tokenizer_(tokenizer), names_(names), encoder_(encoder) {}

  // A text between separators; the first and the last may be pieces of longer documents.
  Status split(std::string_view separator) {
    std::string_view rest = part_.bytes;
    bool begins = !part_.begin.inside_document;
    for (;;) {
      const std::size_t at = separator.empty() ? std::string_view::npos : rest.find(separator);
      const bool last = at == std::string_view::npos;
      const bool ends = !last || !part_.end.inside_document;
      // Behind a separator that ends the part stands no document.
      if (last && rest.empty() && begins) return {};
      if (Status ok = document(rest.substr(0, at), begins, ends); !ok) return ok;
      if (last) return {};
      rest.remove_prefix(at + separator.size());
      begins = true;
    }
  }

  Status json_lines() {
    std::string_view rest = part_.bytes;
    while (!rest.empty()) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
        const auto object = parse_json_object(line);
        if (!object) return failed(line, object.error().message);
        const auto text = object->find("text");
        if (text == object->end() || !text->is_string()) {
          return failed(line, "expected an object with a text under \"text\", got " + shown(line));
        }
        if (Status ok = document(text->get_ref<const std::string&>(), true, true); !ok) return ok;
      }
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return {};
  }

  TokenIds take() { return std::move(ids_); }

 private:
  Status document(std::string_view text, bool begins, bool ends) {
    if (begins && ends && text.find_first_not_of(" \t\r\n\f\v") == std::string_view::npos) return {};
    if (const auto id = tokenizer_.begin_of_text(); begins && id) ids_.push_back(*id);
    if (Status ok = encoder_.append(text, names_, ids_); !ok) return failed(text, ok.error().message);
    if (const auto id = tokenizer_.end_of_text(); ends && id) ids_.push_back(*id);
    return {};
  }

  Status failed(std::string_view where, const std::string& message) const {
    const bool inside = where.data() >= part_.bytes.data() && where.data() <= part_.bytes.data() + part_.bytes.size();
    const auto offset = part_.begin.offset + (inside ? where.data() - part_.bytes.data() : 0);
    return fail(ErrorCode::bad_input, fmt::format("byte {}: {}", offset, message));
  }

  const CorpusPart& part_;
  const Tokenizer& tokenizer_;
  SpecialNames names_;
  Encoder& encoder_;
  TokenIds ids_;
};

}  // namespace

CorpusReader::CorpusReader(std::vector<std::filesystem::path> files, CorpusShape shape, const Tokenizer& tokenizer,
                           CorpusPosition start)
    : files_(std::move(files)), shape_(std::move(shape)), tokenizer_(&tokenizer), at_(start) {}

Result<std::optional<CorpusPart>> CorpusReader::next() {
  while (at_.file < files_.size()) {
    auto part = next_of_file();
    if (!part) {
      return fail(part.error().code, fmt::format("{}: {}", files_[at_.file].string(), part.error().message));
    }
    if (*part) return part;
    at_ = {at_.file + 1, 0, false};
  }
  return std::nullopt;
}

// Nothing when the file has no more.
Result<std::optional<CorpusPart>> CorpusReader::next_of_file() {
  if (!file_.is_open()) {
    errno = 0;
    file_.open(files_[at_.file], std::ios::binary);
    if (!file_ || !file_.seekg(at_.offset)) {
      return fail(errno == ENOENT ? ErrorCode::not_found : ErrorCode::io,
                  fmt::format("cannot be read: {}", std::generic_category().message(errno)));
    }
    buffer_.clear();
    at_end_ = false;
  }
  for (std::size_t wanted = shape_.part_bytes;; wanted *= 2) {
    if (Status ok = fill(wanted); !ok) return tl::unexpected(ok.error());
    if (at_end_ && buffer_.size() <= wanted) {
      file_.close();
      if (buffer_.empty()) return std::nullopt;
      return take(buffer_.size(), {at_.file + 1, 0, false});
    }
    const std::string_view window = std::string_view(buffer_).substr(0, wanted);
    if (const std::size_t end = boundary(window); end > 0) {
      return take(end, {at_.file, at_.offset + static_cast<std::int64_t>(end), false});
    }
    // A document that goes on behind the part. One that is JSON cannot be cut.
    std::size_t end = 0;
    if (shape_.documents != Documents::json_lines) {
      const std::size_t tail = shape_.separator.empty() ? 0 : shape_.separator.size() - 1;  // may begin a separator
      end = tokenizer_->cut(window.substr(0, window.size() - std::min(tail, window.size())));
    }
    if (end > 0) return take(end, {at_.file, at_.offset + static_cast<std::int64_t>(end), true});
    if (wanted >= shape_.max_part_bytes) {
      return fail(
          ErrorCode::bad_input,
          fmt::format("byte {}: expected a document of at most {} bytes, or one with a place where this tokenizer "
                      "can cut it, got a longer one; say with --documents or --separator where documents end",
                      at_.offset, shape_.max_part_bytes));
    }
  }
}

// The buffer then has at least `wanted` bytes, or all that there are.
Status CorpusReader::fill(std::size_t wanted) {
  const std::size_t have = buffer_.size();
  if (have >= wanted || at_end_) return {};
  buffer_.resize(wanted);
  file_.read(buffer_.data() + have, static_cast<std::streamsize>(wanted - have));
  buffer_.resize(have + static_cast<std::size_t>(file_.gcount()));
  if (file_.bad()) return fail(ErrorCode::io, "cannot be read");
  at_end_ = file_.peek() == std::ifstream::traits_type::eof();
  return {};
}

// Behind the last document that ends inside of the window; 0 when none does.
std::size_t CorpusReader::boundary(std::string_view window) const {
  std::string_view separator = "\n";
  if (shape_.documents == Documents::files) separator = {};
  if (shape_.documents == Documents::separated) separator = shape_.separator;
  const std::size_t at = separator.empty() ? std::string_view::npos : window.rfind(separator);
  return at == std::string_view::npos ? 0 : at + separator.size();
}

CorpusPart CorpusReader::take(std::size_t bytes, CorpusPosition end) {
  CorpusPart out{at_, end, buffer_.substr(0, bytes)};
  buffer_.erase(0, bytes);
  at_ = end;
  return out;
}

Result<TokenIds> encode_part(const CorpusPart& part, const CorpusShape& shape, const Tokenizer& tokenizer,
                             SpecialNames names, Encoder& encoder) {
  PartEncoder out(part, tokenizer, names, encoder);
  const Status ok = shape.documents == Documents::json_lines  ? out.json_lines()
                    : shape.documents == Documents::lines     ? out.split("\n")
                    : shape.documents == Documents::separated ? out.split(shape.separator)
                                                              : out.split("");
  if (!ok) return tl::unexpected(ok.error());
  return out.take();
}

}  // namespace starling::trainer
