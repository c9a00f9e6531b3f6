// A whole swarm in one thread and virtual time: the same Worker as on real sockets, over a simulated network and device.
//
// One seed gives one history: keys, delays, losses, device times and faults are all drawn from it. While it runs, the
// world checks what must always hold (see check()); a violation is kept with its time, and the test that reads it prints
// the command that replays it. `log_hash` fingerprints every action of every decider of every node in order, so two runs
// can be compared between machines and optimisation levels.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/sim/faults.h"
#include "gossip/sim/network.h"
#include "gossip/sim/scheduler.h"
#include "trainer/worker/joiner.h"
#include "trainer/worker/simulated_compute.h"
#include "trainer/worker/worker.h"

namespace starling::trainer {

class SimWorld {
 public:
  struct Config {
    std::uint64_t seed = 1;
    WorkerConfig worker;
    std::size_t workers = 8;                 // that knock at the start, over the first second
    std::size_t joiners = 0;                 // further ones, started by faults of kind join
    sim::SimNetwork::Config network;
    SimulatedCompute::Config compute;
    std::vector<double> slowness;            // per worker; missing ones: 1
    sim::FaultPlan faults;                   // node numbers: workers from 0, joiners after them
    // Each line of the history goes here, if set.
    std::function<void(const std::string&)> log;
  };
  // What happened to one worker.
  struct Node {
    std::size_t index = 0;
    NodeId id;
    std::string name;
    Boot boot = 0;
    bool up = false;
    bool paused = false;
    bool cut = false;                        // from the others
    std::unique_ptr<SimulatedCompute> compute;
    std::unique_ptr<Credentials> credentials;
    std::unique_ptr<Listener> listener;
    std::unique_ptr<Joiner> joiner;          // until it is let in
    std::unique_ptr<Worker> worker;
    std::optional<Worker::ExitReason> exit;
    bool never_let_in = false;               // it exits because no seed answered
    std::uint64_t generation = 0;            // of its process
    std::uint64_t timer = 0;                 // the newest timer
    TimePoint timer_at = never;
    std::vector<StepReport> steps;
    std::vector<std::pair<TimePoint, Step>> losses;   // when a step with a loss was reported
    std::vector<std::pair<TimePoint, RoundReport>> rounds;
    std::vector<std::string> takeovers;      // where the weights of each came from
    // For the checks of this process.
    std::size_t ledger_read = 0, forwards_read = 0;
    std::int64_t outer_steps = 0;            // of the device, at the end of the last round
    bool woke_late = false;                  // since then
    std::map<MicrobatchId, TimePoint> unkept;  // graphs on its device that no decider keeps, since when
    std::set<MicrobatchId> body_counted, head_counted;
    Step last_step = 0;
    Round last_round = 0;
    std::int64_t copies = 0;                 // copies and takeovers: the only reasons for a step or round to go back
    std::int64_t completed = 0;
    Stage role_stage = no_stage;             // the stage it held last
    bool in_step = false;                    // has met the swarm's step since it started, woke or copied
  };

  // Of the whole run, for tables and bounds.
  struct Measured {
    Step largest_skew = 0;                   // between the k of any two workers that run, reach the others and have been in step
    // Without a microbatch completed anywhere, while an active originator ran, from the first one completed on.
    Duration longest_silence{};
    TimePoint silence_ended{};
    std::int64_t double_forwards = 0;        // of one microbatch by two workers of one stage
  };

  explicit SimWorld(Config config);
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  void run_until(TimePoint until);
  // Until every worker that is up and running has exited, or `limit`. True: all have.
  bool run_to_end(TimePoint limit);
  const Config& config() const { return config_; }
  TimePoint now() const { return scheduler_.now(); }

  const std::vector<std::unique_ptr<Node>>& nodes() const { return nodes_; }   // the observer is the last one
  Node& observer() { return *nodes_.back(); }
  const std::vector<std::string>& violations() const { return violations_; }
  std::uint64_t log_hash() const { return log_hash_; }
  std::uint64_t events() const { return scheduler_.executed(); }
  // The set of (id, state) that this node believes, as text: equal sets, equal texts.
  static std::string view_text(const Node& node);
  // One line per running node: where it stands. For the message of a failing test.
  std::string describe() const;
  void apply(const sim::Fault& fault);
  // The same, each fault at its time. REQUIRES: none lies in the past.
  void schedule(const sim::FaultPlan& faults);
  WorkerCounters totals() const;
  const Measured& measured() const { return measured_; }

 private:
  static constexpr Duration sweep_interval = std::chrono::seconds(1);
  class SimListener;
  class SimCredentials;
  friend class SimListener;

  void start(std::size_t index, Boot boot);
  void make_worker(std::size_t index, std::variant<Credentials::Welcome, Bytes> admission);
  Worker::Self self_of(const Node& node) const;
  void stop(Node& node);
  void deliver(std::size_t index, std::uint64_t generation, Worker::Event event);
  void after_event(std::size_t index);
  void arm(std::size_t index);
  void note(const Node& node, std::string_view what, std::uint64_t a, std::uint64_t b);
  void violated(const Node& node, const std::string& what);
  void check(Node& node);
  void check_ledger(Node& node);
  void check_round(Node& node, const RoundReport& report);
  void check_copy(Node& node, const std::vector<EventField>& fields);
  void check_exit(const Node& node);
  void check_timer(const Node& node);
  void check_graphs(Node& node);
  void sweep();
  Duration longest_silence_allowed() const;
  static Duration largest_give_up_age(const Node& node);
  void measure_skew(Node& node, Step step);
  void measure_silence(Node& node);
  void excuse_silence();
  bool runs(const Node& node) const { return node.up && !node.paused && node.worker && node.worker->active() && !node.exit; }

  Config config_;
  sim::Scheduler scheduler_;
  sim::SimNetwork network_;
  Random random_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::vector<std::string> violations_;
  std::uint64_t log_hash_ = 0;
  Step largest_done_ = 0;
  Measured measured_;
  TimePoint last_completed_ = never;                        // never: none yet, or no originator ran since
  Duration largest_age_{};                                  // given to a microbatch since something was completed
  bool silence_excused_ = false;
  std::map<NodeId, net::Transport*> transports_;
  std::map<MicrobatchId, std::int64_t> added_by_;           // how many middle workers added this microbatch's gradient
  std::set<std::pair<MicrobatchId, Stage>> forwards_;
  struct Averaged {
    NodeId by, with;
    Round round;
    Stage stage;
  };
  std::map<ExchangeId, std::vector<Averaged>> averaged_;
  std::optional<std::pair<Step, Step>> ended_at_;           // least and most of the originators' last steps
  std::vector<std::unique_ptr<SimulatedCompute>> retired_;  // of crashed processes: their last jobs answer nobody
  WorkerCounters stopped_;                                  // of processes that are gone
};

}  // namespace starling::trainer
