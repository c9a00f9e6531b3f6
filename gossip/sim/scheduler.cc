#include "gossip/sim/scheduler.h"

#include <algorithm>

#include "gossip/base/error.h"

namespace starling::sim {

void Scheduler::at(TimePoint when, Task task) {
  std::uint32_t slot;
  if (free_.empty()) {
    slot = static_cast<std::uint32_t>(tasks_.size());
    tasks_.push_back(std::move(task));
  } else {
    slot = free_.back();
    free_.pop_back();
    tasks_[slot] = std::move(task);
  }
  heap_.push_back({std::max(when, now_), sequence_++, slot});
  std::push_heap(heap_.begin(), heap_.end(), Later());
}

void Scheduler::run_one() {
  STARLING_CHECK(!heap_.empty(), "there is nothing to run");
  std::pop_heap(heap_.begin(), heap_.end(), Later());
  const Entry entry = heap_.back();
  heap_.pop_back();
  now_ = entry.when;
  ++executed_;
  // Out of its slot first: the task may schedule others.
  const Task task = std::move(tasks_[entry.slot]);
  tasks_[entry.slot] = nullptr;
  free_.push_back(entry.slot);
  task();
}

void Scheduler::run_until(TimePoint until) {
  while (!heap_.empty() && heap_.front().when <= until) run_one();
  now_ = std::max(now_, until);
}

}  // namespace starling::sim
