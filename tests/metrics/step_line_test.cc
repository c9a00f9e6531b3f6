#include "metrics/step_line.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

namespace starling::metrics {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

TEST(StepLine, IsTheLineThatUsersKnow) {
  StepLine line;
  line.step = 1200;
  line.max_steps = 25000;
  line.loss = 3.4119;
  line.learning_rate = 5.9e-4;
  line.gradient_norm = 0.8123;
  line.tokens_per_second = 41230;
  line.workers_active = 23;
  line.workers_wanted = 40;
  line.skip_ratio = 0.012;
  line.eta_seconds = 3 * 3600 + 12 * 60;
  EXPECT_EQ(format_step_line(line),
            "step 1200/25000 loss 3.412 lr 5.9e-4 grad 0.81 tok/s 41.2k workers 23/40 skipped 1.2% eta 3h12m");
}

TEST(StepLine, LeavesOutWhatIsNotKnown) {
  EXPECT_EQ(format_step_line({}), "step 0 workers 0");
  StepLine middle_worker;
  middle_worker.step = 7;
  middle_worker.max_steps = 10;
  middle_worker.gradient_norm = 1;
  middle_worker.workers_active = 3;
  EXPECT_EQ(format_step_line(middle_worker), "step 7/10 grad 1.00 workers 3");
}

TEST(StepLine, SaysWhatIsNotFinite) {
  StepLine line;
  line.loss = nan;
  line.gradient_norm = inf;
  line.learning_rate = 0;
  line.tokens_per_second = 0;
  line.eta_seconds = inf;
  EXPECT_EQ(format_step_line(line), "step 0 loss nan lr 0 grad inf tok/s 0 workers 0 eta -");
}

TEST(StepLine, KeepsHugeAndTinyValuesShort) {
  StepLine line;
  line.loss = 123456789;
  line.gradient_norm = 4.07e-9;
  line.tokens_per_second = 1.23456e9;
  EXPECT_EQ(format_step_line(line), "step 0 loss 1.2e8 grad 4.1e-9 tok/s 1.23G workers 0");
}

TEST(Figures, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(950), "950");
  EXPECT_EQ(format_count(9.5), "9.50");
  EXPECT_EQ(format_count(999.4), "999");
  EXPECT_EQ(format_count(999.6), "1.00k");
  EXPECT_EQ(format_count(9996), "10.0k");
  EXPECT_EQ(format_count(41230), "41.2k");
  EXPECT_EQ(format_count(412300), "412k");
  EXPECT_EQ(format_count(999600), "1.00M");
  EXPECT_EQ(format_count(-41230), "-41.2k");
  EXPECT_EQ(format_count(1e30), "1.0e30");
  EXPECT_EQ(format_count(nan), "nan");
  EXPECT_EQ(format_count(-inf), "-inf");
}

TEST(Figures, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1024), "1.0 KiB");
  EXPECT_EQ(format_bytes(3ULL << 30), "3.0 GiB");
  EXPECT_EQ(format_bytes(412ULL << 20), "412 MiB");
  EXPECT_EQ(format_bytes(1000ULL << 20), "1.0 GiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

TEST(Figures, Durations) {
  EXPECT_EQ(format_duration(0), "0s");
  EXPECT_EQ(format_duration(0.4), "0s");
  EXPECT_EQ(format_duration(59.4), "59s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(750), "12m30s");
  EXPECT_EQ(format_duration(3599.6), "1h00m");
  EXPECT_EQ(format_duration(3 * 3600 + 12 * 60 + 59), "3h12m");
  EXPECT_EQ(format_duration(86399.6), "1d0h");
  EXPECT_EQ(format_duration(2 * 86400 + 4 * 3600), "2d4h");
  EXPECT_EQ(format_duration(1e9), ">999d");
  EXPECT_EQ(format_duration(-1), "-");
  EXPECT_EQ(format_duration(nan), "-");
}

TEST(Figures, Scientific) {
  EXPECT_EQ(format_scientific(5.9e-4), "5.9e-4");
  EXPECT_EQ(format_scientific(1e-10), "1.0e-10");
  EXPECT_EQ(format_scientific(9.96e5), "1.0e6");
  EXPECT_EQ(format_scientific(-2.5), "-2.5e0");
}

RC_GTEST_PROP(Figures, StayShort, (double value)) {
  RC_ASSERT(format_count(value).size() <= 9U);
  RC_ASSERT(format_short(value).size() <= 9U);
  RC_ASSERT(format_scientific(value).size() <= 9U);
  RC_ASSERT(format_duration(value).size() <= 7U);
}

TEST(Figures, StayShortAtTheEdges) {
  for (const double value : {1e308, -1e308, 5e-324, -5e-324, 0.00999999, 9999.4, 9999.6, -9999.6, 99.96, 9.996}) {
    EXPECT_LE(format_short(value).size(), 9U) << value;
    EXPECT_LE(format_count(value).size(), 9U) << value;
  }
}

}  // namespace
}  // namespace starling::metrics
