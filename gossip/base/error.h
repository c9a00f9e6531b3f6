// Errors as values, and checks for our own bugs.
//
// Whatever a peer, a file or a user gave can be wrong, so code that reads it returns Result<T>. A message says what was
// expected, what came, and what to change. STARLING_CHECK is for what only a bug of ours can make false: it is always on
// and ends the process. Exceptions of libraries (zmq, c10, yaml) stop in the file where they rise.
#pragma once

#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace starling {

enum class ErrorCode {
  bad_config,       // a run file, flag or environment variable: exit code 3
  usage,            // the command line itself: exit code 2
  bad_input,        // a data file or a message that is not what it should be
  not_found,        // a file or a peer that is not there
  io,               // the operating system refused
  disk_full,        // no space left; what stood before still stands
  unauthenticated,  // a signature, key or token that does not hold: exit code 4
  unreachable,      // nobody answers: exit code 4
  limit,            // a bound of ours was reached
  failed,           // anything else: exit code 1
};

std::string_view to_string(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::failed;
  std::string message;
};

template <typename T>
using Result = tl::expected<T, Error>;
using Status = Result<void>;

inline tl::unexpected<Error> fail(ErrorCode code, std::string message) {
  return tl::unexpected<Error>(Error{code, std::move(message)});
}

[[noreturn]] void check_failed(const char* file, int line, const char* expression, const char* why);

}  // namespace starling

// REQUIRES: `condition` can only be false through a bug in this program.
#define STARLING_CHECK(condition, why)                                  \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::starling::check_failed(__FILE__, __LINE__, #condition, why);    \
  } while (false)
