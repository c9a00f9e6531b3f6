#include "gossip/net/ack_deadline.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <vector>

namespace starling::net {
namespace {

using namespace std::chrono_literals;

RC_GTEST_PROP(Quantile90, IsTheNearestRankOfTheLast64, ()) {
  const auto values = *rc::gen::nonEmpty(rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 1000)));
  Quantile90 quantile;
  for (const int v : values) quantile.add(Duration(v));
  std::vector<int> last(values.end() - static_cast<std::ptrdiff_t>(std::min<std::size_t>(64, values.size())),
                        values.end());
  std::sort(last.begin(), last.end());
  // Nearest rank, counted out: the smallest value that at least 90 % are not above.
  std::size_t rank = 1;
  while (rank * 10 < last.size() * 9) ++rank;
  RC_ASSERT(quantile.value() == Duration(last[rank - 1]));
}

TEST(AckDeadline, IsTwoSecondsBeforeTheFirstSample) { EXPECT_EQ(AckDeadline().deadline(), 2s); }

TEST(AckDeadline, IsTwiceTheQuantileAndAMargin) {
  AckDeadline ack;
  for (int i = 0; i < 100; ++i) ack.answered(i % 10 == 0 ? 300ms : 20ms);  // a tenth is slow: q90 is still 20 ms
  EXPECT_EQ(ack.deadline(), 2 * 20ms + 50ms);
  for (int i = 0; i < 64; ++i) ack.answered(i % 5 == 0 ? 300ms : 20ms);  // a fifth is slow
  EXPECT_EQ(ack.deadline(), 2 * 300ms + 50ms);
}

TEST(AckDeadline, GrowsWithEachTimeOutUpToABoundAndAnyAnswerEndsIt) {
  AckDeadline ack;
  ack.timed_out();
  EXPECT_EQ(ack.deadline(), 3s);
  ack.timed_out();
  EXPECT_EQ(ack.deadline(), 4500ms);
  for (int i = 0; i < 100; ++i) ack.timed_out();
  EXPECT_EQ(ack.deadline(), 64 * 2s);
  ack.answered(10ms);
  EXPECT_EQ(ack.deadline(), 70ms);
}

TEST(AckDeadline, LateAnswersLengthenIt) {
  AckDeadline ack;
  for (int i = 0; i < 64; ++i) ack.answered(10ms);
  ASSERT_EQ(ack.deadline(), 70ms);
  for (int i = 0; i < 8; ++i) {  // each comes after its deadline
    ack.timed_out();
    ack.answered(1s);
  }
  EXPECT_EQ(ack.deadline(), 2 * 1s + 50ms);
}

TEST(SharedDeadline, GrowsOncePerDeadlineHoweverManyRunOut) {
  SharedDeadline shared;
  const TimePoint start{};
  for (int i = 0; i < 20; ++i) shared.timed_out(start);
  EXPECT_EQ(shared.deadline(), 3s);
  shared.timed_out(start + 2999ms);
  EXPECT_EQ(shared.deadline(), 3s);
  shared.timed_out(start + 3s);
  EXPECT_EQ(shared.deadline(), 4500ms);
}

}  // namespace
}  // namespace starling::net
