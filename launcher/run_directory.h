// The directory of a run: <output_dir>/<run.name>/, and what lies in it.
//
//   run.yaml        the resolved configuration with its hash       launch.json   {pid, http, run_id} of the launcher
//   join.token      the line for volunteers, mode 0600             status.json   every 5 s and at the end
//   metrics.jsonl, events.jsonl                                    workers/<name>/ of each local worker
//   tensorboard/    event files: the run as a whole, written by the launcher
//   observer/       the observer's identity, owner.key (secrets, mode 0600), members (records of those it knew last)
//   launch.lock     held by the launcher of the run as long as it lives
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::launcher {

struct RunDirectory {
  std::filesystem::path path;

  std::filesystem::path run_yaml() const { return path / "run.yaml"; }
  std::filesystem::path launch_json() const { return path / "launch.json"; }
  std::filesystem::path token() const { return path / "join.token"; }
  std::filesystem::path status_json() const { return path / "status.json"; }
  std::filesystem::path metrics_jsonl() const { return path / "metrics.jsonl"; }
  std::filesystem::path events_jsonl() const { return path / "events.jsonl"; }
  std::filesystem::path tensorboard() const { return path / "tensorboard"; }
  std::filesystem::path observer() const { return path / "observer"; }
  std::filesystem::path worker(const std::string& name) const { return path / "workers" / name; }
  // `dir`: checkpoint.dir of the run file.
  std::filesystem::path checkpoints(const std::string& dir) const { return path / dir; }
};

// {pid, http, run_id}: where the launcher of a run can be asked.
struct LaunchFile {
  std::int64_t pid = 0;
  std::string http;
  std::string run_id;
};
Status write_launch_file(const RunDirectory& run, const LaunchFile& file);
Result<LaunchFile> read_launch_file(const RunDirectory& run);

// What one launcher at a time may hold. The system gives it back when its holder dies, however that happens.
class RunLock {
 public:
  // Errors: failed (another launcher is alive: says which), io.
  static Result<RunLock> take(const RunDirectory& run);
  RunLock(RunLock&& other) noexcept;
  RunLock& operator=(RunLock&& other) noexcept;
  ~RunLock();

 private:
  explicit RunLock(int fd) : fd_(fd) {}
  int fd_;
};

// observer/members: the signed records of the members that the observer knew last, for whoever takes its place: their keys
// and addresses, not to be believed beyond what their signatures and certificates say. Errors: those of Storage.
Status write_members(const RunDirectory& run, const std::vector<Bytes>& records);
// Empty when there is none.
std::vector<Bytes> read_members(const RunDirectory& run);

// Renames the directory to "<path>.old-1", -2 and so on, and returns the new name. Errors: io.
Result<std::filesystem::path> move_aside(const RunDirectory& run);

// workers/<name>/worker.json: {pid, id, http, exit_code}.
struct WorkerFile {
  std::int64_t pid = 0;
  std::string id;
  std::string http;
  std::optional<int> exit_code;      // null while it runs
};
Status write_worker_file(const std::filesystem::path& directory, const WorkerFile& file);
Result<WorkerFile> read_worker_file(const std::filesystem::path& directory);

// The newest run below `runs`, by its launch.json. Errors: not_found.
Result<RunDirectory> newest_run(const std::filesystem::path& runs);

}  // namespace starling::launcher
