// Who may run what lies in a run's directory: a new run, one whose launcher died, or nobody because a launcher lives.
//
//   no such directory, an empty one, or an old run to be moved aside  -> a new run
//   what a launch left that failed before its run began  -> a new run
//   members that may live and no launcher               -> that run, with its stored keys
//   nobody left of the run, and a checkpoint            -> likewise; it goes on from there
//   a launcher that lives, or nobody left and no checkpoint  -> an error with the fix
#pragma once

#include <filesystem>
#include <optional>
#include <ostream>

#include "gossip/base/error.h"
#include "launcher/run_directory.h"
#include "launcher/run_keys.h"

namespace starling::launcher {

struct Claim {
  RunLock lock;                 // held as long as the launcher lives
  std::optional<KeptRun> kept;  // none: a new run, in an empty directory
};

enum class OldRun { take_up, move_aside };

// `err` hears where an old run went. Errors: failed, io.
Result<Claim> claim_directory(const RunDirectory& directory, OldRun old_run, std::ostream& err);

// Where a run goes on of which nobody is left.
struct ResumePoint {
  std::filesystem::path path;   // of the checkpoint
  Step step = 0;
};
// The newest checkpoint of the run that holds; newer ones that do not are named on `err`. None: there is no checkpoint.
// Errors: bad_input: there are some and none of them holds; failed: it is of the run's last step.
Result<std::optional<ResumePoint>> resume_point(const RunDirectory& directory, const RunConfig& config, std::ostream& err);

// The configuration under which a kept run goes on: what it was started with holds, whatever the run file says by now; only
// where this launcher listens is its own affair. A difference that has no effect is said on `err`.
RunConfig config_of(const KeptRun& kept, const RunConfig& given, std::ostream& err);

}  // namespace starling::launcher
