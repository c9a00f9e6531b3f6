// Carries out the jobs of compute.h, one after the other, in the thread that calls. The header is torch-free; the learner
// puts a thread and queues around it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gossip/base/env.h"
#include "trainer/data/source.h"
#include "trainer/worker/compute.h"
#include "trainer/worker/model_config.h"
#include "trainer/worker/training_config.h"

namespace starling::trainer {

// Of the matrix products; what is kept, summed and averaged is fp32. measured: the worker finds out which is faster.
enum class Precision { float32, bfloat16, measured };

struct LearnerConfig {
  ModelConfig model;
  std::vector<StageLayers> cut;
  TrainingConfig training;
  OptimizerConfig optimizer;
  Encoding activation_encoding = Encoding::bf16;
  std::uint64_t seed = 0;               // of the run
  int threads = 1;                      // for one job: torch's and OpenMP's
  DeviceType device = DeviceType::cpu;  // cuda: opened already, see accelerator.h
  Precision precision = Precision::float32;
};

// Pure, and torch-free.
ComputeSizes compute_sizes(const LearnerConfig& config);

class JobRunner {
 public:
  // REQUIRES: a config whose parts are valid. `source` null: a worker without data, which cannot begin a microbatch.
  JobRunner(LearnerConfig config, std::shared_ptr<const Source> source);
  ~JobRunner();

  // Sets how many threads the calling thread's jobs use, and measures which precision is faster where the config asks for
  // that. Once, in the thread that will run the jobs.
  void adopt_thread(const Clock& clock);
  // REQUIRES: the first job is a Load. Never throws: what torch throws ends the process with its message, since a device
  // out of memory or at odds with our shapes cannot go on.
  JobResult run(const Job& job);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace starling::trainer
