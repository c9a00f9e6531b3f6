// How long one iteration takes under a plan: an event-driven model, fast enough to be asked a hundred thousand times a
// second.
//
// The model. A node does one thing at a time, first come first served, and rests 0.13 s after each job. A microbatch with
// hops h1..hk does: forward at its originator (w seconds there), then at h1..hk; the loss at the originator (w/4); backward
// at hk..h1 (1.5 w each) and at the originator. Between two nodes lies one delay. A node holds at most `memory`
// microbatches between the forward and the backward it does for each: a forward waits for a free slot, loss and backward
// never do. Source: the simulation of SkipPipe's authors (gensyn-ai/skippipe), which differs from this by 1 %.
//
// Why it is fast. A search changes one or two paths and asks again, and most answers are "worse":
// - Paths are flat rows of jobs; a microbatch has one event at a time and stands in one queue at a time, so queues are
//   chains through an array and the heap never holds more than a node or microbatch each.
// - A node is only woken when something in its queue could start.
// - Checkpoints of the kept run: a new one begins at the last checkpoint before anything it changes.
// - Each microbatch has a bound for its end (now + what is left without any waiting), so a run ends as soon as it is clear
//   that its cost is above the caller's limit. That is usually long before its end.
//
// Pure: no I/O, no real clock. One clock is used by one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/plan_instance.h"

namespace starling::pipeline {

constexpr double plan_rest_seconds = 0.13;  // of a node between two jobs

// Jobs of a microbatch, in order: path_length forwards (0 is the originator's), the loss, path_length backwards.
inline int plan_job_count(int path_length) { return 2 * path_length + 1; }

struct PlanTime {
  double seconds = 0.0;      // when the last job ends: the length of the iteration
  double mean_finish = 0.0;  // mean over microbatches of when each is done
  // over_limit: the run was given up, and the two numbers are lower bounds.
  enum class End { finished, locked_up, over_limit } end = End::finished;
  double cost(double mean_weight) const { return seconds + mean_weight * mean_finish; }
};

class PlanClock {
 public:
  // One job that was done. Jobs come in the order of their begins.
  struct Begun {
    int microbatch = 0;
    int job = 0;
    double begin = 0.0;
  };

  // REQUIRES: a valid instance that outlives the clock. All paths are to be set before the first run.
  explicit PlanClock(const PlanInstance& instance);

  // Changes a path: its nodes, originator first, and when it starts. Nothing is checked but bounds.
  void set_path(int microbatch, std::span<const int> nodes, double start);
  // Times the paths as they are set; gives up once the cost, seconds + mean_weight * mean_finish, must exceed `limit`.
  PlanTime run(double limit, double mean_weight = 0.0);
  // The paths of the last run, which must have finished, become those that later runs are compared with.
  void keep();
  // Puts back the paths that were kept.
  void revert();

  // Of the kept run.
  std::span<const Begun> begun() const { return kept_log_; }
  int job_node(int microbatch, int job) const { return jobs_[row(microbatch) + static_cast<std::size_t>(job)].node; }
  double job_seconds(int microbatch, int job) const {
    return jobs_[row(microbatch) + static_cast<std::size_t>(job)].seconds;
  }
  // Between this job's end and the next one's arrival.
  double job_delay(int microbatch, int job) const {
    return jobs_[row(microbatch) + static_cast<std::size_t>(job)].delay;
  }
  double start(int microbatch) const { return starts_[static_cast<std::size_t>(microbatch)]; }

 private:
  static constexpr int none = -1;

  struct Job {
    double seconds = 0.0;
    double delay = 0.0;      // to the next job's node
    double remaining = 0.0;  // from this job's begin to the microbatch's end, if it never waits
    int node = 0;
    bool takes_slot = false;
    bool frees_slot = false;
  };
  struct Event {
    double time = 0.0;
    std::uint32_t who = 0;  // 2 * node: it is free again; 2 * microbatch + 1: it arrives at its next job's node
    // Ties are broken by number, wake-ups first, so that the order of events is one and the same everywhere.
    bool before(const Event& other) const { return time < other.time || (time == other.time && who < other.who); }
  };
  struct Queue {
    int head = none;
    int tail = none;
  };
  struct Node {
    double busy_until = 0.0;
    double wakes_at = -1.0;
    int free_slots = 0;
    Queue forwards;  // wait for the node and for a slot
    Queue others;    // wait for the node only
  };
  struct Microbatch {
    double ready = 0.0;  // when its next job arrives or arrived; once all are done, when the last ended
    int job = 0;
    int behind = none;  // the next in the same queue
  };
  struct State {
    std::vector<Event> heap;
    std::vector<Node> nodes;
    std::vector<Microbatch> microbatches;
    double last = 0.0;
    std::size_t finished = 0;
    std::size_t begun = 0;
  };
  struct Changed {
    int microbatch = 0;
    double start = 0.0;
    std::size_t saved_at = 0;  // in saved_jobs_
  };

  std::size_t row(int microbatch) const { return static_cast<std::size_t>(microbatch) * row_size_; }
  std::size_t first_affected() const;
  std::size_t restore();
  void begin_state();
  void estimate();
  void push(Event event);
  void replace_top(Event event);
  void pop();
  void enqueue(Queue& queue, int microbatch);
  bool comes_before(int a, int b) const;
  int take_startable(Node& node);
  void checkpoint_if_due();
  bool handle(Event event, double limit, double weight);

  const PlanInstance& instance_;
  std::size_t length_;
  std::size_t job_count_;
  std::size_t row_size_;  // job_count_ + 1: the last says that nothing remains
  std::size_t microbatches_;
  std::vector<Job> jobs_;
  std::vector<double> starts_;

  State state_;
  std::vector<double> bound_;  // per microbatch: it cannot end before
  double bound_max_ = 0.0;
  double bound_sum_ = 0.0;

  std::vector<Begun> log_;  // of the current run; what stands before its checkpoint is the kept run's
  std::size_t log_from_ = 0;
  std::vector<State> checkpoints_;  // of the kept run, by begun / stride_
  std::vector<State> fresh_;        // of the current run
  std::size_t stride_ = 1;
  bool has_kept_ = false;
  bool run_finished_ = false;

  std::vector<Begun> kept_log_;
  std::vector<std::uint32_t> kept_order_;  // per job: how many began before it
  std::vector<Changed> changed_;
  std::vector<char> is_changed_;
  std::vector<Job> saved_jobs_;
};

// Seconds of one iteration under a plan. bad_input: it breaks a rule or locks up. REQUIRES: a valid instance.
Result<double> plan_seconds(const PlanInstance& instance, const SkipPlan& plan);

// A clock with the plan's paths set, run and kept. REQUIRES: as above, and a plan that obeys the rules.
Result<PlanClock> timed(const PlanInstance& instance, const SkipPlan& plan);

}  // namespace starling::pipeline
