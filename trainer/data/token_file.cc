#include "trainer/data/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "trainer/data/llmc.h"
#include "trainer/data/remote_file.h"

namespace starling::trainer {
namespace {

constexpr std::size_t probe_bytes = std::size_t{64} << 10;

struct LlmcHeader {
  std::int32_t magic = 0;
  std::int32_t version = 0;
  std::uint32_t tokens = 0;
  bool known() const {
    return (magic == llmc::magic_16 && version == llmc::version_16) ||
           (magic == llmc::magic_32 && version == llmc::version_32);
  }
  std::size_t token_bytes() const { return magic == llmc::magic_32 ? sizeof(std::uint32_t) : sizeof(std::uint16_t); }
};

// Zeros for a file that is too short to have one.
Result<LlmcHeader> read_header(const ByteFile& file) {
  LlmcHeader out;
  if (file.size() < static_cast<std::int64_t>(llmc::header_bytes)) return out;
  std::array<std::byte, sizeof out> bytes{};
  if (Status ok = file.read(0, bytes); !ok) return tl::unexpected(ok.error());
  std::memcpy(&out, bytes.data(), sizeof out);
  return out;
}

Status check_llmc(const ByteFile& file, const LlmcHeader& header) {
  if (file.size() < static_cast<std::int64_t>(llmc::header_bytes)) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected an llm.c shard with a header of {} bytes, got a file of {} bytes",
                            file.name(), llmc::header_bytes, file.size()));
  }
  if (!header.known()) {
    return fail(
        ErrorCode::bad_input,
        fmt::format("{}: expected an llm.c shard (magic {}, version {}, or {}, {}), got magic {}, version {}; for "
                    "ids without a header set data.format to uint16 or uint32",
                    file.name(), llmc::magic_16, llmc::version_16, llmc::magic_32, llmc::version_32, header.magic,
                    header.version));
  }
  const std::uint64_t announced = std::uint64_t{header.tokens} * header.token_bytes();
  const std::uint64_t there = static_cast<std::uint64_t>(file.size()) - llmc::header_bytes;
  if (there != announced) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: the header announces {} tokens, {} bytes, but {} bytes follow; copy the file again",
                            file.name(), header.tokens, announced, there));
  }
  if (announced == 0) return fail(ErrorCode::bad_input, fmt::format("{}: the shard has no tokens", file.name()));
  return {};
}

TokenFormat format_by_name(const ByteFile& file) {
  std::string name = file.name();
  if (is_url(name)) name.resize(std::min(name.find_first_of("?#"), name.size()));
  const std::filesystem::path extension = std::filesystem::path(name).extension();
  if (extension == ".bin" || extension == ".uint16") return TokenFormat::uint16;
  if (extension == ".uint32") return TokenFormat::uint32;
  return TokenFormat::text;
}

Status check_text(const ByteFile& file) {
  Bytes probe(std::min(static_cast<std::size_t>(file.size()), probe_bytes));
  if (Status ok = file.read(0, probe); !ok) return ok;
  if (!looks_binary(probe)) return {};
  return fail(
      ErrorCode::bad_input,
      fmt::format("{}: expected text, got binary data; for ids set data.format to bin (llm.c), uint16 or uint32",
                  file.name()));
}

}  // namespace

Result<TokenFormat> token_format(std::string_view name) {
  if (name == "auto") return TokenFormat::automatic;
  if (name == "bin") return TokenFormat::bin;
  if (name == "uint16") return TokenFormat::uint16;
  if (name == "uint32") return TokenFormat::uint32;
  if (name == "text") return TokenFormat::text;
  return fail(ErrorCode::bad_config,
              fmt::format("data.format: expected auto, bin, uint16, uint32 or text, got '{}'", name));
}

bool looks_binary(ByteView bytes) {
  const ByteView probe = bytes.first(std::min(bytes.size(), probe_bytes));
  return std::find(probe.begin(), probe.end(), std::byte{0}) != probe.end();
}

TokenFile::TokenFile(std::shared_ptr<const ByteFile> file, std::size_t header_bytes, std::size_t token_bytes,
                     std::int64_t vocab_size)
    : file_(std::move(file)),
      header_bytes_(static_cast<std::int64_t>(header_bytes)),
      token_bytes_(static_cast<std::int64_t>(token_bytes)),
      size_((file_->size() - header_bytes_) / token_bytes_),
      vocab_size_(vocab_size) {}

Result<TokenFile> TokenFile::open(std::shared_ptr<const ByteFile> file, TokenFormat format, std::int64_t vocab_size) {
  const auto header = read_header(*file);
  if (!header) return tl::unexpected(header.error());
  if (format == TokenFormat::automatic) {
    const bool has_magic = header->magic == llmc::magic_16 || header->magic == llmc::magic_32;
    format = has_magic ? TokenFormat::bin : format_by_name(*file);
  }
  std::size_t header_bytes = 0;
  std::size_t token_bytes = format == TokenFormat::uint32 ? sizeof(std::uint32_t) : sizeof(std::uint16_t);
  if (format == TokenFormat::bin) {
    if (Status ok = check_llmc(*file, *header); !ok) return tl::unexpected(ok.error());
    header_bytes = llmc::header_bytes;
    token_bytes = header->token_bytes();
  } else if (format == TokenFormat::text) {
    if (Status ok = check_text(*file); !ok) return tl::unexpected(ok.error());
    token_bytes = 1;
  } else if (file->size() % static_cast<std::int64_t>(token_bytes) != 0) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected ids of {} bits, got {} bytes, which are no whole number of them",
                            file->name(), 8 * token_bytes, file->size()));
  }
  TokenFile out(std::move(file), header_bytes, token_bytes, vocab_size);
  if (out.file_->distance() == ByteFile::Distance::here) {
    if (Status ok = out.check_ids(); !ok) return tl::unexpected(ok.error());
  }
  return out;
}

Status TokenFile::read(std::int64_t first, std::span<std::int32_t> out) const {
  STARLING_CHECK(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= size_, "tokens outside of the file");
  const auto width = static_cast<std::size_t>(token_bytes_);
  Bytes bytes(out.size() * width);
  if (Status ok = file_->read(header_bytes_ + first * token_bytes_, bytes); !ok) return ok;
  std::uint32_t highest = 0;
  const std::byte* from = bytes.data();
  for (std::int32_t& token : out) {
    std::uint32_t id = 0;
    std::memcpy(&id, from, width);
    from += width;
    highest = std::max(highest, id);
    token = static_cast<std::int32_t>(id);
  }
  if (highest < vocab_size_) return {};
  const auto wrong = std::find(out.begin(), out.end(), static_cast<std::int32_t>(highest));
  return fail(ErrorCode::bad_input,
              fmt::format("{}: token {} has id {}, but model.vocab_size is {}; set it to {}", file_->name(),
                          first + (wrong - out.begin()), highest, vocab_size_,
                          is_text() ? "256, which the byte tokenizer needs" : "what the tokenizer of this file has"));
}

Status TokenFile::check_ids() const {
  const std::int64_t highest_possible = (std::int64_t{1} << (8 * token_bytes_)) - 1;
  if (highest_possible < vocab_size_) return {};
  std::vector<std::int32_t> window(std::size_t{1} << 14);
  for (std::int64_t first = 0; first < size_; first += static_cast<std::int64_t>(window.size())) {
    const auto count = std::min<std::size_t>(window.size(), static_cast<std::size_t>(size_ - first));
    if (Status ok = read(first, std::span(window).first(count)); !ok) return ok;
  }
  return {};
}

}  // namespace starling::trainer
