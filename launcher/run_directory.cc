#include "launcher/run_directory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "gossip/base/real_env.h"

namespace starling::launcher {
namespace {

constexpr std::uint64_t most_json_bytes = 64 << 10;
constexpr std::string_view members_file = "members";
constexpr std::size_t most_record_bytes = 4 << 10;

Status write_json(const std::filesystem::path& path, const nlohmann::ordered_json& json) {
  return replace_file(path,
                      as_bytes(json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n"));
}

Result<nlohmann::json> read_json(const std::filesystem::path& path) {
  const auto bytes = read_file(path, most_json_bytes);
  if (!bytes) return tl::unexpected(bytes.error());
  auto json = nlohmann::json::parse(as_text(*bytes), nullptr, false);
  if (!json.is_object()) return fail(ErrorCode::bad_input, "'" + path.string() + "' is not a JSON object");
  return json;
}

template <typename T>
T get(const nlohmann::json& json, const char* key, T otherwise) {
  const auto it = json.find(key);
  if (it == json.end()) return otherwise;
  if constexpr (std::is_integral_v<T>) {
    return it->is_number_integer() ? it->get<T>() : otherwise;
  } else {
    return it->is_string() ? it->get<T>() : otherwise;
  }
}

}  // namespace

Status write_launch_file(const RunDirectory& run, const LaunchFile& file) {
  nlohmann::ordered_json json;
  json["pid"] = file.pid;
  json["http"] = file.http;
  json["run_id"] = file.run_id;
  return write_json(run.launch_json(), json);
}

Result<LaunchFile> read_launch_file(const RunDirectory& run) {
  const auto json = read_json(run.launch_json());
  if (!json) return tl::unexpected(json.error());
  return LaunchFile{get<std::int64_t>(*json, "pid", 0), get<std::string>(*json, "http", ""),
                    get<std::string>(*json, "run_id", "")};
}

Result<RunLock> RunLock::take(const RunDirectory& run) {
  const std::filesystem::path path = run.path / "launch.lock";
  RunLock lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (lock.fd_ < 0) return fail(ErrorCode::io, "cannot open '" + path.string() + "': " + std::strerror(errno));
  if (::flock(lock.fd_, LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno != EWOULDBLOCK) return fail(ErrorCode::io, "cannot lock '" + path.string() + "': " + std::strerror(errno));
  const auto other = read_launch_file(run);
  return fail(
      ErrorCode::failed,
      fmt::format("the run in '{}' has a launcher already{}; watch it with starling status, or end the run with "
                  "Ctrl-C there",
                  run.path.string(), other ? fmt::format(" (pid {})", other->pid) : ""));
}

RunLock::RunLock(RunLock&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

RunLock& RunLock::operator=(RunLock&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

RunLock::~RunLock() {
  if (fd_ >= 0) ::close(fd_);
}

Status write_members(const RunDirectory& run, const std::vector<Bytes>& records) {
  ByteWriter out;
  for (const Bytes& record : records) out.blob(record);
  return RealStorage(run.observer()).replace(members_file, out.bytes());
}

std::vector<Bytes> read_members(const RunDirectory& run) {
  std::vector<Bytes> out;
  const auto bytes = RealStorage(run.observer()).read(members_file);
  if (!bytes) return out;
  for (std::size_t at = 0; at < bytes->size();) {
    ByteReader in(ByteView(*bytes).subspan(at));
    const ByteView record = in.blob(most_record_bytes);
    if (!in.ok()) break;
    out.emplace_back(record.begin(), record.end());
    at += sizeof(std::uint32_t) + record.size();
  }
  return out;
}

Result<std::filesystem::path> move_aside(const RunDirectory& run) {
  for (int number = 1;; ++number) {
    const std::filesystem::path aside = run.path.string() + fmt::format(".old-{}", number);
    std::error_code failure;
    if (std::filesystem::exists(aside, failure)) continue;
    std::filesystem::rename(run.path, aside, failure);
    if (failure) return fail(ErrorCode::io, "cannot move '" + run.path.string() + "' aside: " + failure.message());
    return aside;
  }
}

Status write_worker_file(const std::filesystem::path& directory, const WorkerFile& file) {
  nlohmann::ordered_json json;
  json["pid"] = file.pid;
  json["id"] = file.id;
  json["http"] = file.http;
  if (file.exit_code) {
    json["exit_code"] = *file.exit_code;
  } else {
    json["exit_code"] = nullptr;
  }
  return write_json(directory / "worker.json", json);
}

Result<WorkerFile> read_worker_file(const std::filesystem::path& directory) {
  const auto json = read_json(directory / "worker.json");
  if (!json) return tl::unexpected(json.error());
  WorkerFile out{get<std::int64_t>(*json, "pid", 0), get<std::string>(*json, "id", ""),
                 get<std::string>(*json, "http", ""), std::nullopt};
  if (json->contains("exit_code") && (*json)["exit_code"].is_number_integer())
    out.exit_code = (*json)["exit_code"].get<int>();
  return out;
}

Result<RunDirectory> newest_run(const std::filesystem::path& runs) {
  std::optional<RunDirectory> newest;
  std::filesystem::file_time_type newest_time;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(runs, failure)) {
    const RunDirectory run{entry.path()};
    std::error_code missing;
    const auto time = std::filesystem::last_write_time(run.launch_json(), missing);
    if (missing || (newest && time <= newest_time)) continue;
    newest = run;
    newest_time = time;
  }
  if (newest) return *newest;
  return fail(ErrorCode::not_found, "no run in '" + runs.string() + "': name a run's directory or its address");
}

}  // namespace starling::launcher
