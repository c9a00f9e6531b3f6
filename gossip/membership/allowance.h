// So many at once, and one per interval after that: how the view bounds what one peer can make it do.
//
// Source: the generic cell rate algorithm (ITU-T I.371), which needs one time point instead of a count and a clock.
#pragma once

#include <algorithm>

#include "gossip/base/time.h"

namespace starling::membership {

class Allowance {
 public:
  // REQUIRES: burst >= 1.
  Allowance(Duration interval, int burst) : interval_(interval), slack_(interval * (burst - 1)) {}
  // Whether one more may happen now. A question only, so that nothing is charged before it has proved genuine.
  bool has(TimePoint now) const { return due_ <= now + slack_; }
  // When one more may happen: `now` or later.
  TimePoint next(TimePoint now) const { return std::max(now, due_ - slack_); }
  void take(TimePoint now) { due_ = std::max(due_, now) + interval_; }

 private:
  Duration interval_;
  Duration slack_;
  TimePoint due_ = TimePoint{};
};

}  // namespace starling::membership
