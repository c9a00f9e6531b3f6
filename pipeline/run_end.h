// How a run ends everywhere with exit code 0, and when a worker that is left alone gives up.
//
// The lead is the lowest live originator id. After the last round it runs the last evaluation and sets `finished` in its
// signed record; after 30 s without that from it the next id acts. Who sees `finished` stays 5 s to spread it, then exits.
// At max_tokens, or on the owner's signed wish, the lead publishes last_step = k + 2, which then replaces max_steps. Where
// no step would come any more, as none has been closed yet or no originator has lived for 30 s, the wish itself is the end. A
// worker without a live peer, unless it is an originator, tries those it knew for 5 min and then exits 4.
//
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"

namespace starling::pipeline {

// Null when no originator lives.
NodeId lead_of(const membership::Swarm& swarm);

class RunEnd {
 public:
  struct Config {
    NodeId self;
    std::optional<std::int64_t> max_tokens;
    Duration lead_wait = std::chrono::seconds(30);
    Duration spread = std::chrono::seconds(5);
    Duration alone = std::chrono::minutes(5);
    enum class Part { worker, observer } part = Part::worker;
  };

  struct Look {};                 // the swarm or the time changed
  struct TrainingEnded {};        // our last round is over
  struct EvalDone {};             // the last evaluation, asked for by RunLastEval
  struct FinishWished {};         // the owner's signed statement was verified
  struct WokeLate {
    Duration gap;
  };
  using Event = std::variant<Look, TrainingEnded, EvalDone, FinishWished, WokeLate>;

  struct RunLastEval {};
  struct PublishFinished {};
  struct PublishLastStep {        // lead: in its record
    Step last_step = 0;
  };
  struct LastStepIs {             // everybody: replaces max_steps
    Step last_step = 0;
  };
  struct TryPeers {};             // alone: ask those who were known whether anybody is there
  struct Exit {
    enum class Why { finished, alone } why = Why::finished;
  };
  using Action = std::variant<RunLastEval, PublishFinished, PublishLastStep, LastStepIs, TryPeers, Exit>;

  explicit RunEnd(Config config) : config_(config) {}
  // `step`: this worker's k; `is_originator`: holds stage 0.
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, Step step, TimePoint now);
  TimePoint next_deadline() const { return next_; }
  bool saw_finished() const { return finished_at_.has_value(); }

 private:
  void look_for_last_step(const membership::Swarm& swarm, Step step, std::vector<Action>& out);
  void look_for_loneliness(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void look_for_end_without_training(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out);
  void look_for_end(const membership::Swarm& swarm, TimePoint now, std::vector<Action>& out);

  Config config_;
  std::optional<TimePoint> ended_at_;      // our training ended
  std::optional<TimePoint> finished_at_;   // first seen
  std::optional<TimePoint> alone_since_;
  std::optional<TimePoint> leaderless_since_;   // while the owner wishes the end
  TimePoint next_try_{};
  bool eval_asked_ = false;
  bool finish_wished_ = false;
  bool exited_ = false;
  Step published_ = 0;
  Step last_step_ = 0;
  TimePoint next_ = never;
};

}  // namespace starling::pipeline
