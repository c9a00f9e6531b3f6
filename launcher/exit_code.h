// What the process tells the shell. One meaning per number, the same for every command.
#pragma once

#include "gossip/base/error.h"

namespace starling::launcher {

enum class ExitCode : int {
  ok = 0,
  failed = 1,
  usage = 2,           // the command line itself
  bad_config = 3,      // a run file, a --set or a STARLING_ variable
  unreachable = 4,     // nobody answers, or a key or token does not hold
  found_problems = 5,  // a check ran, and did not like what it saw
  interrupted = 130,   // Ctrl-C
};

constexpr ExitCode exit_code_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::usage:
      return ExitCode::usage;
    case ErrorCode::bad_config:
      return ExitCode::bad_config;
    case ErrorCode::unauthenticated:
    case ErrorCode::unreachable:
      return ExitCode::unreachable;
    case ErrorCode::bad_input:
    case ErrorCode::not_found:
    case ErrorCode::io:
    case ErrorCode::disk_full:
    case ErrorCode::limit:
    case ErrorCode::failed:
      return ExitCode::failed;
  }
  return ExitCode::failed;
}

}  // namespace starling::launcher
