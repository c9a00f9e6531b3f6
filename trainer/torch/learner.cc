#include "trainer/torch/learner.h"

#include <pthread.h>

#include <algorithm>
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

  TimePoint finished_at{};  // compute thread only: of the last job

  std::thread thread;

  // A job of which an accelerator may still copy the answer.
  struct Running {
    JobId id = 0;
    Started started;
    TimePoint begin{};
  };

  // None: stopping, or, where the caller does not wait, there is no job now.
  std::optional<Submitted> next_job(bool wait) {
    std::unique_lock lock(mutex);
    if (wait) job_came.wait(lock, [this] { return stopping || !jobs.empty(); });
    if (stopping || jobs.empty()) return std::nullopt;
    Submitted out = std::move(jobs.front());
    jobs.pop_front();
    return out;
  }

  // At most one job is started before the one before it is finished.
  void compute() {
    runner.adopt_thread(clock);
    std::optional<Running> before;
    for (;;) {
      const std::optional<Submitted> next = next_job(/*wait=*/!before);
      if (!next && !before) return;
      if (next && !JobRunner::starts_at_once(next->job)) finish(before);
      std::optional<Running> now;
      if (next) {
        const TimePoint begin = clock.now();
        now = Running{.id = next->id, .started = runner.start(next->job), .begin = begin};
      }
      finish(before);
      if (now && std::holds_alternative<JobResult>(now->started)) finish(now);
      before = std::move(now);
    }
  }

  void finish(std::optional<Running>& running) {
    if (!running) return;
    JobResult result = runner.finish(std::move(running->started));
    const TimePoint now = clock.now();
    const double took = seconds(now - std::max(running->begin, finished_at));
    finished_at = now;
    {
      const std::scoped_lock lock(mutex);
      completions.push_back({.job = running->id, .result = std::move(result), .compute_seconds = took});
    }
    running.reset();
    wake();
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
