// The step clock without faults is the synchronous algorithm: with several originators, `permutation`, `skip: never`,
// unequal machines and a network that jitters, every worker adds in every step exactly the gradients that a run with a
// barrier after each step would add there, and ends with the same weights to the last bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "pipeline/router.h"
#include "tests/sim/scenario.h"
#include "tests/sim/swarm_config.h"

namespace starling::trainer {
namespace {

using namespace std::chrono_literals;

constexpr Step steps = 12;
constexpr std::int64_t replicas = 3;

SimWorld::Config parity_config(std::uint64_t seed) {
  SimWorld::Config config = swarm_config(seed, 3, replicas, steps);
  config.worker.pipeline.routing = pipeline::Routing::permutation;
  config.worker.pipeline.skip = pipeline::Skip::never;
  config.worker.outer.algorithm = outer::Algorithm::none;
  config.worker.training.microbatches = 7;  // 21 over three originators
  config.network.link.jitter = 40ms;
  for (std::size_t i = 0; i < config.workers; ++i) config.slowness.push_back(i % 4 == 0 ? 3.0 : 1.0);
  return config;
}

// Whose gradient is added where: by worker and step.
using Sums = std::map<NodeId, std::map<Step, std::set<MicrobatchId>>>;

Sums synchronous(const SimWorld::Config& config, const membership::Swarm& swarm) {
  Sums out;
  for (const NodeId& originator : swarm.live_originators()) {
    pipeline::Router router({.self = originator,
                             .routing = pipeline::Routing::permutation,
                             .seed = config.worker.seed,
                             .stages = config.worker.parallelism.stages},
                            Stream(1));
    for (Step step = 1; step <= steps; ++step) {
      for (std::uint32_t index = 0; index < config.worker.training.microbatches; ++index) {
        const MicrobatchId id{originator, 1, step, index};
        out[originator][step].insert(id);
        for (const net::Hop& hop : router.plan(id, swarm, TimePoint{} + 1s)) out[hop.peer][step].insert(id);
      }
    }
  }
  return out;
}

// A device that is given its jobs one after the other.
class Reference {
 public:
  Reference(const SimWorld::Config& config, Stage stage)
      : compute_(scheduler_, device(config), Stream(7), [this](Completion completion) { last_ = std::move(completion); }) {
    run(Load{.stage = stage});
  }
  void add(const MicrobatchId& id) {
    const JobResult begun = run(Begin{id, 0, Pass::train});
    run(Backward{id, std::get<ActivationMade>(begun).output});
  }
  void step(Step step, std::int64_t tokens) { run(OptimizerStep{step, 1e-3, tokens, tokens}); }
  const std::vector<float>& theta() const { return compute_.theta(); }

 private:
  static SimulatedCompute::Config device(const SimWorld::Config& config) {
    SimulatedCompute::Config out = config.compute;
    out.seed = config.worker.seed;
    out.stages = config.worker.parallelism.stages;
    out.tokens = config.worker.training.tokens_per_microbatch();
    return out;
  }
  JobResult run(Job job) {
    compute_.submit(1, std::move(job));
    while (!scheduler_.empty()) scheduler_.run_one();
    return last_.result;
  }
  sim::Scheduler scheduler_;
  SimulatedCompute compute_;
  Completion last_;
};

TEST(Synchronous, EveryWorkerAddsWhatARunWithABarrierWouldAdd) {
  for (const std::uint64_t seed : seeds(3)) {
    const SimWorld::Config config = parity_config(seed);
    SimWorld world(config);
    while (world.nodes()[0]->steps.empty()) world.run_until(world.now() + 100ms);
    const Sums expected = synchronous(config, world.nodes()[0]->worker->swarm());
    ASSERT_EQ(expected.size(), config.workers) << "everybody is on some path";
    ASSERT_TRUE(world.run_to_end(TimePoint{} + 600s)) << world.describe();
    for (const std::string& violation : world.violations()) ADD_FAILURE() << violation;

    const std::int64_t tokens = config.worker.training.tokens_per_microbatch();
    for (std::size_t i = 0; i < config.workers; ++i) {
      const SimWorld::Node& node = *world.nodes()[i];
      Reference reference(config, node.role_stage);
      std::map<Step, std::set<MicrobatchId>> added;
      for (const SimulatedCompute::Applied& applied : node.compute->ledger()) {
        added[applied.step].insert(applied.body.begin(), applied.body.end());
      }
      EXPECT_EQ(added, expected.at(node.id)) << "seed " << seed << ", " << node.name;
      for (const auto& [step, ids] : expected.at(node.id)) {
        for (const MicrobatchId& id : ids) reference.add(id);
        reference.step(step, static_cast<std::int64_t>(ids.size()) * tokens);
      }
      EXPECT_EQ(node.compute->theta(), reference.theta()) << "seed " << seed << ", " << node.name;
    }
  }
}

}  // namespace
}  // namespace starling::trainer
