// The bytes of one file of data, wherever it lies. Reading may fail at any time: a file can be far away.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::trainer {

class ByteFile {
 public:
  enum class Distance {
    here,  // may be read from end to end to check it
    far,   // every byte costs
  };
  virtual ~ByteFile() = default;
  virtual const std::string& name() const = 0;
  virtual std::int64_t size() const = 0;
  virtual Distance distance() const = 0;
  // Bytes offset .. offset + out.size(). REQUIRES: they are inside [0, size()). Errors: io, unreachable, bad_input (it is no
  // longer the file that it was); each begins with the name. Thread: one at a time, also of files that share a cache.
  virtual Status read(std::int64_t offset, std::span<std::byte> out) const = 0;
};

// A read-only mapping of a whole regular file. The file must not be cut off while it is mapped.
class MappedFile {
 public:
  // Errors: not_found, io, bad_input (a folder or a device, or empty).
  static Result<MappedFile> open(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  ByteView bytes() const { return {data_, size_}; }

 private:
  MappedFile(const std::byte* data, std::size_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// A file of this machine, mapped. Errors: those of MappedFile::open.
Result<std::shared_ptr<const ByteFile>> open_local(const std::filesystem::path& path);

}  // namespace starling::trainer
