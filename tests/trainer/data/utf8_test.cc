#include "trainer/data/utf8.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "gossip/base/printable.h"

namespace starling::trainer {
namespace {

// The text, with U+FFFD also for a cut character at its end.
std::string repaired(std::string_view text) {
  std::string out;
  if (!append_valid_utf8(text, out).empty()) out += replacement_character;
  return out;
}

TEST(Utf8, GoodTextStaysAsItIs) {
  const std::string text = "a\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80\xf4\x8f\xbf\xbf";
  EXPECT_EQ(repaired(text), text);
}

// Table 3-8 of the Unicode standard and its neighbours.
TEST(Utf8, EachMaximalSubpartIsReplacedOnce) {
  const std::string r(replacement_character);
  EXPECT_EQ(repaired("a\xf1\x80\x80\xe1\x80\xc2"
                     "b\x80"
                     "c\x80\xbf"
                     "d"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(repaired("\xc0\xaf"), r + r);          // overlong
  EXPECT_EQ(repaired("\xe0\x80\xaf"), r + r + r);  // overlong
  EXPECT_EQ(repaired("\xed\xa0\x80"), r + r + r);  // half of a surrogate pair
  EXPECT_EQ(repaired("\xf4\x90\x80\x80"), r + r + r + r);
  EXPECT_EQ(repaired("\xf0\x9f\x98"), r);
  EXPECT_EQ(repaired("\xff"), r);
}

TEST(Utf8, ACutCharacterWaits) {
  const std::string text = "ab\xf0\x9f\x98\x80";
  for (std::size_t cut = 3; cut < 6; ++cut) {
    std::string out;
    EXPECT_EQ(append_valid_utf8(std::string_view(text).substr(0, cut), out), text.substr(2, cut - 2));
    EXPECT_EQ(out, "ab");
  }
}

RC_GTEST_PROP(Utf8Properties, CutAnywhereItIsTheSameText, ()) {
  const auto text = *rc::gen::container<std::string>(
      rc::gen::elementOf(std::string("a\xc3\x28\xe2\x82\xac\xf0\x9f\x98\x80\xed\xff\xe0\xa0\xf4\x8f")));
  const auto cut = *rc::gen::inRange<std::size_t>(0, text.size() + 1);
  std::string out;
  const std::string left(append_valid_utf8(std::string_view(text).substr(0, cut), out));
  RC_ASSERT(left.size() < 4u);
  const std::string rest = left + text.substr(cut);
  if (!append_valid_utf8(rest, out).empty()) out += replacement_character;
  RC_ASSERT(out == repaired(text));
  for (std::string_view view = out; !view.empty();) {
    const std::size_t length = utf8_length(view);
    RC_ASSERT(length > 0u);
    view.remove_prefix(length);
  }
}

}  // namespace
}  // namespace starling::trainer
