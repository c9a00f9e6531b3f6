#include "launcher/yaml_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace starling::launcher {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> faults_of(std::string_view text) {
  std::vector<std::string> out;
  for (const YamlFault& fault : read_yaml(text).faults) {
    out.push_back(std::to_string(fault.at.line) + ":" + std::to_string(fault.at.column) + " " + fault.message);
  }
  return out;
}

TEST(YamlTree, KeepsOrderAndPlaces) {
  const YamlTree tree = read_yaml("a: {x: 1}\nb:\n  - \"two\"\n  - ~\n");
  ASSERT_THAT(tree.faults, IsEmpty());
  ASSERT_EQ(tree.root.entries.size(), 2U);
  const YamlEntry& a = tree.root.entries[0];
  EXPECT_EQ(a.key, "a");
  EXPECT_EQ(a.at, (Position{1, 1}));
  EXPECT_EQ(a.value.entries[0].value.kind, YamlValue::Kind::plain);
  EXPECT_EQ(a.value.entries[0].value.at, (Position{1, 8}));
  const YamlEntry& b = tree.root.entries[1];
  ASSERT_EQ(b.value.items.size(), 2U);
  EXPECT_EQ(b.value.items[0].kind, YamlValue::Kind::quoted);
  EXPECT_EQ(b.value.items[0].text, "two");
  EXPECT_EQ(b.value.items[0].at, (Position{3, 5}));
  EXPECT_EQ(b.value.items[1].kind, YamlValue::Kind::null);
}

TEST(YamlTree, TakesWindowsLineEndsAndAByteOrderMark) {
  const YamlTree tree = read_yaml(
      "\xef\xbb\xbf"
      "a: 1\r\nb: 2\r\n");
  EXPECT_THAT(tree.faults, IsEmpty());
  ASSERT_EQ(tree.root.entries.size(), 2U);
  EXPECT_EQ(tree.root.entries[0].key, "a");
  EXPECT_EQ(tree.root.entries[1].value.text, "2");
}

TEST(YamlTree, AnEmptyTextIsNull) {
  for (const char* text : {"", "\n\n", "# only a comment\n", "---\n", "~"}) {
    const YamlTree tree = read_yaml(text);
    EXPECT_EQ(tree.root.kind, YamlValue::Kind::null) << text;
    EXPECT_THAT(tree.faults, IsEmpty()) << text;
  }
}

TEST(YamlTree, RefusesWhatCouldMeanTwoThings) {
  struct Case {
    const char* text;
    const char* fault;
  };
  const Case cases[] = {
      {"a: 1\nb: 2\na: 3\n", "3:1 duplicate key 'a': it stands in line 1 already; keep one of them"},
      {"m: {x: 1, x: 2}\n", "1:11 duplicate key 'x': it stands in line 1 already; keep one of them"},
      {"a: &name 1\n", "1:4 anchors (&name) are not used in run files; a text that begins with & needs quotes"},
      {"a: *.txt\n",
       "1:4 aliases (*name) and anchors (&name) are not used in run files; a text that begins with * or & needs "
       "quotes"},
      {"<<: {x: 1}\n", "1:1 merge keys (<<) are not used in run files; write the values out"},
      {"a: !!int \"3\"\n",
       "1:4 tags (tag:yaml.org,2002:int) are not used in run files; a text that begins with ! needs quotes"},
      {"a: !mine {x: 1}\n", "1:4 tags (!mine) are not used in run files; a text that begins with ! needs quotes"},
      {"a: 1\n---\nb: 2\n", "2:1 a second document begins here; a run file is one document"},
      {"[a, b]: 1\n", "1:1 a key must be a word"},
      {"~: 1\n", "1:1 a key must be a word"},
      {"a:\n\tb: 1\n", "2:1 a tab in the indentation; YAML wants spaces"},
      {"a:\n  \tb: 1\n", "2:3 a tab in the indentation; YAML wants spaces"},
      {"a: \"never closed\n", "1:1 a quoted text that begins in this line or above is never closed"},
      {"a: 'b\nc: d\n\n", "3:1 a quoted text that begins in this line or above is never closed"},
      {"a: \"b", "1:1 a quoted text that begins in this line or above is never closed"},
      {"a: [1, 2\n", "1:1 this is not YAML: end of sequence flow not found"},
      {"a: b: c\n", "1:5 this is not YAML: illegal map value"},
      {"a: \x01\n", "1:4 byte 0x01 cannot stand in a text; a run file is UTF-8 text"},
      {"ab\xff\n", "1:3 byte 0xff cannot stand in a text; a run file is UTF-8 text"},
      {"a: 1\n\x7f"
       "ELF\n",
       "2:1 byte 0x7f cannot stand in a text; a run file is UTF-8 text"},
  };
  for (const Case& c : cases) EXPECT_THAT(faults_of(c.text), ElementsAre(c.fault)) << c.text;
}

TEST(YamlTree, FindsAllFaultsAtOnce) {
  EXPECT_THAT(faults_of("a: &x 1\nb: 2\nb: *x\n<<: {}\n"),
              ElementsAre("1:4 anchors (&name) are not used in run files; a text that begins with & needs quotes",
                          "3:1 duplicate key 'b': it stands in line 2 already; keep one of them",
                          "3:4 aliases (*name) are not used in run files; a text that begins with * needs quotes",
                          "4:1 merge keys (<<) are not used in run files; write the values out"));
}

TEST(YamlTree, KeepsWhatIsGoodBesideAFault) {
  const YamlTree tree = read_yaml("a: &x 1\nb: *x\nc: 3\n");
  ASSERT_EQ(tree.root.entries.size(), 3U);
  EXPECT_EQ(tree.root.entries[1].value.kind, YamlValue::Kind::refused);
  EXPECT_EQ(tree.root.entries[2].value.text, "3");
}

TEST(YamlTree, BoundsSizeDepthAndNumber) {
  const std::string big(max_yaml_bytes + 1, 'a');
  EXPECT_THAT(faults_of(big), ElementsAre("1:1 the text has 1048577 bytes; a run file has at most 1048576"));
  EXPECT_EQ(read_yaml(big).root.kind, YamlValue::Kind::refused);

  EXPECT_THAT(faults_of(std::string(100'000, '[')),
              ElementsAre(testing::HasSubstr("more than 16 levels of nesting; a run file has two")));
  EXPECT_THAT(faults_of(std::string(16, '[') + std::string(16, ']')), IsEmpty());

  std::string many = "a: [";
  for (std::size_t i = 0; i < max_yaml_values; ++i) many += "1,";
  EXPECT_THAT(faults_of(many + "1]"), ElementsAre("1:10003 more than 5000 values; this is no run file"));
}

TEST(YamlTree, StopsCountingFaults) {
  std::string text = "a: [";
  for (int i = 0; i < 2000; ++i) text += "&x 1,";
  const auto faults = faults_of(text + "1]");
  ASSERT_EQ(faults.size(), 1001U);
  EXPECT_NE(faults.back().find("more faults than are worth counting"), std::string::npos) << faults.back();
}

}  // namespace
}  // namespace starling::launcher
