#include "launcher/yaml_value.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace starling::launcher {
namespace {

YamlValue value_of(const std::string& text) {
  YamlTree tree = read_yaml(text);
  EXPECT_TRUE(tree.faults.empty()) << text << ": " << tree.faults.front().message;
  return tree.root;
}

template <typename T>
std::string error_of(const Read<T>& read) {
  return read ? "no error" : read.error();
}

TEST(YamlValue, ReadsWhatIsMeant) {
  EXPECT_EQ(read_integer(value_of("-12")), -12);
  EXPECT_EQ(read_integer(value_of("+7")), 7);
  EXPECT_EQ(read_integer(value_of("0")), 0);
  EXPECT_EQ(read_integer(value_of("9223372036854775807")), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(read_seed(value_of("18446744073709551615")), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(read_number(value_of("6.0e-4")), 6.0e-4);
  EXPECT_EQ(read_number(value_of("1")), 1.0);
  EXPECT_EQ(read_number(value_of(".5")), 0.5);
  EXPECT_EQ(read_number(value_of("-2.")), -2.0);
  EXPECT_EQ(read_boolean(value_of("true")), true);
  EXPECT_EQ(read_boolean(value_of("false")), false);
  EXPECT_EQ(read_text(value_of("data/train_*.bin")), "data/train_*.bin");
  EXPECT_EQ(read_text(value_of("\"no\"")), "no");
  EXPECT_EQ(read_text(value_of("''")), "");
  EXPECT_EQ(read_duration(value_of("500ms")), std::chrono::milliseconds(500));
  EXPECT_EQ(read_duration(value_of("1.5h")), std::chrono::minutes(90));
  EXPECT_EQ(read_duration(value_of("2 s")), std::chrono::seconds(2));
  EXPECT_EQ(read_duration(value_of("7d")), std::chrono::hours(168));
  EXPECT_EQ(read_bytes(value_of("20GiB")), 20LL << 30);
  EXPECT_EQ(read_bytes(value_of("1.5MB")), 1'500'000);
  EXPECT_EQ(read_bytes(value_of("12B")), 12);
  EXPECT_EQ(read_integers(value_of("[1, 2]")), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(read_texts(value_of("[]")), std::vector<std::string>());
}

TEST(YamlValue, SaysWhatWasExpectedWhatCameAndWhatToWrite) {
  const auto integer = [](const YamlValue& v) { return error_of(read_integer(v)); };
  const auto seed = [](const YamlValue& v) { return error_of(read_seed(v)); };
  const auto number = [](const YamlValue& v) { return error_of(read_number(v)); };
  const auto boolean = [](const YamlValue& v) { return error_of(read_boolean(v)); };
  const auto text = [](const YamlValue& v) { return error_of(read_text(v)); };
  const auto duration = [](const YamlValue& v) { return error_of(read_duration(v)); };
  const auto bytes = [](const YamlValue& v) { return error_of(read_bytes(v)); };
  const auto integers = [](const YamlValue& v) { return error_of(read_integers(v)); };
  const auto texts = [](const YamlValue& v) { return error_of(read_texts(v)); };
  struct Case {
    std::function<std::string(const YamlValue&)> read;
    const char* yaml;
    const char* error;
  };
  const Case cases[] = {
      {integer, "abc", "expected an integer, got 'abc'"},
      {integer, "1.0", "expected an integer, got 1.0"},
      {integer, "1e3", "expected an integer, got 1e3"},
      {integer, "\"768\"", "expected an integer, got the text \"768\"; remove the quotes"},
      {integer, "010", "expected an integer, got 010; a leading zero means octal to some readers: write 10"},
      {integer, "-007", "expected an integer, got -007; a leading zero means octal to some readers: write -7"},
      {integer, "0x10", "expected an integer, got 0x10; write it in decimal"},
      {integer, "0o17", "expected an integer, got 0o17; write it in decimal"},
      {integer, "32_000", "expected an integer, got '32_000'; write 32000"},
      {integer, "9223372036854775808",
       "expected an integer of -9223372036854775808 to 9223372036854775807, got 9223372036854775808"},
      {integer, "~", "expected an integer, got null"},
      {integer, "true", "expected an integer, got true"},
      {integer, "[1]", "expected an integer, got a list of 1"},
      {integer, "{a: 1}", "expected an integer, got a mapping"},
      {seed, "-1", "expected an integer of 0 to 18446744073709551615, got -1"},
      {number, ".nan", "expected a number, got .nan; it must be finite"},
      {number, "-.inf", "expected a number, got -.inf; it must be finite"},
      {number, "inf", "expected a number, got 'inf'; it must be finite"},
      {number, "1e999", "expected a number that a double can hold, got 1e999"},
      {number, "1e-999", "expected a number that a double can hold, got 1e-999"},
      {number, "1,5", "expected a number, got '1,5'"},
      {number, "00.5", "expected a number, got 00.5; a leading zero means octal to some readers: write 0.5"},
      {number, "1e", "expected a number, got '1e'"},
      {number, ".", "expected a number, got '.'"},
      {boolean, "yes", "expected true or false, got yes; write true"},
      {boolean, "off", "expected true or false, got off; write false"},
      {boolean, "True", "expected true or false, got True; write true"},
      {boolean, "\"true\"", "expected true or false, got the text \"true\"; write true"},
      {boolean, "0", "expected true or false, got 0; write false"},
      {boolean, "2", "expected true or false, got 2"},
      {text, "12", "expected a text, got 12; if it is one, write \"12\""},
      {text, "no", "expected a text, got no; if it is one, write \"no\""},
      {text, "0x1f", "expected a text, got 0x1f; if it is one, write \"0x1f\""},
      {text, "null", "expected a text, got null"},
      {text, "[a]", "expected a text, got a list of 1"},
      {text, "\"a\\nb\"", "expected a text of one line without control characters, got the text \"a\\nb\""},
      {text, "\"\\e[2J\"", "expected a text of one line without control characters, got the text \"\\x1b[2J\""},
      {duration, "2", "expected a duration such as 500ms or 2s, got 2; add a unit: 2s"},
      {duration, "2 weeks", "expected a duration such as 500ms or 2s, got '2 weeks'"},
      {duration, "s", "expected a duration such as 500ms or 2s, got 's'"},
      {duration, "1e30s", "expected a duration such as 500ms or 2s, got '1e30s'"},
      {duration, "99999999999d", "too large: '99999999999d'"},
      {bytes, "20", "expected a size such as 512MiB or 20GiB, got 20; add a unit: 20MiB"},
      {bytes, "20gib", "expected a size such as 512MiB or 20GiB, got '20gib'"},
      {bytes, "null", "expected a size such as 512MiB or 20GiB, got null"},
      {integers, "3", "expected a list of integers, got 3; write [3]"},
      {integers, "[1, x]", "item 2: expected an integer, got 'x'"},
      {texts, "a.txt", "expected a list of texts, got 'a.txt'; write [a.txt]"},
      {texts, "{a: 1}", "expected a list of texts, got a mapping"},
  };
  for (const Case& c : cases) EXPECT_EQ(c.read(value_of(c.yaml)), c.error) << c.yaml;
}

TEST(YamlValue, LongValuesAreCutInMessages) {
  EXPECT_LE(error_of(read_integer(value_of(std::string(10'000, 'a')))).size(), 120U);
}

TEST(YamlValue, WhatIsWrittenIsReadBack) {
  EXPECT_TRUE(rc::check("numbers", [](std::int64_t bits) {
    double value = 0.0;
    static_assert(sizeof value == sizeof bits);
    std::memcpy(&value, &bits, sizeof value);
    RC_PRE(std::isfinite(value));
    RC_ASSERT(read_number(value_of(write_number(value))) == value);
  }));
  EXPECT_TRUE(rc::check("integers", [](std::int64_t value, std::uint64_t seed) {
    RC_ASSERT(read_integer(value_of(write_integer(value))) == value);
    RC_ASSERT(read_seed(value_of(write_seed(seed))) == seed);
  }));
  EXPECT_TRUE(rc::check("quantities", [] {
    const auto value = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 52) << *rc::gen::inRange(0, 9);
    RC_ASSERT(read_duration(value_of(write_duration(Duration(value)))) == Duration(value));
    RC_ASSERT(read_bytes(value_of(write_bytes(value))) == value);
  }));
  EXPECT_TRUE(rc::check("texts", [] {
    const auto pieces = rc::gen::elementOf(std::vector<std::string>{"a", "\"", "\\", "'", " ", "#", ": ", "*", "&", "!",
                                                                    "-", "[", "{", ",", "é", "\xc2\xa0", "0"});
    std::vector<std::string> texts(*rc::gen::inRange<std::size_t>(0, 4));
    for (std::string& text : texts) {
      for (const std::string& piece : *rc::gen::container<std::vector<std::string>>(pieces)) text += piece;
    }
    RC_ASSERT(read_texts(value_of(write_texts(texts))) == texts);
  }));
}

TEST(YamlValue, WritesUnitsThatAreEasyToRead) {
  EXPECT_EQ(write_duration(std::chrono::seconds(1)), "1s");
  EXPECT_EQ(write_duration(std::chrono::milliseconds(1500)), "1500ms");
  EXPECT_EQ(write_duration(std::chrono::hours(48)), "2d");
  EXPECT_EQ(write_duration(Duration(0)), "0ns");
  EXPECT_EQ(write_bytes(20LL << 30), "20GiB");
  EXPECT_EQ(write_bytes(3'000'000), "3MB");
  EXPECT_EQ(write_bytes(1001), "1001B");
  EXPECT_EQ(write_text("a \"b\" \\c"), "\"a \\\"b\\\" \\\\c\"");
  EXPECT_EQ(write_number(1.0e-8), "1e-08");
}

}  // namespace
}  // namespace starling::launcher
