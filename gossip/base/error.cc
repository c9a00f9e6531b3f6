#include "gossip/base/error.h"

#include <cstdio>
#include <cstdlib>

namespace starling {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_config: return "bad_config";
    case ErrorCode::usage: return "usage";
    case ErrorCode::bad_input: return "bad_input";
    case ErrorCode::not_found: return "not_found";
    case ErrorCode::io: return "io";
    case ErrorCode::disk_full: return "disk_full";
    case ErrorCode::unauthenticated: return "unauthenticated";
    case ErrorCode::unreachable: return "unreachable";
    case ErrorCode::limit: return "limit";
    case ErrorCode::failed: return "failed";
  }
  return "failed";
}

void check_failed(const char* file, int line, const char* expression, const char* why) {
  std::fprintf(stderr, "%s:%d: check failed: %s (%s)\n", file, line, expression, why);
  std::fflush(stderr);
  std::abort();
}

}  // namespace starling
