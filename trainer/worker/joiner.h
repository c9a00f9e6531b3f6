// Getting into a run: knock at the seeds, one after the other, until one opens.
//
// A joiner knows a token's seeds, keys and nothing of the run: the model, the data and the stage it is to hold come with the
// answer. So this happens before there is a Worker, on the same transport, and hands the Welcome to it.
//
//   knocking -> welcomed | refused;   no answer, or "busy": the next seed, 3 s after the last knock
//
// Loop thread only.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "gossip/base/time.h"
#include "gossip/membership/record.h"
#include "gossip/net/transport.h"
#include "trainer/worker/credentials.h"

namespace starling::trainer {

// A place to knock at.
struct SeedAddress {
  NodeId node;
  std::string lobby;
};

class Joiner {
 public:
  struct Config {
    std::vector<SeedAddress> seeds;
    Duration between_knocks = std::chrono::seconds(3);
    Duration give_up_after = std::chrono::minutes(5);
  };
  // `record`: what this node says of itself before it has a stage. REQUIRES: at least one seed.
  Joiner(Config config, membership::Record record, Credentials& credentials, net::Transport& transport, TimePoint now);

  void on(const net::LobbyAnswered& event, TimePoint now);
  void tick(TimePoint now);
  TimePoint next_deadline() const { return outcome_ ? never : knock_at_; }

  // Why nobody has opened yet, for a person; empty: no answer came at all.
  const std::string& last_refusal() const { return last_refusal_; }
  // Unset while it knocks. Errors: unauthenticated (final at the first seed that says so), unreachable.
  const std::optional<Result<Credentials::Welcome>>& outcome() const { return outcome_; }

 private:
  void knock(TimePoint now);

  Config config_;
  membership::Record record_;
  Credentials& credentials_;
  net::Transport& transport_;
  TimePoint knock_at_;
  TimePoint give_up_at_;
  std::size_t next_seed_ = 0;
  std::string last_refusal_;
  std::optional<Result<Credentials::Welcome>> outcome_;
};

}  // namespace starling::trainer
