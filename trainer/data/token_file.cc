#include "trainer/data/token_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>
#include <vector>

namespace starling::trainer {
namespace {

constexpr std::int32_t llmc_magic = 20240520;
constexpr std::int32_t llmc_llama3_magic = 20240801;
constexpr std::int32_t llmc_version = 1;
constexpr std::size_t llmc_header_bytes = 256 * sizeof(std::int32_t);
constexpr std::size_t probe_bytes = 64 * 1024;

std::string reason(int error) { return std::generic_category().message(error); }

std::int32_t header_word(ByteView bytes, std::size_t index) {
  std::int32_t value = 0;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

bool has_magic(ByteView bytes) { return bytes.size() >= llmc_header_bytes && header_word(bytes, 0) == llmc_magic; }

Status check_llmc_header(const std::filesystem::path& path, ByteView bytes) {
  if (bytes.size() < llmc_header_bytes) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected an llm.c shard with a header of {} bytes, got a file of {} bytes",
                            path.string(), llmc_header_bytes, bytes.size()));
  }
  const std::int32_t magic = header_word(bytes, 0);
  const std::int32_t version = header_word(bytes, 1);
  if (magic != llmc_magic || version != llmc_version) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected an llm.c shard (magic {}, version {}), got magic {}, version {}; {}",
                            path.string(), llmc_magic, llmc_version, magic, version,
                            magic == llmc_llama3_magic ? "shards of 32-bit ids cannot be read: write 16-bit ones"
                                                       : "for ids without a header set data.format to uint16"));
  }
  const std::uint64_t announced = static_cast<std::uint32_t>(header_word(bytes, 2));
  const std::uint64_t there = bytes.size() - llmc_header_bytes;
  if (there != announced * sizeof(std::uint16_t)) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: the header announces {} tokens, {} bytes, but {} bytes follow; copy the file again",
                            path.string(), announced, announced * sizeof(std::uint16_t), there));
  }
  if (announced == 0) return fail(ErrorCode::bad_input, fmt::format("{}: the shard has no tokens", path.string()));
  return {};
}

}  // namespace

Result<TokenFormat> token_format(std::string_view name) {
  if (name == "auto") return TokenFormat::automatic;
  if (name == "bin") return TokenFormat::bin;
  if (name == "uint16") return TokenFormat::uint16;
  if (name == "text") return TokenFormat::text;
  return fail(ErrorCode::bad_config, fmt::format("data.format: expected auto, bin, uint16 or text, got '{}'", name));
}

Result<MappedFile> MappedFile::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a named pipe must not wait for its writer.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) {
    const int error = errno;
    return fail(error == ENOENT || error == ENOTDIR ? ErrorCode::not_found : ErrorCode::io,
                fmt::format("{}: cannot be opened: {}", path.string(), reason(error)));
  }
  struct stat info {};
  if (::fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(file);
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected a file, got {}", path.string(),
                            S_ISDIR(info.st_mode) ? "a folder; write FOLDER/* for all in it" : "a pipe or device"));
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size == 0) {
    ::close(file);
    return fail(ErrorCode::bad_input, fmt::format("{}: the file is empty", path.string()));
  }
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  ::close(file);
  if (data == MAP_FAILED) {
    return fail(ErrorCode::io, fmt::format("{}: cannot be mapped into memory: {}", path.string(), reason(error)));
  }
  return MappedFile(static_cast<const std::byte*>(data), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

bool looks_binary(ByteView bytes) {
  const ByteView probe = bytes.first(std::min(bytes.size(), probe_bytes));
  return std::find(probe.begin(), probe.end(), std::byte{0}) != probe.end();
}

TokenFile::TokenFile(MappedFile file, std::size_t header_bytes, std::size_t token_bytes)
    : file_(std::move(file)),
      tokens_(file_.bytes().subspan(header_bytes)),
      token_bytes_(token_bytes),
      size_(static_cast<std::int64_t>(tokens_.size() / token_bytes)) {}

Result<TokenFile> TokenFile::open(const std::filesystem::path& path, TokenFormat format, std::int64_t vocab_size) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  const ByteView bytes = file->bytes();
  if (format == TokenFormat::automatic) {
    format = has_magic(bytes) ? TokenFormat::bin : path.extension() == ".bin" ? TokenFormat::uint16 : TokenFormat::text;
  }
  std::size_t header_bytes = 0;
  std::size_t token_bytes = sizeof(std::uint16_t);
  if (format == TokenFormat::bin) {
    if (Status ok = check_llmc_header(path, bytes); !ok) return tl::unexpected(ok.error());
    header_bytes = llmc_header_bytes;
  } else if (format == TokenFormat::uint16) {
    if (bytes.size() % sizeof(std::uint16_t) != 0) {
      return fail(ErrorCode::bad_input,
                  fmt::format("{}: expected 16-bit ids, got an odd number of bytes, {}", path.string(), bytes.size()));
    }
  } else {
    if (looks_binary(bytes)) {
      return fail(ErrorCode::bad_input,
                  fmt::format("{}: expected text, got binary data; for ids set data.format to bin (llm.c) or uint16",
                              path.string()));
    }
    token_bytes = 1;
  }
  TokenFile out(std::move(*file), header_bytes, token_bytes);
  if (Status ok = out.check_ids(path, vocab_size); !ok) return tl::unexpected(ok.error());
  return out;
}

void TokenFile::read(std::int64_t first, std::span<std::int32_t> out) const {
  STARLING_CHECK(first >= 0 && static_cast<std::uint64_t>(first) + out.size() <= static_cast<std::uint64_t>(size_),
                 "tokens outside of the file");
  const std::byte* from = tokens_.data() + static_cast<std::size_t>(first) * token_bytes_;
  if (token_bytes_ == 1) {
    for (std::int32_t& token : out) token = std::to_integer<std::int32_t>(*from++);
    return;
  }
  for (std::int32_t& token : out) {
    std::uint16_t id = 0;
    std::memcpy(&id, from, sizeof id);
    from += sizeof id;
    token = id;
  }
}

Status TokenFile::check_ids(const std::filesystem::path& path, std::int64_t vocab_size) const {
  const std::int64_t highest_possible = token_bytes_ == 1 ? 0xff : 0xffff;
  if (highest_possible < vocab_size) return {};
  std::vector<std::int32_t> window(std::size_t{1} << 14);
  for (std::int64_t first = 0; first < size_; first += static_cast<std::int64_t>(window.size())) {
    const auto count = std::min<std::size_t>(window.size(), static_cast<std::size_t>(size_ - first));
    const std::span<std::int32_t> ids = std::span(window).first(count);
    read(first, ids);
    const auto highest = std::max_element(ids.begin(), ids.end());
    if (*highest < vocab_size) continue;
    return fail(ErrorCode::bad_input, fmt::format("{}: token {} has id {}, but model.vocab_size is {}; set it to {}",
                                                  path.string(), first + (highest - ids.begin()), *highest, vocab_size,
                                                  token_bytes_ == 1 ? "256, which the byte tokenizer needs"
                                                                    : "what the tokenizer of this file has"));
  }
  return {};
}

}  // namespace starling::trainer
