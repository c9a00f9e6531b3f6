// A device in virtual time: a small model whose arithmetic is exact, so that what was counted twice or lost shows.
//
// A microbatch's gradient is a vector of integers drawn from its id, so any sum of them is exact in whatever order; the
// ledger keeps which microbatches went into which step. Jobs take the time that a real device would: a forward w, a
// backward 2 w, a loss w / 4, each times a jitter drawn from the seed, one after the other.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/sim/scheduler.h"
#include "trainer/worker/compute.h"
#include "trainer/worker/slow_weights.h"

namespace starling::trainer {

class SimulatedCompute final : public Compute {
 public:
  struct Config {
    std::uint64_t seed = 0;              // weights are drawn from it
    std::int64_t stages = 4;
    std::int64_t values = 8;             // N of every stage
    std::int64_t tokens = 32;            // of a microbatch
    std::int64_t activation_bytes = 64;
    bool document_attention = false;     // each microbatch has borders, which must reach every stage
    double forward_seconds = 0.02;       // w
    double jitter = 0.1;                 // each job takes 1 +- this much of its time
  };
  // What a step took in: for the world's invariants.
  struct Applied {
    Step step = 0;
    std::vector<MicrobatchId> body;      // gradients of blocks, in the order of their backward passes
    std::vector<MicrobatchId> head;
    std::int64_t body_tokens = 0;        // as the worker divided
    std::int64_t head_tokens = 0;
    std::int64_t oldest_graph_steps = 0; // optimizer steps between a microbatch's forward and backward, the most
  };
  struct Graph {
    std::uint64_t version = 0;           // of the weights at its forward
    bool loss_done = false;
    TimePoint made_at{};
    std::int64_t steps = 0;              // optimizer steps that were made before
  };
  using Answer = std::function<void(Completion)>;

  SimulatedCompute(sim::Scheduler& scheduler, Config config, Stream random, Answer answer);

  void submit(JobId id, Job job) override;
  const ComputeSizes& sizes() const override { return sizes_; }
  // Of the whole node from now on; 2: twice as slow.
  void set_slowness(double slowness) { slowness_ = slowness; }
  // A stopped process: what is done comes out when it goes on.
  void pause() { paused_ = true; }
  void resume();
  // What this node hands to others from now on: activations and gradients of a wrong size, or an exchange with NaN in it.
  enum class Lie { none, wrong_size, not_finite };
  void set_lie(Lie lie) { lie_ = lie; }
  // Weights that have diverged, until new ones come: all are `value`. With one that is not finite nothing that is computed
  // with them is.
  void poison(float value = std::numeric_limits<float>::quiet_NaN());
  // The slow weights too: a reload finds nothing to go back to.
  void poison_slow_weights();
  // The next optimizer steps find a gradient that is not finite, and at an originator until then no loss has one that can be
  // sent; the weights stay good.
  void spoil_gradients(int steps) { spoiled_steps_ = steps; }
  Stage stage() const { return stage_; }
  bool lies() const { return lie_ != Lie::none; }

  const std::vector<Applied>& ledger() const { return ledger_; }
  const std::vector<float>& theta() const { return theta_; }
  std::span<const float> phi() const { return slow_.phi(); }
  const std::map<MicrobatchId, Graph>& graphs() const { return graphs_; }
  // Microbatches whose training forward ran here, in order.
  const std::vector<MicrobatchId>& forwards() const { return forwards_; }
  std::int64_t outer_steps() const { return outer_steps_; }

 private:
  JobResult run(const Begin& job);
  JobResult run(const Forward& job);
  JobResult run(const Loss& job);
  JobResult run(const Backward& job);
  JobResult run(const DropKept& job);
  JobResult run(const OptimizerStep& job);
  JobResult run(const Snapshot& job);
  JobResult run(const OuterStep& job);
  JobResult run(const Encode& job);
  JobResult run(const Load& job);
  JobResult run(const ReloadSlow& job);
  JobResult run(const LoadFromNeighbours& job);
  bool poisoned() const { return !all_finite(theta_); }
  double seconds_of(const Job& job);
  Buffer activation(const MicrobatchId& id) const;
  std::vector<float> draw(Stage stage) const;

  sim::Scheduler& scheduler_;
  Config config_;
  Stream random_;
  Answer answer_;
  ComputeSizes sizes_;
  double slowness_ = 1.0;
  bool paused_ = false;
  Lie lie_ = Lie::none;
  int spoiled_steps_ = 0;
  TimePoint free_at_{};
  std::vector<Completion> waiting_;      // done while paused

  Stage stage_ = no_stage;
  std::vector<float> theta_, adam_m_, adam_v_;
  SlowWeights slow_;
  std::uint64_t version_ = 0;
  std::map<MicrobatchId, Graph> graphs_;
  std::vector<MicrobatchId> body_;       // accumulated since the last step
  std::vector<MicrobatchId> head_;
  std::vector<Applied> ledger_;
  std::vector<MicrobatchId> forwards_;
  std::int64_t steps_ = 0;
  std::int64_t outer_steps_ = 0;
  std::int64_t oldest_graph_steps_ = 0;  // of body_
};

}  // namespace starling::trainer
