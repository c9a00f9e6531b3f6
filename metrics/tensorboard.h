// Event files that `tensorboard --logdir` reads.
//
// A file is a sequence of records: length (8 bytes), its checksum, a tensorflow.Event as protocol buffer, its checksum. All
// little-endian; checksums are CRC-32C, masked as TFRecord masks them. The first event holds the format's version. The
// second is SessionLog START with the step that comes next: what an earlier file of the folder has of that step and later
// is not shown any more, so a run that went back to a checkpoint has each step once.
// Source: tensorboard's event.proto, summary.proto and record layout ("brain.Event:2").
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"

namespace starling::metrics {

struct Scalar {
  std::string_view tag;  // train/loss
  double value = 0.0;
};

// One file in the folder of a run. One thread.
class TensorBoardFile {
 public:
  // Makes `folder` and a file in it whose name sorts behind those that are there; `first_step` is the step that comes
  // first. Errors: disk_full, io.
  static Result<TensorBoardFile> create(const std::filesystem::path& folder, double unix_seconds, Step first_step);
  TensorBoardFile(TensorBoardFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  TensorBoardFile& operator=(TensorBoardFile&&) = delete;
  ~TensorBoardFile();

  // One event. It is in the file when this returns. A write that fails is cut off again, so that readers go on behind it,
  // and said once; the event is lost.
  void add(double unix_seconds, Step step, const std::vector<Scalar>& scalars);

  const std::filesystem::path& path() const { return path_; }

 private:
  TensorBoardFile(std::filesystem::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  // Errors: disk_full, io; the file is as before.
  Status append(std::string_view event);

  std::filesystem::path path_;
  int fd_;
  bool said_ = false;
};

// CRC-32C (Castagnoli), not masked.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace starling::metrics
