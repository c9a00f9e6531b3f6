// The one event heap of a simulated world, and its time.
//
// Everything that happens in virtual time is a task at a time. Tasks run in the order of (time, sequence number), the
// sequence number being the order in which they were scheduled: so one seed gives one history, on any machine. Time
// stands still while a task runs and jumps to the next one after it; a simulated hour costs what its events cost.
//
// A task cannot be taken back. Who schedules one that may be out of date by its time keeps a generation number and
// compares: cheaper than a heap with a handle per entry, and a crashed node's tasks need no search.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "gossip/base/time.h"

namespace starling::sim {

class Scheduler {
 public:
  // Captures of up to 16 trivially copyable bytes ([this, token]) cost no allocation.
  using Task = std::function<void()>;

  TimePoint now() const { return now_; }
  // A time that has passed means now, after all that is due now.
  void at(TimePoint when, Task task);
  void after(Duration delay, Task task) { at(now_ + delay, std::move(task)); }

  bool empty() const { return heap_.empty(); }
  // `never` when nothing is scheduled.
  TimePoint next() const { return heap_.empty() ? never : heap_.front().when; }
  // Runs the next task. REQUIRES: !empty().
  void run_one();
  // Runs all tasks up to and at `until`; then it is `until`.
  void run_until(TimePoint until);
  // Tasks run since the start: a fingerprint of the history, and what a bound on its length counts.
  std::uint64_t executed() const { return executed_; }

 private:
  struct Entry {
    TimePoint when;
    std::uint64_t sequence;
    std::uint32_t slot;  // of tasks_
  };
  struct Later {
    bool operator()(const Entry& a, const Entry& b) const {
      return a.when != b.when ? a.when > b.when : a.sequence > b.sequence;
    }
  };

  TimePoint now_{};
  std::uint64_t sequence_ = 0;
  std::uint64_t executed_ = 0;
  std::vector<Entry> heap_;
  std::vector<Task> tasks_;  // apart from the heap, so that sifting moves small entries
  std::vector<std::uint32_t> free_;
};

}  // namespace starling::sim
