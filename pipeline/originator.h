// What an originator starts, how much, and when it gives up.
//
// The batch is kept: the live originators share microbatches x replicas a step, at most 4 x microbatches each. Equally
// (remainder to the lowest slots) with `permutation` or when the fastest is at most 1.25 x the slowest; else by speed, at
// least one each. Speed comes from compute time per microbatch, never from the achieved rate: that is neutrally stable.
// When a deadline cuts a step short, its own speed is lowered (to no less than 0.3 of itself), recovering 5 % a step.
//
// New work starts only while k <= D_half + 2, or 2 tau after the step began: nobody runs far ahead. Open at once:
// clamp(ceil(1.5 x completion time / own time per microbatch), 2 x stages, ...); a fixed small number costs 17-33 %.
// Give-up age = (3 x q90 of completion times + 1 s) x g; g x 1.2 per give-up, x 0.8 per completion, within 1 to 64. Before
// the first completion here: 6 tau + 1 s, as a step lasts longer than each of its microbatches; without tau 60 s.
//
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"
#include "gossip/net/ack_deadline.h"
#include "pipeline/microbatch.h"
#include "pipeline/pipeline_config.h"

namespace starling::pipeline {

// How many microbatches each live originator starts in a step; by id. Empty without live originators.
std::map<NodeId, std::int64_t> batch_shares(const membership::Swarm& swarm, Routing routing, std::int64_t microbatches,
                                            std::int64_t replicas);

// What is missing before a run may start, for a person; empty: nothing.
std::string missing_to_start(const membership::Swarm& swarm, std::int64_t stages, std::int64_t start_workers);

class Originator {
 public:
  enum class GiveUps { on, off };          // off with pipeline.skip: never
  struct Config {
    NodeId self;
    Boot boot = 0;
    Routing routing = Routing::adaptive;
    GiveUps give_ups = GiveUps::on;
    std::int64_t microbatches = 16;
    std::int64_t replicas = 1;
    std::int64_t stages = 4;
    std::optional<std::int64_t> max_in_flight;
    std::int64_t memory_microbatches = 1024;  // what the memory limit allows
    Step last_step = 0;
  };
  // The clock's state, as every event sees it.
  struct Clock {
    Step step = 1;
    Step done_half = 0;
    TimePoint began{};
    std::optional<Duration> tau;
    double own_seconds = 0.0;              // compute time per microbatch here
    bool paused = true;                    // not started yet, between steps, copying, ended
  };

  struct Completed {                       // its last backward pass here is done
    MicrobatchId microbatch;
  };
  struct Lost {                            // dropped here for another reason than give-up: not started again
    MicrobatchId microbatch;
  };
  struct ClosedByDeadline {};
  struct ClosedInTime {};
  struct StoppedAll {};                    // copied state or woke late: nothing of ours is open any more
  struct Look {};                          // the clock, the swarm or the time changed
  using Event = std::variant<Completed, Lost, ClosedByDeadline, ClosedInTime, StoppedAll, Look>;

  struct Start {
    MicrobatchId microbatch;
    Duration give_up_age{};
  };
  struct GiveUp {                          // dropped, not retried; Abandon goes to its hops
    MicrobatchId microbatch;
  };
  struct ShareStarted {
    Step step = 0;
  };
  using Action = std::variant<Start, GiveUp, ShareStarted>;

  explicit Originator(Config config);
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, const Clock& clock, TimePoint now);
  TimePoint next_deadline() const;

  std::size_t open() const { return open_.size(); }
  // Multiplies the published speed: lowered when a deadline cut a step short.
  double speed_factor() const { return speed_factor_; }
  // Started in a step that the swarm is in, or ahead of it: hops hold those until the others come. Their times are kept
  // apart, or one step that waits for a give-up would triple the age of the next, and so on.
  enum class Pace : std::uint8_t { with_the_swarm, ahead };
  // Of a microbatch that is started now.
  Duration give_up_age(Pace pace = Pace::with_the_swarm) const;
  void set_last_step(Step last_step) { config_.last_step = last_step; }

 private:
  struct Open {
    TimePoint started;
    Pace pace;
    TimePoint give_up_at;
    bool guessed;                           // its age, before the first completion
  };
  std::int64_t in_flight_limit(const Clock& clock) const;
  void finish(const MicrobatchId& id, TimePoint now);
  void start_some(const membership::Swarm& swarm, const Clock& clock, TimePoint now, std::vector<Action>& out);

  Config config_;
  std::map<MicrobatchId, Open> open_;
  Step step_ = 0;                          // the step that `started_` counts for
  std::int64_t started_ = 0;
  std::int64_t share_ = 0;                  // of this step's batch, among sharers_
  std::vector<NodeId> sharers_;
  bool share_said_ = false;
  Duration first_age_;                      // before the first completion
  net::Quantile90 completion_;              // with the swarm
  net::Quantile90 completion_ahead_;
  double give_up_factor_ = 1.0;
  double speed_factor_ = 1.0;
  TimePoint lead_bound_ends_ = never;      // a timer of its own for the lead bound
};

}  // namespace starling::pipeline
