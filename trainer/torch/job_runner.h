// Carries out the jobs of compute.h, one after the other, in the thread that calls. The header is torch-free; the learner
// puts a thread and queues around it.
//
// An accelerator computes and copies beside that thread. A job whose answer is copied out there has only been started, and
// the next may start before it is finished, so that the accelerator does not wait for copies; see accelerator_copies.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <variant>
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

// The answer to a job, or a call that waits until it has been copied from an accelerator.
using Started = std::variant<JobResult, std::function<JobResult()>>;

class JobRunner {
 public:
  // REQUIRES: a config whose parts are valid. `source` null: a worker without data, which cannot begin a microbatch.
  JobRunner(LearnerConfig config, std::shared_ptr<const Source> source);
  ~JobRunner();

  // Sets how many threads the calling thread's jobs use, and measures which precision is faster where the config asks for
  // that. Once, in the thread that will run the jobs.
  void adopt_thread(const Clock& clock);
  // Both never throw: what torch throws ends the process with its message, since a device out of memory or at odds with our
  // shapes cannot go on. REQUIRES: the first job is a Load.
  Started start(const Job& job);
  JobResult finish(Started started);
  JobResult run(const Job& job) { return finish(start(job)); }
  // Whether it is worth it to start `job` before the one before it is finished: false where it waits for the device anyway,
  // or for data (Begin).
  static bool starts_at_once(const Job& job);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace starling::trainer
