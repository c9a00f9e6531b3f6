// Which worker holds which stage when one is lost, and who keeps copies of whose weights.
//
// Backups: after each round one replica of each stage offers its phi in bf16 to two workers of other stages (with one
// stage: to two replicas of it), both drawn in an order hashed from the round, never two of one host if avoidable. So the
// cost is one copy of a stage's phi per round and stage, not per worker.
//
// Takeover: when the last replica of a stage has been dead for 5 s, the workers of the best-covered stage (at least two
// replicas; for stage 0 a middle stage may give its last one, and only workers that have data can take it) claim it, in a
// hashed order, 2 s apart, by a mark in their record. Two claims: the smaller hash wins. The taker keeps its old stage
// until the new one is loaded: from the newest backup, else (middle stages) CheckFree's average of the neighbours; until
// the first round has ended, when no slow weight has moved yet, weights from the seed. (What it is worth: a stage of four
// lost at a third of a run costs 9 % in loss, taken over from any stored copy about 1 %.)
//
//   settled -> claiming -> loading -> switched;   claiming | loading -> settled (lost to a smaller hash, stage is back)
//
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"

namespace starling::pipeline {

struct BackupPlan {
  NodeId sender;                 // null: nobody holds the stage
  std::vector<NodeId> holders;   // at most two
};
BackupPlan plan_backup(std::uint64_t seed, Round round, Stage stage, const membership::Swarm& swarm);

// Holders of a copy of this stage, newest copy first, then by id.
std::vector<NodeId> backup_holders(const membership::Swarm& swarm, Stage stage);

class Placement {
 public:
  struct Config {
    NodeId self;
    std::uint64_t seed = 0;
    std::int64_t stages = 4;
    Duration dead_for = std::chrono::seconds(5);
    Duration stagger = std::chrono::seconds(2);
  };

  struct Look {};                // the swarm or the time changed
  struct Loaded {                // the load that Load asked for succeeded: the stage is ours now
    Stage stage = 0;
  };
  struct LoadFailed {
    Stage stage = 0;
  };
  struct WokeLate {};
  using Event = std::variant<Look, Loaded, LoadFailed, WokeLate>;

  struct Claim {                 // publish it in the record
    Stage stage = no_stage;      // no_stage: take the claim back
  };
  struct Load {                  // get the stage's state, newest backup first
    Stage stage = 0;
  };
  struct CancelLoad {};          // a smaller hash claims it, or the stage lives again
  using Action = std::variant<Claim, Load, CancelLoad>;

  explicit Placement(Config config) : config_(config) {}
  // `own`: the stage held now; `may_move`: active, training has started, not copying already.
  enum class MayMove { no, yes };
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, Stage own, MayMove may_move, TimePoint now);
  TimePoint next_deadline() const { return next_; }
  std::optional<Stage> claimed() const { return claimed_; }

 private:
  std::uint64_t rank(Stage stage, const NodeId& id) const;
  // Workers that may take the stage, first one first.
  std::vector<NodeId> candidates(Stage stage, const membership::Swarm& swarm) const;
  bool taken_care_of(Stage stage, const membership::Swarm& swarm) const;
  bool lost_to_other(Stage stage, const membership::Swarm& swarm) const;

  Config config_;
  std::map<Stage, TimePoint> empty_since_;
  std::optional<Stage> claimed_;
  TimePoint next_ = never;
};

}  // namespace starling::pipeline
