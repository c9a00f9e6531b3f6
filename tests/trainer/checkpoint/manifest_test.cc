#include "trainer/checkpoint/manifest.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Manifest example() {
  Manifest out{.run_id = "ab12",
               .config_hash = "cd34",
               .step = 500,
               .round = 10,
               .tokens = 8'192'000,
               .cut = {{0, 2}, {2, 3}},
               .missed = {{1, "no replica answered"}},
               .files = {}};
  out.files.push_back({"config.json", {.bytes = 17, .hash = xxh3_128(as_bytes("x"))}});
  out.files.push_back({"run.yaml", {.bytes = 0, .hash = xxh3_128(as_bytes(""))}});
  return out;
}

// With the hash that fits, as somebody would write it who means it.
std::string refusal(auto change) {
  auto json = nlohmann::json::parse(manifest_text(example()));
  json.erase("xxh3_128");
  change(json);
  json["xxh3_128"] = to_hex(xxh3_128(as_bytes(json.dump(2))));
  const auto read = parse_manifest(json.dump());
  return read ? "accepted" : read.error().message;
}

TEST(Manifest, WhatIsWrittenIsRead) {
  const Manifest manifest = example();
  const auto read = parse_manifest(manifest_text(manifest));
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->run_id, "ab12");
  EXPECT_EQ(read->config_hash, "cd34");
  EXPECT_EQ(read->step, 500);
  EXPECT_EQ(read->round, 10);
  EXPECT_EQ(read->tokens, 8'192'000);
  ASSERT_EQ(read->cut.size(), 2u);
  EXPECT_EQ(read->cut[1].first, 2);
  EXPECT_EQ(read->cut[1].last, 3);
  EXPECT_THAT(read->missed, ElementsAre(Missed{1, "no replica answered"}));
  ASSERT_EQ(read->files.size(), 2u);
  EXPECT_EQ(read->files[0].name, "config.json");
  EXPECT_EQ(read->files[0].digest.bytes, 17);
  EXPECT_EQ(read->files[0].digest.hash, manifest.files[0].digest.hash);
}

// Any byte that is not blank between values: another one is noticed.
RC_GTEST_PROP(Manifest, NoChangedByteIsBelieved, ()) {
  std::string text = manifest_text(example());
  const auto at = *rc::gen::inRange<std::size_t>(0, text.size());
  const auto other = *rc::gen::arbitrary<char>();
  RC_PRE(other != text[at] && !std::isspace(static_cast<unsigned char>(text[at])));
  text[at] = other;
  RC_ASSERT(!parse_manifest(text).has_value());
}

TEST(Manifest, HasAHashOfItsOwn) {
  std::string text = manifest_text(example());
  text.replace(text.find("500"), 3, "400");
  EXPECT_THAT(parse_manifest(text).error().message, HasSubstr("its own hash does not hold"));
  EXPECT_THAT(parse_manifest("{}").error().message, HasSubstr("its own hash does not hold"));
  EXPECT_THAT(parse_manifest("").error().message, HasSubstr("expected a JSON object"));
}

TEST(Manifest, WhatDoesNotBelongThereIsRefused) {
  EXPECT_EQ(refusal([](auto&) {}), "accepted");
  EXPECT_THAT(refusal([](auto& m) { m["format"] = 2; }),
              HasSubstr("format: expected 1, which this program reads, got 2"));
  EXPECT_THAT(refusal([](auto& m) { m["step"] = -1; }), HasSubstr("step: expected a whole number"));
  EXPECT_THAT(refusal([](auto& m) { m.erase("run_id"); }), HasSubstr("run_id: expected a text, got null"));
  EXPECT_THAT(refusal([](auto& m) { m["model"] = 3; }), HasSubstr("stages: expected a list"));
  EXPECT_THAT(refusal([](auto& m) { m["model"]["stages"] = nlohmann::json::array(); }),
              HasSubstr("at least one stage"));
  EXPECT_THAT(refusal([](auto& m) { m["model"]["stages"][1] = {3, 4}; }), HasSubstr("one after the other"));
  EXPECT_THAT(refusal([](auto& m) { m["model"]["stages"][1] = {2, 2}; }), HasSubstr("one after the other"));
  EXPECT_THAT(refusal([](auto& m) { m["files"][0]["name"] = "../../etc/passwd"; }),
              HasSubstr("names of files in this directory"));
  EXPECT_THAT(refusal([](auto& m) { m["files"][1]["name"] = "config.json"; }), HasSubstr("each once"));
  EXPECT_THAT(refusal([](auto& m) { m["files"][1]["xxh3_128"] = "12"; }), HasSubstr("32 hex digits"));
  EXPECT_THAT(refusal([](auto& m) { m["files"][0] = 3; }), HasSubstr("name: expected a text"));
}

}  // namespace
}  // namespace starling::trainer
