// The log of a process: what a person reads when something went wrong. What a person asks about the run itself is an
// event (EventLog) or a metric, not a log line.
//
// One line per message, whatever peers put into it, on stderr or in a file that is rotated, so a log can never fill a
// disk. Nothing here throws or fails towards the caller: a line that cannot be written is counted, and that is said
// once on stderr. Keys and tokens are never to be logged; as a second fence, whatever looks like one (a run of 43
// characters or more of the alphabets of hex and URL-safe base64: 32 bytes or more) is cut to its first eight.
//
// Any thread may log. A line costs a few microseconds and one write to the page cache; the loop thread logs what a
// person should know, not what happens per microbatch.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "gossip/base/error.h"

namespace starling {

enum class LogLevel { debug, info, warning, error, off };

inline constexpr std::size_t max_log_message_bytes = 4096;

struct LogConfig {
  LogLevel level = LogLevel::info;
  std::filesystem::path file;                 // empty: stderr
  std::uint64_t max_file_bytes = 8ULL << 20;  // a full file becomes log.1.txt, and so on
  std::size_t old_files = 2;                  // how many of those are kept
};

// From now on lines go there. Before the first call, and after a failed one, the log is what it was; at first that is
// stderr from level info. Folders on the way are made. Errors: io. REQUIRES: no other thread logs meanwhile.
Status open_log(const LogConfig& config);

bool log_enabled(LogLevel level) noexcept;
// REQUIRES: level is not off.
void write_log(LogLevel level, std::string_view message) noexcept;
// As write_log; `format` and its arguments as fmt takes them.
void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments) noexcept;

// How many lines could not be written since the start of the process.
std::uint64_t lost_log_lines() noexcept;

// What write_log makes of a message: one printable line, secrets cut, at most max_log_message_bytes.
std::string log_text(std::string_view message);

template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... arguments) noexcept {
  if (log_enabled(LogLevel::debug)) write_log(LogLevel::debug, format, fmt::make_format_args(arguments...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... arguments) noexcept {
  if (log_enabled(LogLevel::info)) write_log(LogLevel::info, format, fmt::make_format_args(arguments...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... arguments) noexcept {
  if (log_enabled(LogLevel::warning)) write_log(LogLevel::warning, format, fmt::make_format_args(arguments...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... arguments) noexcept {
  if (log_enabled(LogLevel::error)) write_log(LogLevel::error, format, fmt::make_format_args(arguments...));
}

}  // namespace starling
