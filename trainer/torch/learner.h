// The real Compute: one thread that owns all torch objects, between two queues.
//
//   loop thread   submit() ----> jobs ----> compute thread ----> completions ----> take_completions()
//                                                |
//                                              wake()   (writes the loop's eventfd)
//
// The compute thread decides nothing: it runs jobs in the order of submission and answers each once. Both queues together
// hold at most max_outstanding entries; the loop's own bounds (activation memory, one round, one load) are far below, so
// more is a bug of ours and ends the process. Ids cross the queues, buffers are shared and immutable.
//
// The thread is named after its job in ps and perf. Destruction waits for the job that runs and drops the others
// unanswered.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "gossip/base/env.h"
#include "trainer/torch/job_runner.h"
#include "trainer/worker/compute.h"

namespace starling::trainer {

class Learner final : public Compute {
 public:
  static constexpr std::size_t max_outstanding = 1 << 16;

  // `wake` is called by the compute thread after each completion and must not block. `clock` outlives the learner and may
  // be read by any thread; it measures jobs and decides nothing.
  Learner(LearnerConfig config, std::shared_ptr<const Source> source, const Clock& clock, std::function<void()> wake);
  ~Learner() override;
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  void submit(JobId id, Job job) override;
  const ComputeSizes& sizes() const override;

  // Loop thread: all completions so far, in the order of submission. Never blocks.
  std::vector<Completion> take_completions();

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace starling::trainer
