#include "trainer/torch/learner.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "gossip/base/error.h"

namespace starling::trainer {

struct Learner::Shared {
  struct Submitted {
    JobId id = 0;
    Job job;
  };

  Shared(LearnerConfig config, std::shared_ptr<const Source> source, const Clock& its_clock,
         std::function<void()> its_wake)
      : sizes(compute_sizes(config)),
        runner(std::move(config), std::move(source)),
        clock(its_clock),
        wake(std::move(its_wake)) {}

  const ComputeSizes sizes;
  JobRunner runner;  // compute thread only
  const Clock& clock;
  const std::function<void()> wake;

  std::mutex mutex;  // guards what follows
  std::condition_variable job_came;
  std::deque<Submitted> jobs;
  std::vector<Completion> completions;
  std::size_t outstanding = 0;
  bool stopping = false;

  std::thread thread;

  std::optional<Submitted> next_job() {
    std::unique_lock lock(mutex);
    job_came.wait(lock, [this] { return stopping || !jobs.empty(); });
    if (stopping) return std::nullopt;
    Submitted out = std::move(jobs.front());
    jobs.pop_front();
    return out;
  }

  void compute() {
    runner.adopt_thread(clock);
    while (std::optional<Submitted> submitted = next_job()) {
      const TimePoint begin = clock.now();
      JobResult result = runner.run(submitted->job);
      const double took = seconds(clock.now() - begin);
      {
        const std::scoped_lock lock(mutex);
        completions.push_back({.job = submitted->id, .result = std::move(result), .compute_seconds = took});
      }
      wake();
    }
  }
};

Learner::Learner(LearnerConfig config, std::shared_ptr<const Source> source, const Clock& clock,
                 std::function<void()> wake)
    : shared_(std::make_unique<Shared>(std::move(config), std::move(source), clock, std::move(wake))) {
  shared_->thread = std::thread([shared = shared_.get()] { shared->compute(); });
  pthread_setname_np(shared_->thread.native_handle(), "compute");
}

Learner::~Learner() {
  {
    const std::scoped_lock lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->job_came.notify_one();
  shared_->thread.join();
}

void Learner::submit(JobId id, Job job) {
  {
    const std::scoped_lock lock(shared_->mutex);
    STARLING_CHECK(shared_->outstanding < max_outstanding, "more jobs than any bound of the loop allows");
    ++shared_->outstanding;
    shared_->jobs.push_back({.id = id, .job = std::move(job)});
  }
  shared_->job_came.notify_one();
}

const ComputeSizes& Learner::sizes() const { return shared_->sizes; }

std::vector<Completion> Learner::take_completions() {
  const std::scoped_lock lock(shared_->mutex);
  shared_->outstanding -= shared_->completions.size();
  return std::exchange(shared_->completions, {});
}

}  // namespace starling::trainer
