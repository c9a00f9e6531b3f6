#include "trainer/data/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "trainer/data/llmc.h"

namespace starling::trainer {
namespace {

constexpr std::size_t buffer_bytes = std::size_t{1} << 20;

Status sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = file >= 0 && ::fsync(file) == 0;
  const int error = errno;
  if (file >= 0) ::close(file);
  if (synced) return {};
  return fail(ErrorCode::io, fmt::format("{}: cannot be brought to the disk: {}", folder.string(),
                                         std::generic_category().message(error)));
}

}  // namespace

std::size_t ShardSpec::token_bytes() const {
  const bool fits = vocab_size <= 0x10000;
  return format == ShardFormat::uint32 || (format == ShardFormat::bin && !fits) ? sizeof(std::uint32_t)
                                                                                : sizeof(std::uint16_t);
}

std::size_t ShardSpec::header_bytes() const { return format == ShardFormat::bin ? llmc::header_bytes : 0; }

std::filesystem::path ShardSpec::shard(std::int64_t index) const {
  const std::string_view ending = format == ShardFormat::bin      ? "bin"
                                  : format == ShardFormat::uint16 ? "uint16"
                                                                  : "uint32";
  return fmt::format("{}_{:06}.{}", prefix, index, ending);
}

ShardWriter::ShardWriter(ShardWriter&& other) noexcept
    : spec_(std::move(other.spec_)),
      mark_(other.mark_),
      file_(std::exchange(other.file_, -1)),
      buffer_(std::move(other.buffer_)) {}

ShardWriter& ShardWriter::operator=(ShardWriter&& other) noexcept {
  std::swap(spec_, other.spec_);
  std::swap(mark_, other.mark_);
  std::swap(file_, other.file_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

ShardWriter::~ShardWriter() {
  if (file_ >= 0) ::close(file_);
}

std::filesystem::path ShardWriter::part() const { return spec_.shard(mark_.shard).string() + ".part"; }

tl::unexpected<Error> ShardWriter::failed(const char* doing) const {
  const int error = errno;
  const bool full = error == ENOSPC || error == EDQUOT;
  return fail(full              ? ErrorCode::disk_full
              : error == ENOENT ? ErrorCode::not_found
                                : ErrorCode::io,
              fmt::format("{}: cannot be {}: {}", part().string(), doing, std::generic_category().message(error)));
}

Result<ShardWriter> ShardWriter::resume(ShardSpec spec, ShardMark mark) {
  ShardWriter out(std::move(spec), mark);
  std::error_code ignored;
  // The shard may have been finished after the mark, and others begun.
  const std::filesystem::path whole = out.spec_.shard(mark.shard);
  if (std::filesystem::exists(whole, ignored)) {
    if (::rename(whole.c_str(), out.part().c_str()) != 0) return out.failed("taken up again");
  }
  for (std::int64_t later = mark.shard + 1;; ++later) {
    const std::filesystem::path path = out.spec_.shard(later);
    const bool removed = std::filesystem::remove(path, ignored);
    const bool removed_part = std::filesystem::remove(path.string() + ".part", ignored);
    if (!removed && !removed_part) break;
  }
  if (Status ok = out.open_part(); !ok) return tl::unexpected(ok.error());
  return out;
}

// Opens the .part with exactly the tokens of mark_ in it.
Status ShardWriter::open_part() {
  const int create = mark_.tokens == 0 ? O_CREAT : 0;
  file_ = ::open(part().c_str(), O_RDWR | O_CLOEXEC | create, 0644);
  if (file_ < 0) return failed("opened");
  const auto bytes = static_cast<off_t>(spec_.header_bytes()) + mark_.tokens * static_cast<off_t>(spec_.token_bytes());
  if (mark_.tokens > 0 && ::lseek(file_, 0, SEEK_END) < bytes) {
    return fail(ErrorCode::bad_input, fmt::format("{}: expected at least {} bytes, which were there before; begin anew",
                                                  part().string(), bytes));
  }
  // The header is written when the shard is whole.
  if (::ftruncate(file_, bytes) != 0 || ::lseek(file_, bytes, SEEK_SET) != bytes) return failed("cut");
  buffer_.reserve(buffer_bytes);
  return {};
}

Status ShardWriter::append(std::span<const std::int32_t> ids) {
  while (!ids.empty()) {
    const auto room = static_cast<std::size_t>(spec_.shard_tokens - mark_.tokens);
    const std::size_t count = std::min({ids.size(), room, buffer_bytes / spec_.token_bytes()});
    const std::size_t before = buffer_.size();
    buffer_.resize(before + count * spec_.token_bytes());
    std::byte* to = buffer_.data() + before;
    for (const std::int32_t id : ids.first(count)) {
      STARLING_CHECK(id >= 0 && id < spec_.vocab_size, "a tokenizer gives ids that it has");
      std::memcpy(to, &id, spec_.token_bytes());  // little-endian: the low bytes come first
      to += spec_.token_bytes();
    }
    ids = ids.subspan(count);
    mark_.tokens += static_cast<std::int64_t>(count);
    if (buffer_.size() >= buffer_bytes) {
      if (Status ok = flush(); !ok) return ok;
    }
    if (mark_.tokens == spec_.shard_tokens) {
      if (Status ok = close_shard(); !ok) return ok;
      mark_ = {mark_.shard + 1, 0};
      if (Status ok = open_part(); !ok) return ok;
    }
  }
  return {};
}

Status ShardWriter::flush() {
  for (ByteView rest = buffer_; !rest.empty();) {
    const ssize_t written = ::write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return failed("written");
    rest = rest.subspan(static_cast<std::size_t>(written));
  }
  buffer_.clear();
  return {};
}

Result<ShardMark> ShardWriter::mark() {
  if (Status ok = flush(); !ok) return tl::unexpected(ok.error());
  if (::fsync(file_) != 0) return failed("brought to the disk");
  return mark_;
}

Status ShardWriter::close_shard() {
  if (Status ok = flush(); !ok) return ok;
  if (spec_.format == ShardFormat::bin) {
    const bool wide = spec_.token_bytes() == sizeof(std::uint32_t);
    std::array<std::int32_t, llmc::header_bytes / sizeof(std::int32_t)> header{};
    header[0] = wide ? llmc::magic_32 : llmc::magic_16;
    header[1] = wide ? llmc::version_32 : llmc::version_16;
    header[2] = static_cast<std::int32_t>(mark_.tokens);
    if (::pwrite(file_, header.data(), sizeof header, 0) != static_cast<ssize_t>(sizeof header))
      return failed("written");
  }
  if (::fsync(file_) != 0) return failed("brought to the disk");
  if (::close(std::exchange(file_, -1)) != 0) return failed("closed");
  if (::rename(part().c_str(), spec_.shard(mark_.shard).c_str()) != 0) return failed("given its name");
  return sync_folder_of(part());
}

Result<std::int64_t> ShardWriter::finish() {
  if (mark_.tokens > 0) {
    if (Status ok = close_shard(); !ok) return tl::unexpected(ok.error());
    return mark_.shard + 1;
  }
  ::close(std::exchange(file_, -1));
  if (::unlink(part().c_str()) != 0) return failed("removed");
  return mark_.shard;
}

}  // namespace starling::trainer
