#include "gossip/base/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace starling {
namespace {

Result<int> half_of(int value) {
  if (value % 2 != 0) return fail(ErrorCode::bad_input, "expected an even number, got " + std::to_string(value));
  return value / 2;
}

TEST(Error, CarriesItsCodeAndMessage) {
  EXPECT_EQ(half_of(8), 4);
  const Result<int> failed = half_of(7);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::bad_input);
  EXPECT_EQ(failed.error().message, "expected an even number, got 7");
}

TEST(Error, EveryCodeHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(ErrorCode::failed); ++code) {
    EXPECT_TRUE(names.insert(to_string(static_cast<ErrorCode>(code))).second) << code;
  }
}

TEST(Check, SaysWhereAndWhyItEndsTheProcess) {
  const int slots = 0;
  EXPECT_DEATH(STARLING_CHECK(slots > 0, "a queue has room"),
               "error_test.cc:[0-9]+: check failed: slots > 0 \\(a queue has room\\)");
}

TEST(Check, EvaluatesItsConditionOnce) {
  int calls = 0;
  STARLING_CHECK(++calls == 1, "once");
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace starling
