#include "gossip/sim/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/sim/clock.h"

namespace starling::sim {
namespace {

using namespace std::chrono_literals;

TEST(Scheduler, RunsByTimeAndThenInTheOrderOfScheduling) {
  Scheduler scheduler;
  Stream random(7);
  std::vector<std::pair<TimePoint, int>> ran;
  std::vector<std::pair<TimePoint, int>> expected;
  for (int i = 0; i < 1000; ++i) {
    const TimePoint when{Duration(random.below(50))};
    expected.emplace_back(when, i);
    scheduler.at(when, [&ran, &scheduler, i] { ran.emplace_back(scheduler.now(), i); });
  }
  std::sort(expected.begin(), expected.end());
  while (!scheduler.empty()) scheduler.run_one();
  EXPECT_EQ(ran, expected);
  EXPECT_EQ(scheduler.executed(), 1000u);
}

TEST(Scheduler, ATaskMayScheduleOthers) {
  Scheduler scheduler;
  int left = 100;
  std::function<void()> again = [&] {
    if (--left > 0) scheduler.after(1ms, again);
  };
  scheduler.after(1ms, again);
  scheduler.run_until(TimePoint(50ms));
  EXPECT_EQ(left, 50);
  scheduler.run_until(TimePoint(1s));
  EXPECT_EQ(left, 0);
  EXPECT_EQ(scheduler.now(), TimePoint(1s));
  EXPECT_EQ(scheduler.next(), never);
}

TEST(Scheduler, ThePastMeansNowAfterWhatIsDue) {
  Scheduler scheduler;
  scheduler.run_until(TimePoint(10s));
  std::vector<int> ran;
  scheduler.at(TimePoint(10s), [&] { ran.push_back(1); });
  scheduler.at(TimePoint(3s), [&] { ran.push_back(2); });
  scheduler.run_until(TimePoint(10s));
  EXPECT_EQ(ran, (std::vector<int>{1, 2}));
}

TEST(SimClock, ShowsTheSchedulersTimeAndItsOwnWallTime) {
  Scheduler scheduler;
  const SimClock right(scheduler, 1000.0);
  const SimClock wrong(scheduler, 1000.0, -3.0);
  scheduler.run_until(TimePoint(2500ms));
  EXPECT_EQ(right.now(), TimePoint(2500ms));
  EXPECT_DOUBLE_EQ(right.unix_seconds(), 1002.5);
  EXPECT_DOUBLE_EQ(wrong.unix_seconds(), 999.5);
}

}  // namespace
}  // namespace starling::sim
