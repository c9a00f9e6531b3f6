#include "trainer/checkpoint/output_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace starling::trainer {
namespace {

tl::unexpected<Error> os_error(int code, const char* doing, const std::filesystem::path& path) {
  const ErrorCode kind = code == ENOSPC || code == EDQUOT ? ErrorCode::disk_full
                         : code == ENOENT                 ? ErrorCode::not_found
                                                          : ErrorCode::io;
  return fail(kind, fmt::format("{}: {}: {}{}", path.string(), doing, std::generic_category().message(code),
                                kind == ErrorCode::disk_full ? "; free some space there" : ""));
}

}  // namespace

ssize_t Disk::write(int file, const void* bytes, std::size_t size) { return ::write(file, bytes, size); }

int Disk::fsync(int file) { return ::fsync(file); }

Disk& Disk::real() {
  static Disk disk;
  return disk;
}

struct OutputFile::Hasher {
  struct Free {
    void operator()(XXH3_state_t* it) const { XXH3_freeState(it); }
  };
  std::unique_ptr<XXH3_state_t, Free> state{XXH3_createState()};
  Hasher() {
    STARLING_CHECK(state != nullptr, "memory for the state of a hash");
    XXH3_128bits_reset(state.get());
  }
};

OutputFile::OutputFile(std::filesystem::path path, Disk& disk, int file)
    : path_(std::move(path)), disk_(&disk), file_(file), hasher_(std::make_unique<Hasher>()) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      disk_(other.disk_),
      file_(std::exchange(other.file_, -1)),
      bytes_(other.bytes_),
      hasher_(std::move(other.hasher_)),
      error_(std::move(other.error_)) {}

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(disk_, other.disk_);
  std::swap(file_, other.file_);
  std::swap(bytes_, other.bytes_);
  std::swap(hasher_, other.hasher_);
  std::swap(error_, other.error_);
  return *this;
}

OutputFile::~OutputFile() {
  if (file_ >= 0) ::close(file_);
}

Result<OutputFile> OutputFile::create(const std::filesystem::path& path, Disk& disk) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (file < 0) return os_error(errno, "cannot be created", path);
  return OutputFile(path, disk, file);
}

tl::unexpected<Error> OutputFile::failed(const char* doing) {
  error_ = os_error(errno, doing, path_).value();
  return tl::unexpected(*error_);
}

Status OutputFile::append(ByteView bytes) {
  if (error_) return tl::unexpected(*error_);
  STARLING_CHECK(file_ >= 0, "an append after the end");
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = disk_->write(file_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed("cannot be written");
    done += static_cast<std::size_t>(n);
  }
  XXH3_128bits_update(hasher_->state.get(), bytes.data(), bytes.size());
  bytes_ += static_cast<std::int64_t>(bytes.size());
  return {};
}

Result<FileDigest> OutputFile::finish() {
  if (error_) return tl::unexpected(*error_);
  STARLING_CHECK(file_ >= 0, "a file is finished once");
  if (disk_->fsync(file_) != 0) return failed("cannot be synced");
  if (::close(std::exchange(file_, -1)) != 0) return failed("cannot be closed");
  FileDigest out{.bytes = bytes_, .hash = {}};
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hasher_->state.get()));
  std::memcpy(out.hash.data(), canonical.digest, out.hash.size());
  return out;
}

Result<FileDigest> write_whole(const std::filesystem::path& path, ByteView bytes, Disk& disk) {
  Result<OutputFile> file = OutputFile::create(path, disk);
  if (!file) return tl::unexpected(file.error());
  if (Status written = file->append(bytes); !written) return tl::unexpected(written.error());
  return file->finish();
}

Status sync_directory(const std::filesystem::path& directory, Disk& disk) {
  const int folder = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return os_error(errno, "cannot be opened", directory);
  const int failed = disk.fsync(folder) == 0 ? 0 : errno;
  ::close(folder);
  if (failed != 0) return os_error(failed, "cannot be synced", directory);
  return {};
}

}  // namespace starling::trainer
