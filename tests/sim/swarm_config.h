// A run small enough to simulate by the hundred.
#pragma once

#include "trainer/worker/sim_world.h"

namespace starling::trainer {

inline SimWorld::Config swarm_config(std::uint64_t seed, std::int64_t stages, std::int64_t replicas, Step max_steps) {
  SimWorld::Config config;
  config.seed = seed;
  WorkerConfig& worker = config.worker;
  worker.training.seq_len = 4;
  worker.training.micro_batch_size = 1;
  worker.training.microbatches = 4 * stages;
  worker.training.max_steps = max_steps;
  worker.parallelism.stages = stages;
  worker.parallelism.replicas = replicas;
  worker.scheduler.warmup_steps = 2;
  worker.outer.local_steps = 10;
  worker.eval = {.interval = 20, .batches = 4};
  config.workers = static_cast<std::size_t>(stages * replicas);
  config.network.link.jitter = std::chrono::milliseconds(5);
  return config;
}

// Four stages of sixteen replicas.
inline SimWorld::Config sixty_four(std::uint64_t seed, Step max_steps) {
  SimWorld::Config config = swarm_config(seed, 4, 16, max_steps);
  config.worker.training.microbatches = 4;
  config.compute.forward_seconds = 0.05;
  return config;
}

}  // namespace starling::trainer
