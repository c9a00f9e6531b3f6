#include "metrics/process.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

namespace starling::metrics {
namespace {

// Files of /proc have no size that one could ask for.
std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::optional<double> boot_unix_seconds() {
  std::istringstream lines(read_all("/proc/stat"));
  for (std::string line; std::getline(lines, line);) {
    double value = 0;
    if (line.starts_with("btime ") && std::istringstream(line.substr(6)) >> value) return value;
  }
  return std::nullopt;
}

std::uint64_t max_fds_of(const std::filesystem::path& directory) {
  std::istringstream lines(read_all(directory / "limits"));
  static constexpr std::string_view title = "Max open files";
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(title)) continue;
    std::uint64_t soft = 0;
    if (std::istringstream(line.substr(title.size())) >> soft) return soft;
    return std::numeric_limits<std::uint64_t>::max();  // "unlimited"
  }
  return 0;
}

}  // namespace

Result<ProcessUsage> read_process_usage(pid_t pid) {
  const std::filesystem::path directory =
      std::filesystem::path("/proc") / (pid == this_process ? "self" : std::to_string(pid));
  const std::string stat = read_all(directory / "stat");
  if (stat.empty()) return fail(ErrorCode::not_found, "there is no process " + std::to_string(pid));
  // The second field is the program's name in parentheses and may hold anything, parentheses and blanks included.
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return fail(ErrorCode::io, "/proc has no name for " + std::to_string(pid));
  std::istringstream fields(stat.substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field <= 13; ++field) fields >> skipped;
  std::uint64_t user_ticks = 0, system_ticks = 0, start_ticks = 0, virtual_bytes = 0, resident_pages = 0;
  fields >> user_ticks >> system_ticks;  // fields 14 and 15
  for (int field = 16; field <= 21; ++field) fields >> skipped;
  fields >> start_ticks >> virtual_bytes >> resident_pages;  // fields 22 to 24
  if (!fields) return fail(ErrorCode::io, "/proc says less than expected about " + std::to_string(pid));

  const auto ticks_per_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
  ProcessUsage usage;
  usage.cpu_seconds = static_cast<double>(user_ticks + system_ticks) / ticks_per_second;
  usage.resident_bytes = resident_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  usage.virtual_bytes = virtual_bytes;
  usage.start_unix_seconds = boot_unix_seconds().value_or(0.0) + static_cast<double>(start_ticks) / ticks_per_second;
  usage.max_fds = max_fds_of(directory);
  std::error_code failure;
  for (std::filesystem::directory_iterator at(directory / "fd", failure), end; !failure && at != end;
       at.increment(failure)) {
    ++usage.open_fds;
  }
  return usage;
}

double thread_cpu_seconds() {
  double nanoseconds = 0.0;
  std::istringstream(read_all("/proc/thread-self/schedstat")) >> nanoseconds;
  return nanoseconds / 1e9;
}

}  // namespace starling::metrics
