#include "gossip/sim/storage.h"

namespace starling::sim {

void SimStorage::crash() {
  for (auto& [path, bytes] : safe_) {
    if (bytes) {
      files_.insert_or_assign(path, std::move(*bytes));
    } else {
      files_.erase(path);
    }
  }
  safe_.clear();
}

Result<Bytes> SimStorage::read(std::string_view path) {
  if (health_ == Health::broken)
    return fail(ErrorCode::io, "cannot read " + std::string(path) + ": the disk is broken");
  const auto it = files_.find(path);
  if (it == files_.end()) return fail(ErrorCode::not_found, "there is no file " + std::string(path));
  return it->second;
}

Status SimStorage::replace(std::string_view path, ByteView bytes) {
  switch (health_) {
    case Health::full:
      return fail(ErrorCode::disk_full, "cannot write " + std::string(path) + ": the disk is full");
    case Health::broken:
      return fail(ErrorCode::io, "cannot write " + std::string(path) + ": the disk is broken");
    case Health::forgetful: {
      const auto it = files_.find(path);
      // The oldest bytes count: those between were never safe.
      safe_.emplace(path, it == files_.end() ? std::nullopt : std::optional<Bytes>(it->second));
      break;
    }
    case Health::good:
      safe_.erase(std::string(path));
      break;
  }
  files_.insert_or_assign(std::string(path), Bytes(bytes.begin(), bytes.end()));
  return {};
}

}  // namespace starling::sim
