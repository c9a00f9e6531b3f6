// A simulated node's clock: the scheduler's time, which stands still while a task runs.
#pragma once

#include "gossip/base/env.h"
#include "gossip/sim/scheduler.h"

namespace starling::sim {

// Wall time starts at `unix_origin` and may be wrong by a node's own `skew`.
class SimClock final : public Clock {
 public:
  explicit SimClock(const Scheduler& scheduler, double unix_origin = 1.7e9, double skew = 0.0)
      : scheduler_(scheduler), origin_(unix_origin + skew) {}
  TimePoint now() const override { return scheduler_.now(); }
  double unix_seconds() const override { return origin_ + seconds(scheduler_.now().time_since_epoch()); }

 private:
  const Scheduler& scheduler_;
  double origin_;
};

}  // namespace starling::sim
