// The seam to the world: clock, storage and event log. Transport and Compute have seams of their own
// (gossip/net/transport.h, trainer/worker/compute.h). Real ones run a process; simulated ones run a whole swarm in one
// thread, in virtual time, from one seed. Deciders see none of this: time goes in with each event.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/time.h"

namespace starling {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  // Seconds since 1970, for log stamps and certificate expiry only.
  virtual double unix_seconds() const = 0;
};

// Small files of one node: identity, boot counter, records. Paths are relative to the node's own directory.
class Storage {
 public:
  virtual ~Storage() = default;
  // Errors: not_found, io.
  virtual Result<Bytes> read(std::string_view path) = 0;
  // Temp file, fsync, rename, fsync of the directory: after a crash the old bytes stand or the new ones.
  // Errors: disk_full, io; the old file then still stands.
  virtual Status replace(std::string_view path, ByteView bytes) = 0;
};

// What a person asks about a run: one JSON line per event in events.jsonl. A value is a text or a number.
struct EventField {
  std::string name;
  std::variant<std::string, double, std::int64_t> value;
};

class EventLog {
 public:
  virtual ~EventLog() = default;
  // Never fails towards the caller: a full disk is counted and said once.
  virtual void write(std::string_view event, const std::vector<EventField>& fields) = 0;
};

}  // namespace starling
