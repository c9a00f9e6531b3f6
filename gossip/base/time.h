// Time as every decision sees it: monotonic, in nanoseconds, since an origin that means nothing. It comes from
// Clock::now(), is read once per event and handed down; no decider reads a clock, and no time point of another node is
// ever compared with ours.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace starling {

struct MonotonicClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<MonotonicClock>;
  static constexpr bool is_steady = true;
};

using Duration = MonotonicClock::duration;
using TimePoint = MonotonicClock::time_point;

inline constexpr TimePoint never = TimePoint::max();

inline double seconds(Duration d) { return std::chrono::duration<double>(d).count(); }
inline Duration from_seconds(double s) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(s));
}
// `d * factor`, rounded towards zero. REQUIRES: factor >= 0 and the result fits.
inline Duration scale(Duration d, double factor) {
  return Duration(static_cast<Duration::rep>(static_cast<double>(d.count()) * factor));
}
inline TimePoint earliest(TimePoint a, TimePoint b) { return a < b ? a : b; }

}  // namespace starling
