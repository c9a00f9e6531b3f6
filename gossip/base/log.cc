#include "gossip/base/log.h"

#include <fmt/format.h>
#include <spdlog/logger.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>

#include <atomic>
#include <cstdio>
#include <memory>

#include "gossip/base/printable.h"

namespace starling {
namespace {

std::atomic<std::uint64_t> lost_lines{0};

// Called in place of every exception that a sink throws, such as on a full disk.
void count_lost_line(std::string_view why) noexcept {
  if (lost_lines.fetch_add(1) == 0) {
    std::fprintf(stderr, "starling: the log cannot be written (%.*s); further lines that are lost are only counted\n",
                 static_cast<int>(why.size()), why.data());
  }
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
    case LogLevel::off:
      return spdlog::level::off;
  }
  return spdlog::level::off;
}

std::shared_ptr<spdlog::logger> make_logger(std::shared_ptr<spdlog::sinks::sink> sink, LogLevel level) {
  auto logger = std::make_shared<spdlog::logger>("starling", std::move(sink));
  // UTC, because one reads the logs of machines in several time zones side by side.
  logger->set_formatter(
      std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %-7l %v", spdlog::pattern_time_type::utc));
  logger->set_level(to_spdlog(level));
  // A line that is still in a buffer when the process is killed is the one that one wants.
  logger->flush_on(spdlog::level::trace);
  logger->set_error_handler([](const std::string& why) { count_lost_line(why); });
  return logger;
}

std::shared_ptr<spdlog::logger>& current_logger() {
  static std::shared_ptr<spdlog::logger> logger =
      make_logger(std::make_shared<spdlog::sinks::stderr_sink_mt>(), LogLevel::info);
  return logger;
}

bool of_key_alphabet(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '+' || c == '-' ||
         c == '_' || c == '=';
}

// 32 bytes take 43 characters in base64, 64 in hex.
std::string without_secrets(std::string_view text) {
  static constexpr std::size_t shortest_secret = 43;
  static constexpr std::size_t kept = 8;
  std::string out;
  while (!text.empty()) {
    std::size_t run = 0;
    while (run < text.size() && of_key_alphabet(text[run])) ++run;
    if (run >= shortest_secret) {
      out.append(text.substr(0, kept)).append("...");
    } else {
      run = run == 0 ? 1 : run;
      out.append(text.substr(0, run));
    }
    text.remove_prefix(run);
  }
  return out;
}

}  // namespace

Status open_log(const LogConfig& config) {
  try {
    std::shared_ptr<spdlog::sinks::sink> sink;
    if (config.file.empty()) {
      sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
    } else {
      sink = std::make_shared<spdlog::sinks::rotating_file_sink_mt>(config.file.string(), config.max_file_bytes,
                                                                    config.old_files);
    }
    current_logger() = make_logger(std::move(sink), config.level);
    return {};
  } catch (const std::exception& failure) {
    return fail(ErrorCode::io, "cannot open the log '" + config.file.string() + "': " + failure.what());
  }
}

bool log_enabled(LogLevel level) noexcept { return current_logger()->should_log(to_spdlog(level)); }

std::string log_text(std::string_view message) { return printable(without_secrets(message), max_log_message_bytes); }

void write_log(LogLevel level, std::string_view message) noexcept {
  STARLING_CHECK(level != LogLevel::off, "a line has a level");
  try {
    if (!log_enabled(level)) return;
    current_logger()->log(to_spdlog(level), spdlog::string_view_t(log_text(message)));
  } catch (const std::exception& failure) {
    count_lost_line(failure.what());
  }
}

void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments) noexcept {
  try {
    write_log(level, std::string_view(fmt::vformat(format, arguments)));
  } catch (const std::exception& failure) {
    count_lost_line(failure.what());
  }
}

std::uint64_t lost_log_lines() noexcept { return lost_lines.load(); }

}  // namespace starling
