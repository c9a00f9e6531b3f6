#include "gossip/base/real_env.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace starling {
namespace {

tl::unexpected<Error> os_error(const char* doing, const std::filesystem::path& path) {
  const int code = errno;
  const ErrorCode kind = code == ENOSPC || code == EDQUOT ? ErrorCode::disk_full
                         : code == ENOENT                 ? ErrorCode::not_found
                                                          : ErrorCode::io;
  std::string message = std::string(doing) + " '" + path.string() + "': " + std::strerror(code);
  if (kind == ErrorCode::disk_full) message += "; free some space there, nothing that stood before is lost";
  return fail(kind, std::move(message));
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

}  // namespace

TimePoint RealClock::now() const {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

double RealClock::unix_seconds() const {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

Result<Bytes> RealStorage::read(std::string_view path) {
  static constexpr std::uint64_t max_bytes = 64ULL << 20;
  return read_file(directory_ / path, max_bytes);
}

Status RealStorage::replace(std::string_view path, ByteView bytes) {
  return replace_file(directory_ / path, bytes, FileMode::secret);
}

Result<Bytes> read_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  // Not blocking, because opening a pipe would wait for a writer; for a regular file it means nothing.
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return os_error("cannot open", path);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return os_error("cannot read", path);
  if (!S_ISREG(info.st_mode)) return fail(ErrorCode::io, "'" + path.string() + "' is not a regular file");
  const auto size = static_cast<std::uint64_t>(info.st_size);
  if (size > max_bytes) {
    return fail(ErrorCode::limit, "'" + path.string() + "' has " + std::to_string(size) + " bytes; at most " +
                                      std::to_string(max_bytes) + " are read");
  }
  Bytes out(size);
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::read(file.get(), out.data() + done, out.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return os_error("cannot read", path);
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  out.resize(done);
  return out;
}

Status replace_file(const std::filesystem::path& path, ByteView bytes, FileMode mode) {
  const std::filesystem::path directory = path.has_parent_path() ? path.parent_path() : ".";
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) {
    errno = failure.value();
    return os_error("cannot create", directory);
  }
  std::filesystem::path temporary = path;
  temporary += ".tmp" + std::to_string(::getpid());
  const auto give_up = [&](const char* doing) {
    auto error = os_error(doing, temporary);
    ::unlink(temporary.c_str());
    return error;
  };
  FileDescriptor file(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode == FileMode::secret ? 0600 : 0644));
  if (file.get() < 0) return os_error("cannot create", temporary);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return give_up("cannot write");
    done += static_cast<std::size_t>(n);
  }
  if (::fsync(file.get()) != 0 || !file.close()) return give_up("cannot write");
  if (::rename(temporary.c_str(), path.c_str()) != 0) return give_up("cannot rename");
  FileDescriptor parent(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent.get() < 0 || ::fsync(parent.get()) != 0) return os_error("cannot sync", directory);
  return {};
}

}  // namespace starling
