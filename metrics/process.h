// What the operating system says about a process, read from /proc.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "gossip/base/error.h"

namespace starling::metrics {

struct ProcessUsage {
  double cpu_seconds = 0.0;  // user and system
  std::uint64_t resident_bytes = 0;
  std::uint64_t virtual_bytes = 0;
  std::uint64_t open_fds = 0;  // 0 for a process of another user
  std::uint64_t max_fds = 0;
  double start_unix_seconds = 0.0;
};

inline constexpr pid_t this_process = 0;

// Takes some tens of microseconds. Errors: not_found (no such process), io.
Result<ProcessUsage> read_process_usage(pid_t pid = this_process);

// Processor time of the calling thread, in seconds; 0 where the kernel does not count it.
double thread_cpu_seconds();

}  // namespace starling::metrics
