// What a worker must know of the run file. config_yaml fills it; each section's struct stands beside its component.
#pragma once

#include <cstdint>
#include <vector>

#include "gossip/base/time.h"
#include "gossip/membership/membership_config.h"
#include "gossip/outer/outer_config.h"
#include "pipeline/pipeline_config.h"
#include "trainer/worker/model_config.h"
#include "trainer/worker/training_config.h"

namespace starling::trainer {

struct WorkerConfig {
  std::uint64_t seed = 1337;
  TrainingConfig training;
  OptimizerConfig optimizer;
  SchedulerConfig scheduler;
  ParallelismConfig parallelism;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  outer::OuterConfig outer;
  pipeline::PipelineConfig pipeline;
  membership::MembershipConfig membership;
  std::int64_t log_interval = 10;
  std::int64_t memory_bytes = 1LL << 30;   // of what may wait for its backward pass; `auto` is resolved before

  // max_steps, or what max_tokens comes to.
  Step last_step() const;
  std::int64_t start_workers() const {
    return membership.start_workers.value_or(parallelism.stages * parallelism.replicas);
  }
};

}  // namespace starling::trainer
