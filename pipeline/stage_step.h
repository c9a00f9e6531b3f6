// The step clock of one worker, and the microbatches it keeps: which may come in, which wait, what runs next, and when a
// step closes.
//
// No worker waits for the whole swarm, yet all keep the same step to within a few. A microbatch carries the step of its
// originator; originators announce the steps they have closed (D). In exact mode
//   - a middle worker closes step k when every live originator has D >= k and nothing of a step <= k is kept here;
//     microbatches of later steps are held until then; those of earlier steps are computed now and count in k;
//   - an originator closes k when its share is started and none of its microbatches is open.
// A deadline for both: D_half = the n-th largest D over the live originators, n = max(ceil(live / 2), min(2, live)). When
// D_half >= k, 0.25 tau later the step closes as it is and what is still open counts in the next one. On closing: divide
// by the tokens whose backward finished, clip, step; nothing done: no step; fewer than a quarter of the usual tokens: keep
// the sum and step later. Then k += 1, and if D_half >= k, k = D_half, but a jump stops at the next round boundary and
// ends that round first. More than one round behind: the weights must be copied.
//
// Counting own quotas instead, as one would do first, lets the counters of live workers drift apart with one slow machine.
// Steps count from 1. tau: EWMA of the step time, weight 1/8, from the first step that was whole here; before that the
// deadline is D_half > k, so that a microbatch lost in the first step holds its workers for a step and not for the minute
// after which it is given up. With Deadlines::off (pipeline.skip: never) one waits.
//
// Phases of a microbatch here (work = begin | forward | loss | backward):
//
//   arriving -> held -> ready(forward) -> computing(forward) -> open -> arriving -> ready(backward) -> computing -> freed
//   originator: ready(begin) -> computing -> open -> ready(loss) -> computing -> open -> ready(backward) -> computing -> freed
//
// Freed early: abandoned, given up (age), originator dead, refused as duplicate by the next hop.
// Kept state is bounded by bytes, not by a count: at the limit a newcomer is refused as full; held ones take at most half
// of it, and one of the current step displaces the youngest held one. Backward work goes before forward work.
// A gradient is added once per microbatch: a set over (step, index) of each originator's last 8 steps; older is stale.
//
// Pure: no I/O, no clock, no tensors.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"
#include "gossip/net/wire.h"
#include "pipeline/microbatch.h"

namespace starling::pipeline {

class StageStep {
 public:
  enum class Deadlines { on, off };
  struct Config {
    NodeId self;
    Stage stage = 0;
    Deadlines deadlines = Deadlines::on;
    std::int64_t local_steps = 50;
    Step last_step = 0;                      // the run's last; may be lowered by LastStepSet
    // With deadlines off: no step closes before so many workers were seen alive at once. A worker that has not heard of
    // an originator yet would close the first step without it.
    std::int64_t least_workers = 0;
    std::int64_t kept_bytes = 0;             // of one microbatch between forward and backward, on this stage
    std::int64_t memory_bytes = 0;           // limit of everything kept
  };

  // ---- what happens
  struct Offered {                           // an Offer about a microbatch: answered by Take or Refuse, in this call
    NodeId from;
    TransferId transfer;
    MicrobatchHeader header;
  };
  struct Arrived {                           // its bytes are complete: answered by Acknowledge
    NodeId from;
    TransferId transfer;
    MicrobatchHeader header;
  };
  struct ArrivalFailed {                     // the transfer ended without its bytes
    MicrobatchHeader header;
  };
  struct Started {                           // our own microbatch: begin may run
    MicrobatchHeader header;
  };
  struct HereAlready {                       // originator: no middle stage was left to visit in this direction, so loss
    MicrobatchId microbatch;                 // (forward) or the last backward pass runs on what is here
    Direction direction = Direction::forward;
  };
  struct Computed {
    MicrobatchId microbatch;
    std::uint64_t visit = 0;                 // NextWork's
    Work work = Work::forward;
    Purpose purpose = Purpose::train;
    std::int64_t tokens = 0;                 // loss: targets; backward: tokens whose gradient was added
    double compute_seconds = 0.0;
    bool good = true;                        // false: its input was not finite; it is freed
  };
  struct Freed {                             // abandoned, duplicate elsewhere, or given up: forget it
    MicrobatchId microbatch;
  };
  struct OriginatorGone {                    // dead or left: free all that is its own
    NodeId originator;
  };
  struct ShareStarted {                      // originator: all of this step's microbatches are started
    Step step = 0;
  };
  struct SwarmChanged {};                    // a D, a death or a birth
  struct RoundFinished {};                   // the exchange that EndRound asked for is over
  struct Adopted {                           // copied from a donor: its clock is ours
    Step step = 1;
    Duration tau{};
    Stage stage = 0;
    std::int64_t kept_bytes = 0;
  };
  struct SumsDropped {};                     // the device has dropped the gradients that it had added up
  struct Stopped {};                         // the weights are about to be replaced: everything kept goes, until Adopted
  struct LastStepSet {
    Step last_step = 0;
  };
  struct WokeLate {
    Duration gap;
  };
  struct Tick {};
  using Event = std::variant<Offered, Arrived, ArrivalFailed, Started, HereAlready, Computed, Freed, OriginatorGone, ShareStarted,
                             SwarmChanged, RoundFinished, Adopted, SumsDropped, Stopped, LastStepSet, WokeLate, Tick>;

  // ---- what to do
  struct Take {
    NodeId from;
    TransferId transfer;
  };
  struct Refuse {
    NodeId from;
    TransferId transfer;
    net::RefuseCode code = net::RefuseCode::full;
    MicrobatchHeader header;
  };
  struct Acknowledge {
    NodeId to;
    TransferId transfer;
    Duration eta{};
  };
  struct Run {                               // this microbatch's work may be computed now: next_work() has it
  };
  struct Drop {                              // nothing of it is kept here any more
    MicrobatchId microbatch;
    enum class Why : std::uint8_t { given_up, originator_gone, displaced, stale, stopped, bad_input } why = Why::given_up;
    struct GiveBack {                        // its sender, who thinks it is in good hands, and the pass that was under way
      NodeId to;
      Direction direction = Direction::forward;
    };
    std::optional<GiveBack> give_back;       // displaced, stopped
  };
  struct CloseStep {                         // submit the optimizer step, or keep the sums
    Step step = 0;
    enum class Apply : std::uint8_t { step, keep_sum, nothing } apply = Apply::nothing;
    std::int64_t body_tokens = 0;
    std::int64_t head_tokens = 0;
    bool by_deadline = false;
    Duration took{};
  };
  struct AnnounceDone {                      // originator: D = step
    Step step = 0;
  };
  struct EndRound {
    Round round = 0;
    Step step = 0;
    bool last = false;                       // the run's last round
  };
  struct FarBehind {};                       // more than one round: copy a replica's state, then Adopted
  struct StepBegan {
    Step step = 0;
  };
  struct TrainingEnded {};                   // the last round is over: no step follows
  using Action = std::variant<Take, Refuse, Acknowledge, Run, Drop, CloseStep, AnnounceDone, EndRound, FarBehind, StepBegan,
                              TrainingEnded>;

  StageStep(Config config, TimePoint now);

  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, TimePoint now);
  TimePoint next_deadline() const;

  // The work to compute next, marked as computing: backward first, then the loss of what came home, then the oldest step.
  struct NextWork {
    MicrobatchHeader header;
    Work work = Work::forward;
    std::uint64_t visit = 0;                 // a microbatch may be freed and come again while the device works on it
  };
  std::optional<NextWork> next_work();
  bool has_work() const { return !ready_.empty(); }

  Step step() const { return step_; }
  TimePoint step_began() const { return step_began_; }
  std::optional<Duration> tau() const { return tau_; }
  Round round() const { return (step_ - 1) / config_.local_steps + 1; }
  Step last_step() const { return config_.last_step; }
  // Between EndRound and RoundFinished, or before Adopted: no training work of a later step runs, no step closes.
  bool between_steps() const { return between_steps_; }
  bool ended() const { return ended_; }
  Step done_half(const membership::Swarm& swarm) const;

  // Work queued here in compute seconds, the backward passes of open graphs included: what the record publishes.
  double load_seconds() const;
  // Forward and backward of one microbatch here; 0 before the first.
  double microbatch_seconds() const;
  double forward_seconds() const;
  // Until a microbatch's forward or backward here is computed, hold included.
  Duration eta(Direction direction, Step step, TimePoint now) const;

  enum class Where : std::uint8_t { unknown, arriving, held, ready, computing, open, finished };
  // Where a microbatch's pass in this direction stands: for AskAnswer.
  Where where(const MicrobatchId& id, Direction direction) const;
  bool keeps(const MicrobatchId& id) const { return kept_.contains(id); }
  // The same, and not freed and come again meanwhile.
  bool keeps(const MicrobatchId& id, std::uint64_t visit) const {
    const auto it = kept_.find(id);
    return it != kept_.end() && it->second.order == visit;
  }
  const MicrobatchHeader* header(const MicrobatchId& id) const;
  std::size_t kept() const { return kept_.size(); }
  std::int64_t kept_bytes() const;

 private:
  using Actions = std::vector<Action>;
  enum class Phase : std::uint8_t { arriving, held, ready, computing, open };
  struct Kept {
    MicrobatchHeader header;
    Phase phase = Phase::arriving;
    Work work = Work::forward;               // the work of this phase; open: the one that was done
    bool graph = false;                      // a forward ran here and its backward has not
    Step computed_at = 0;                    // k at that forward
    NodeId from;
    TimePoint give_up_at{};
    std::uint64_t order = 0;
  };
  struct ReadyKey {
    int priority;                            // backward, loss, then forward and begin by step
    Step step;
    std::uint64_t order;
    auto operator<=>(const ReadyKey&) const = default;
  };

  bool originator() const { return config_.stage == 0; }
  bool is_added(const MicrobatchId& id) const;
  void mark_added(const MicrobatchId& id);
  // Unset: take it.
  std::optional<net::RefuseCode> judge(const MicrobatchHeader& header) const;
  std::optional<net::RefuseCode> judge_home(const MicrobatchHeader& header) const;
  std::optional<net::RefuseCode> judge_backward(const MicrobatchHeader& header) const;
  bool is_home(const MicrobatchHeader& header) const;
  void handle(const Offered& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Arrived& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const ArrivalFailed& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Started& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const HereAlready& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Computed& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Freed& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const OriginatorGone& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const ShareStarted& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const RoundFinished& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Adopted& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const SumsDropped& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const Stopped& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const LastStepSet& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const WokeLate& event, const membership::Swarm& swarm, TimePoint now, Actions& out);
  void handle(const SwarmChanged&, const membership::Swarm&, TimePoint, Actions&) {}
  void handle(const Tick&, const membership::Swarm&, TimePoint, Actions&) {}
  void make_ready(Kept& kept, Work work);
  void release_held();
  void erase(const MicrobatchId& id);
  void drop(const std::vector<MicrobatchId>& ids, Drop::Why why, Actions& out);
  Drop given_back(const MicrobatchId& id, Drop::Why why) const;
  void drop_aged(TimePoint now, Actions& out);
  bool make_room(Step step, Actions& out);
  void drop_all(Drop::Why why, Actions& out);
  bool nothing_open_up_to(Step step) const;
  bool all_done(const membership::Swarm& swarm, Step step) const;
  bool due_to_close(const membership::Swarm& swarm, TimePoint now) const;
  void close(const membership::Swarm& swarm, TimePoint now, Actions& out);
  void advance(const membership::Swarm& swarm, TimePoint now, Actions& out);
  void begin_step(TimePoint now, Actions& out);
  void end_round(Step closed, Actions& out);
  double seconds_of(Work work) const;
  void update_deadline(const membership::Swarm& swarm, TimePoint now);

  Config config_;
  Step step_ = 1;
  TimePoint step_began_{};
  std::optional<Duration> tau_;
  TimePoint close_at_ = never;               // the deadline, once D_half >= k
  Step share_started_ = 0;
  bool between_steps_ = true;
  bool complete_ = false;                    // least_workers were there, or others have gone on already
  bool ended_ = false;
  std::int64_t body_tokens_ = 0;
  std::int64_t head_tokens_ = 0;
  double usual_tokens_ = 0.0;
  std::int64_t adding_ = 0;                  // jobs on the device that add to the gradient: a step closes between them
  bool jumped_ = false;                      // this step was jumped to: its time says nothing about tau
  bool last_round_asked_ = false;
  std::uint64_t order_ = 0;
  std::map<MicrobatchId, Kept> kept_;
  std::map<ReadyKey, MicrobatchId> ready_;
  // Per originator and boot: step -> indices whose gradient was added here. At most 8 steps each.
  std::map<std::pair<NodeId, Boot>, std::map<Step, std::set<std::uint32_t>>> added_;
  std::map<Work, double> work_seconds_;      // EWMA per kind
};

}  // namespace starling::pipeline
