#include "trainer/data/byte_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace starling::trainer {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

class LocalFile : public ByteFile {
 public:
  LocalFile(std::string name, MappedFile file) : name_(std::move(name)), file_(std::move(file)) {}
  const std::string& name() const override { return name_; }
  std::int64_t size() const override { return static_cast<std::int64_t>(file_.bytes().size()); }
  Distance distance() const override { return Distance::here; }
  Status read(std::int64_t offset, std::span<std::byte> out) const override {
    const ByteView from = file_.bytes().subspan(static_cast<std::size_t>(offset), out.size());
    std::copy(from.begin(), from.end(), out.begin());
    return {};
  }

 private:
  std::string name_;
  MappedFile file_;
};

}  // namespace

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

Result<std::shared_ptr<const ByteFile>> open_local(const std::filesystem::path& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  return std::make_shared<const LocalFile>(path.string(), std::move(*file));
}

}  // namespace starling::trainer
