// One file of a checkpoint, written from its first byte to its last, hashed on the way and synced at its end.
//
// A write or an fsync that fails once has failed for good: after a failed fsync the system may have dropped what it could
// not write, so that trying again would succeed and mean nothing. Every later call gives the same error.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::trainer {

// The two calls by which a disk says that it cannot. A test hands in one that fails.
class Disk {
 public:
  virtual ~Disk() = default;
  // As write(2) and fsync(2), errno included.
  virtual ssize_t write(int file, const void* bytes, std::size_t size);
  virtual int fsync(int file);
  static Disk& real();
};

struct FileDigest {
  std::int64_t bytes = 0;
  Hash128 hash{};  // XXH3-128
};

class OutputFile {
 public:
  // Creates `path`, which must not exist. Errors: io, disk_full, not_found (its folder).
  static Result<OutputFile> create(const std::filesystem::path& path, Disk& disk);
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();  // closes; what was not finished is whole by chance only

  // Errors: disk_full, io.
  Status append(ByteView bytes);
  // Syncs and closes. Errors: disk_full, io. REQUIRES: not finished before.
  Result<FileDigest> finish();

 private:
  struct Hasher;
  OutputFile(std::filesystem::path path, Disk& disk, int file);
  tl::unexpected<Error> failed(const char* doing);

  std::filesystem::path path_;
  Disk* disk_;
  int file_;
  std::int64_t bytes_ = 0;
  std::unique_ptr<Hasher> hasher_;
  std::optional<Error> error_;
};

// The whole of a small file. Errors: those of OutputFile.
Result<FileDigest> write_whole(const std::filesystem::path& path, ByteView bytes, Disk& disk);
// Makes names that were created or renamed in `directory` last. Errors: io.
Status sync_directory(const std::filesystem::path& directory, Disk& disk);

}  // namespace starling::trainer
