// Which replica does a microbatch visit next.
//
// `permutation` (as NoLoCo's): the hop from replica i of stage s goes to perm(i mod n) of stage s + 1, perm drawn from
// (run seed, step, index, stage), replicas sorted by id. Uniform; for parity tests and equal machines.
// `adaptive`: two random candidates, the one with the least expected completion time:
//   max(0, reported work + own sends since the report - time since) + its forward + link.
// Two random choices, not the best of all: with reports a second old, everybody would rush to the same idle machine.
// (Mitzenmacher, "The power of two choices in randomized load balancing", 2001.)
//
// A stage without a live replica is left out, when skipping is allowed. A peer that timed out is avoided until it answers
// or 20 forward times have passed, as long as there is another one. Pure; chance from one stream.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/random.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"
#include "pipeline/microbatch.h"
#include "pipeline/pipeline_config.h"

namespace starling::pipeline {

class Router {
 public:
  struct Config {
    NodeId self;
    Routing routing = Routing::adaptive;
    std::uint64_t seed = 0;
    std::int64_t stages = 4;
  };

  Router(Config config, Stream random) : config_(config), random_(random) {}

  // The hops of stages 1 .. P - 1 for a microbatch of ours; stages without a live replica are left out.
  std::vector<Hop> plan(const MicrobatchId& id, const membership::Swarm& swarm, TimePoint now);
  // A replica of this stage for a microbatch, none of `tried`, unless nobody else lives: then nothing.
  std::optional<NodeId> choose(Stage stage, const membership::Swarm& swarm, const std::set<NodeId>& tried, TimePoint now);
  // Least completion time over the live replicas of `stage` but self, were `queued` microbatches waiting there as they do
  // here: routing gives equals equal queues, and reports are too old to say better. Nothing when there is none.
  std::optional<Duration> best_alternative(Stage stage, const membership::Swarm& swarm, std::size_t queued) const;

  // What this node learns as it sends.
  void sent(const NodeId& peer, const membership::Swarm& swarm);
  void answered(const NodeId& peer, Duration took);
  void timed_out(const NodeId& peer, const membership::Swarm& swarm, TimePoint now);
  void forget(const NodeId& peer) { costs_.erase(peer); }

  Duration expected(const NodeId& peer, const membership::Swarm& swarm, TimePoint now) const;

 private:
  struct Cost {
    double sent_seconds = 0.0;       // own sends since its last report
    TimePoint report{};              // which report that is
    double link_seconds = 0.0;       // EWMA of the acknowledgement time
    TimePoint avoid_until{};
  };
  bool avoided(const NodeId& peer, TimePoint now) const;
  std::size_t permuted(const MicrobatchId& id, Stage stage, std::size_t position, std::size_t replicas) const;

  Config config_;
  Stream random_;
  std::map<NodeId, Cost> costs_;
};

}  // namespace starling::pipeline
