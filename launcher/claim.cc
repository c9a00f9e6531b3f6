#include "launcher/claim.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "launcher/config_yaml.h"
#include "launcher/supervisor.h"
#include "trainer/checkpoint/checkpoint_directory.h"

namespace starling::launcher {

namespace {

// Nothing there yet, or what a launch left that failed before its run began, such as one whose port was taken.
bool holds_no_run(const RunDirectory& directory) {
  static const std::set<std::string> before_a_run{"launch.lock", "launch.log", "observer", "run.yaml"};
  std::error_code failure;
  const std::filesystem::directory_iterator entries(directory.path, failure);
  return !failure && std::all_of(begin(entries), end(entries), [](const auto& entry) {
    return before_a_run.contains(entry.path().filename().string());
  });
}

bool resumable(const RunDirectory& directory, const RunConfig& config) {
  std::error_code failure;
  const std::filesystem::directory_iterator entries(directory.checkpoints(config.checkpoint.dir), failure);
  return !failure && config.checkpoint.resume == "auto" && std::any_of(begin(entries), end(entries), [](const auto& entry) {
    return entry.path().filename().string().starts_with("step-");
  });
}

}  // namespace

Result<std::optional<ResumePoint>> resume_point(const RunDirectory& directory, const RunConfig& config, std::ostream& err) {
  if (!resumable(directory, config)) return std::optional<ResumePoint>();
  auto newest = trainer::newest_good(directory.checkpoints(config.checkpoint.dir), &config.model);
  if (!newest) return tl::unexpected(newest.error());
  for (const std::string& why : newest->passed_over) err << "passed over: " << why << "\n";
  const trainer::Manifest& manifest = newest->checkpoint.manifest();
  if (manifest.cut != config.stage_layers()) {
    return fail(ErrorCode::bad_input, fmt::format("'{}' is cut into other stages than the run", newest->checkpoint.path().string()));
  }
  if (manifest.step >= config.planned_steps()) {
    return fail(ErrorCode::failed,
                fmt::format("the run in '{}' has reached its last step; its model is in '{}'. Give --fresh to move the run aside "
                            "and start a new one, or set run.name to another name",
                            directory.path.string(), newest->checkpoint.path().string()));
  }
  return ResumePoint{newest->checkpoint.path(), manifest.step};
}

Result<Claim> claim_directory(const RunDirectory& directory, OldRun old_run, std::ostream& err) {
  std::error_code failure;
  const std::string quoted = "'" + directory.path.string() + "'";
  static constexpr std::string_view fix =
      "give --fresh to move it aside and start a new one, or set run.name to another name";
  if (std::filesystem::exists(directory.path, failure)) {
    auto lock = RunLock::take(directory);
    if (!lock) return tl::unexpected(lock.error());
    if (holds_no_run(directory)) return Claim{std::move(*lock), std::nullopt};
    const auto workers = living_workers(directory.path);
    if (old_run == OldRun::take_up) {
      auto kept = read_run(directory);
      const bool nobody = workers.empty() && read_members(directory).empty();
      if (nobody && !(kept && resumable(directory, kept->config))) {
        return fail(ErrorCode::failed,
                    fmt::format("{} holds a run already, of which nobody is left and no checkpoint is there; {}", quoted, fix));
      }
      if (!kept) {
        return fail(ErrorCode::failed,
                    fmt::format("{} holds a run whose place cannot be taken: {}; put that right, or {}", quoted,
                                kept.error().message, fix));
      }
      return Claim{std::move(*lock), std::move(*kept)};
    }
    if (!workers.empty()) {
      std::string list;
      for (const auto& [name, pid] : workers) list += fmt::format("{}{} (pid {})", list.empty() ? "" : ", ", name, pid);
      return fail(ErrorCode::failed,
                  fmt::format("the run in {} goes on: {}; launch without --fresh to take it up again, "
                              "there Ctrl-C ends it; or end these processes first",
                              quoted, list));
    }
    const auto aside = move_aside(directory);
    if (!aside) return tl::unexpected(aside.error());
    err << "the old run is now in " << aside->string() << "\n";
  }
  std::filesystem::create_directories(directory.path, failure);
  if (failure) return fail(ErrorCode::io, "cannot create " + quoted + ": " + failure.message());
  auto lock = RunLock::take(directory);
  if (!lock) return tl::unexpected(lock.error());
  return Claim{std::move(*lock), std::nullopt};
}

RunConfig config_of(const KeptRun& kept, const RunConfig& given, std::ostream& err) {
  RunConfig same = given;
  same.network = kept.config.network;
  same.http = kept.config.http;
  if (run_spec(same) != kept.keys.spec) {
    err << "the run file is not the one that the run was started with (its run.yaml); the difference has no effect\n";
  }
  RunConfig out = kept.config;
  out.network = given.network;
  out.http = given.http;
  return out;
}

}  // namespace starling::launcher
