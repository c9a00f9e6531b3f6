// Which replica does a microbatch visit next.
//
// `permutation` (as NoLoCo's): the hop from replica i of stage s goes to perm(i mod n) of stage s + 1, perm drawn from
// (run seed, step, index, stage), replicas sorted by id. Uniform; for parity tests and equal machines.
// `adaptive`: two random candidates, the one with the least expected completion time:
//   (own microbatches that are on their way through it + 1) x its time per microbatch + link.
// Its own open microbatches are what an originator knows without delay: a replica that is slow or busy gives them back late
// and gets fewer. Reports of queues are up to a second old, several steps of a fast run: with them in the place of the
// count, four originators ran after the same idle replicas and equal machines reached 0.52 of the ideal instead of 0.66
// (tests/sim/swarm_table). Two random choices, not the best of all, so that ties and errors of measurement spread.
// (Mitzenmacher, "The power of two choices in randomized load balancing", 2001; the count: weighted least connections.)
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

  // A microbatch of ours goes this way, until it ends: home again with its gradients. One that was given up is not said to
  // have ended and counts for eight steps: who swallows microbatches is not idle, and gets fewer of them.
  void opened(const MicrobatchId& id, std::vector<Hop> hops);
  void ended(const MicrobatchId& id);
  // Empty: not open.
  std::vector<Hop> way_of(const MicrobatchId& id) const;

  // What this node learns as it sends.
  void answered(const NodeId& peer, Duration took);
  void timed_out(const NodeId& peer, const membership::Swarm& swarm, TimePoint now);
  void forget(const NodeId& peer) { costs_.erase(peer); }

  Duration expected(const NodeId& peer, const membership::Swarm& swarm) const;

 private:
  struct Cost {
    std::int64_t open = 0;           // own microbatches on their way through it
    double link_seconds = 0.0;       // EWMA of the acknowledgement time
    TimePoint avoid_until{};
  };
  bool avoided(const NodeId& peer, TimePoint now) const;
  std::size_t permuted(const MicrobatchId& id, Stage stage, std::size_t position, std::size_t replicas) const;

  Config config_;
  Stream random_;
  std::map<NodeId, Cost> costs_;
  std::map<MicrobatchId, std::vector<Hop>> open_;
};

}  // namespace starling::pipeline
