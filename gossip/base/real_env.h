// The real clock and the real disk: the only file of the loop's side that reads either.
#pragma once

#include <filesystem>

#include "gossip/base/env.h"

namespace starling {

class RealClock final : public Clock {
 public:
  TimePoint now() const override;
  double unix_seconds() const override;
};

class RealStorage final : public Storage {
 public:
  explicit RealStorage(std::filesystem::path directory) : directory_(std::move(directory)) {}
  Result<Bytes> read(std::string_view path) override;
  Status replace(std::string_view path, ByteView bytes) override;

 private:
  std::filesystem::path directory_;
};

// Reads a whole regular file of at most `max_bytes`. Errors: not_found, io, limit (names size and bound).
Result<Bytes> read_file(const std::filesystem::path& path, std::uint64_t max_bytes);

enum class FileMode { normal, secret };  // 0644 | 0600
// As Storage::replace, for an absolute or relative path.
Status replace_file(const std::filesystem::path& path, ByteView bytes, FileMode mode = FileMode::normal);

}  // namespace starling
