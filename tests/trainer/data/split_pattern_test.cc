#include "trainer/data/split_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::trainer {
namespace {

using testing::HasSubstr;

// What of `text` the pattern matches at its beginning; "-" for no match.
std::string matched(std::string_view pattern, std::string_view text) {
  const auto parsed = SplitPattern::parse(pattern);
  EXPECT_TRUE(parsed) << pattern;
  if (!parsed) return "error";
  std::int64_t steps = 1'000'000;
  const auto end = parsed->match(text, 0, steps);
  return end ? std::string(text.substr(0, *end)) : "-";
}

std::string refusal(std::string_view pattern) {
  const auto parsed = SplitPattern::parse(pattern);
  EXPECT_FALSE(parsed) << pattern;
  return parsed ? std::string() : parsed.error().message;
}

TEST(SplitPattern, MatchesAsRegularExpressionsDo) {
  EXPECT_EQ(matched("ab|a", "abc"), "ab");
  EXPECT_EQ(matched("a|ab", "abc"), "a");  // the first branch, not the longest
  EXPECT_EQ(matched("a+", "aaab"), "aaa");
  EXPECT_EQ(matched("a{1,2}", "aaab"), "aa");
  EXPECT_EQ(matched("a{2}", "ab"), "-");
  EXPECT_EQ(matched("a{2,}", "aaaa"), "aaaa");
  EXPECT_EQ(matched("[a-c]*b", "abcbx"), "abcb");  // gives back until the rest fits
  EXPECT_EQ(matched("[a-c]*+b", "abcbx"), "-");    // possessive: gives nothing back
  EXPECT_EQ(matched("a(?:b|c)?d", "acd"), "acd");
  EXPECT_EQ(matched("a(?:b|c)?d", "ad"), "ad");
  EXPECT_EQ(matched("a+(?!b)", "aaab"), "aa");
  EXPECT_EQ(matched("\\s+(?!\\S)", "  \n x"), "  \n");
  EXPECT_EQ(matched("(?i:'s)", "'S"), "'S");
  EXPECT_EQ(matched("(?i:'s)", "'\u017f"), "'\u017f");
  EXPECT_EQ(matched("(?i:(?:t))", "T"), "T");
  EXPECT_EQ(matched("[^\\s\\p{L}]+", "12é"), "12");
  EXPECT_EQ(matched("\\p{Lu}\\p{Ll}+", "Äöü!"), "Äöü");
  EXPECT_EQ(matched("\\P{L}+", "1 é"), "1 ");
  EXPECT_EQ(matched("[\\r\\n-]+", "\r-\n"), "\r-\n");
  EXPECT_EQ(matched("\\d+", "12\u0663x"), "12\u0663");
  EXPECT_EQ(matched("[一-龥]+", "天気x"), "天気");
}

TEST(SplitPattern, WhatItDoesNotKnowIsRefusedWithItsPlace) {
  EXPECT_THAT(refusal("a.b"), HasSubstr("byte 1 of the pattern: . is not known here"));
  EXPECT_THAT(refusal("(?<=a)b"), HasSubstr("neither (?:, (?i: nor (?!"));
  EXPECT_THAT(refusal("(?:ab)+"), HasSubstr("a repeated group"));
  EXPECT_THAT(refusal("a+?"), HasSubstr("a repeated repetition"));
  EXPECT_THAT(refusal("\\p{Han}"), HasSubstr("the category 'Han'"));
  EXPECT_THAT(refusal("[[:alpha:]]"), HasSubstr("inside of '['"));
  EXPECT_THAT(refusal("a{3,2}"), HasSubstr("such a repetition"));
  EXPECT_THAT(refusal("a{99999}"), HasSubstr("no number up to"));
  EXPECT_THAT(refusal("a*|b"), HasSubstr("matches an empty text"));
  for (const char* broken :
       {"",       "(",  ")",  "[",     "[]",   "[a",     "[z-a]",    "\\",      "a{",      "a{1",   "*",  "(?:a",
        "(?!ab)", "^a", "a$", "\\p{L", "\xff", "(?i:é)", "(?i:[a])", "[a-\\s]", "[\\s-z]", "[\\S]", "a**"}) {
    EXPECT_FALSE(SplitPattern::parse(broken)) << broken;
  }
  std::string deep;
  for (int i = 0; i < 20; ++i) deep += "(?:";
  EXPECT_THAT(refusal(deep), HasSubstr("so deep"));
  EXPECT_THAT(refusal(std::string(5000, 'a')), HasSubstr("1 to 4096 bytes"));
}

TEST(SplitPattern, KnowsWhereWordsPart) {
  const auto crosses = [](std::string_view pattern) { return SplitPattern::parse(pattern)->may_cross_words(); };
  EXPECT_FALSE(crosses(" ?\\p{L}+"));
  EXPECT_TRUE(crosses("\\p{L}+ ?"));
  EXPECT_TRUE(crosses("[^\\n]+"));
  EXPECT_TRUE(crosses("a1* "));
  EXPECT_TRUE(crosses("a+(?!\\S)"));
  EXPECT_TRUE(crosses("a(?: |b)"));
  EXPECT_FALSE(crosses("\\s+(?!\\S)"));
  const auto takes = [](std::string_view pattern) { return SplitPattern::parse(pattern)->takes_letters(); };
  EXPECT_TRUE(takes("\\p{N}| ?\\p{L}+"));
  EXPECT_FALSE(takes("\\p{N}+"));
  EXPECT_FALSE(takes("\\p{L}+(?!x)"));
  EXPECT_FALSE(takes("\\p{L}{2}"));
  EXPECT_FALSE(takes("\\p{Lu}+"));
  EXPECT_FALSE(takes("[^\\s]?+\\p{L}"));
}

TEST(SplitPattern, CountsItsSteps) {
  const auto slow = SplitPattern::parse("a*a*a*a*a*a*b");
  ASSERT_TRUE(slow);
  std::int64_t steps = 10'000;
  EXPECT_EQ(slow->match(std::string(500, 'a'), 0, steps), std::nullopt);
  EXPECT_LT(steps, 0);
}

}  // namespace
}  // namespace starling::trainer
