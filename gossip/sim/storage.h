// A node's small files in memory. They survive its crash, as a disk does, and can be told to fail as disks fail.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "gossip/base/env.h"

namespace starling::sim {

class SimStorage final : public Storage {
 public:
  enum class Health {
    good,
    full,       // replace: disk_full, the old bytes stand
    broken,     // everything: io
    forgetful,  // replace says it is done, but only what was written while good outlives the next crash
  };

  void set_health(Health health) { health_ = health; }
  // The node's process died: writes that the disk only claimed to have made are gone.
  void crash();

  Result<Bytes> read(std::string_view path) override;
  Status replace(std::string_view path, ByteView bytes) override;

  // Whole-disk questions of tests.
  std::size_t files() const { return files_.size(); }

 private:
  using Files = std::map<std::string, Bytes, std::less<>>;

  Health health_ = Health::good;
  Files files_;
  // What a crash brings back: per path that was written while forgetful, its last safe bytes, or none.
  std::map<std::string, std::optional<Bytes>, std::less<>> safe_;
};

}  // namespace starling::sim
