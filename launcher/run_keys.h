// What the owner of a run holds: the keys, the join token, and what only the owner can sign.
//
// A run is founded once: keys are drawn, the observer gets its identity, run.yaml is written, and when the sockets are
// bound the token. All of it lies in the run's directory, so that another launcher can take the place of one that died:
// the same owner and observer keys, the same lobby key (it is part of the token), the same run file.
#pragma once

#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/net/identity.h"
#include "gossip/net/token.h"
#include "launcher/run_config.h"
#include "launcher/run_directory.h"

namespace starling::launcher {

struct RunKeys {
  net::NodeKey owner;
  RunId run;
  net::CurveKeyPair lobby_key;
  std::string spec;  // what newcomers get to know of the run
};

// Draws the keys of a new run and keeps them, the observer's identity and run.yaml in `directory`.
// Errors: those of Storage.
Result<RunKeys> found_run(const RunDirectory& directory, const RunConfig& config);

// A join line that was given out before. It may have expired.
struct KeptToken {
  std::string line;
  std::vector<net::Seed> seeds;  // at least one
  std::int64_t expiry = 0;       // seconds since 1970
};

// A run that was founded before, as its directory has it.
struct KeptRun {
  RunKeys keys;
  RunConfig config;
  KeptToken token;
};
// Errors: not_found, io, bad_config (run.yaml was changed), bad_input (a damaged file, or files of different runs).
Result<KeptRun> read_run(const RunDirectory& directory);

// The observer's certificate, signed by the owner: it may admit newcomers.
Bytes certify_observer(const RunKeys& run, const NodeId& observer, double unix_seconds);
// A local worker's identity folder, made by the owner: it may admit newcomers too, so that the run does not need the
// observer. Errors: those of Storage.
Status make_worker_identity(const RunDirectory& directory, const RunKeys& run, const std::string& name,
                            double unix_seconds);

// A line with which workers join through `seeds`, for seven days, written to the run's join.token.
// Errors: those of Storage.
Result<std::string> issue_token(const RunDirectory& directory, const RunKeys& run, std::vector<net::Seed> seeds,
                                double unix_seconds);

}  // namespace starling::launcher
