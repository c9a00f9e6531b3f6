#include "gossip/base/printable.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace starling {
namespace {

TEST(Printable, LeavesTextAsItIs) {
  EXPECT_EQ(printable("worker w03 left", 100), "worker w03 left");
  EXPECT_EQ(printable("Zo\u00eb \u2014 \U0001f426", 100), "Zo\u00eb \u2014 \U0001f426");
  EXPECT_EQ(printable("", 3), "");
}

TEST(Printable, EscapesWhatAPeerCouldForgeALineOrATerminalWith) {
  EXPECT_EQ(printable("a\nb\tc\r", 100), "a\\nb\\tc\\r");
  EXPECT_EQ(printable("\x1b[2J", 100), "\\x1b[2J");
  EXPECT_EQ(printable(std::string_view("\0\x7f", 2), 100), "\\x00\\x7f");
  EXPECT_EQ(printable("\u009b", 100), "\\xc2\\x9b");  // the one-character CSI
}

TEST(Printable, EscapesBytesThatAreNoText) {
  EXPECT_EQ(printable("\xff", 100), "\\xff");
  EXPECT_EQ(printable("\xc3", 100), "\\xc3");                    // cut off
  EXPECT_EQ(printable("\xc0\xaf", 100), "\\xc0\\xaf");           // overlong '/'
  EXPECT_EQ(printable("\xed\xa0\x80", 100), "\\xed\\xa0\\x80");  // half of a pair
  EXPECT_EQ(printable("\xf4\x90\x80\x80", 100), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(printable("\xe2\x82z", 100), "\\xe2\\x82z");
}

TEST(Printable, CutsBetweenCharacters) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abc...");
  EXPECT_EQ(printable("ab\u00ebdefg", 6), "ab...");
  EXPECT_EQ(printable("\n\n\n\n", 6), "\\n...");
  EXPECT_EQ(printable("abcd", 3), "...");
}

RC_GTEST_PROP(Printable, IsOneLineOfValidTextWithinItsBound, (const std::vector<std::uint8_t>& bytes)) {
  const auto bound = *rc::gen::inRange<std::size_t>(3, 40);
  const std::string out = printable(std::string(bytes.begin(), bytes.end()), bound);
  RC_ASSERT(out.size() <= bound);
  for (std::string_view rest = out; !rest.empty();) {
    const std::size_t length = utf8_length(rest);
    RC_ASSERT(length > 0U);
    if (length == 1) RC_ASSERT(rest[0] >= 0x20 && rest[0] < 0x7f);
    rest.remove_prefix(length);
  }
}

}  // namespace
}  // namespace starling
