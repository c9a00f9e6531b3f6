#include "trainer/data/tokenizer_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "trainer/data/byte_alphabet.h"

namespace starling::trainer {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// The smallest file that is one: three tokens and a merge.
json small_file() {
  return json::parse(R"({"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                      "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": {"type": "ByteLevel", "trim_offsets": false},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

std::string error_of(const json& file) {
  const auto read = parse_tokenizer_json(file.dump());
  EXPECT_FALSE(read) << file.dump();
  return read ? std::string() : read.error().message;
}

// The message for the small file with one value changed.
std::string error_with(const char* pointer, json value) {
  json file = small_file();
  file[json::json_pointer(pointer)] = std::move(value);
  return error_of(file);
}

TEST(TokenizerJson, ReadsTokensMergesAndAddedTokens) {
  const auto file = parse_tokenizer_json(small_file().dump());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->contents, (std::vector<std::string>{"a", "b", "ab", "<end>"}));
  EXPECT_EQ(file->words, (std::vector<std::string>{"a", "b", "ab", ""}));
  ASSERT_EQ(file->merges.size(), 1u);
  EXPECT_EQ(file->merges[0].merged, 2);
  ASSERT_EQ(file->added.size(), 1u);
  EXPECT_TRUE(file->added[0].special);
}

TEST(TokenizerJson, MergesMayBeListsOfTwo) {
  json file = small_file();
  file["model"]["merges"] = json::parse(R"([["a", "b"]])");
  EXPECT_TRUE(parse_tokenizer_json(file.dump()));
}

TEST(TokenizerJson, OtherKindsAreRefusedByTheFieldThatTells) {
  EXPECT_THAT(error_with("/version", "2.0"), HasSubstr("version: expected \"1.0\", got \"2.0\""));
  EXPECT_THAT(error_with("/normalizer", {{"type", "NFC"}}), HasSubstr("normalizer: expected null"));
  EXPECT_THAT(error_with("/pre_tokenizer", nullptr), HasSubstr("pre_tokenizer"));
  EXPECT_THAT(error_with("/pre_tokenizer/type", "Metaspace"),
              HasSubstr("pre_tokenizer.type: expected ByteLevel, Split"));
  EXPECT_THAT(error_with("/pre_tokenizer/surprise", 1),
              HasSubstr("pre_tokenizer.surprise: expected no such field, got 1"));
  EXPECT_THAT(error_with("/pre_tokenizer", json::parse(R"({"type": "Digits", "individual_digits": true})")),
              HasSubstr("pre_tokenizer: expected ByteLevel or a Sequence that ends in it"));
  EXPECT_THAT(error_with("/pre_tokenizer", json::parse(R"({"type": "Sequence", "pretokenizers": [{"type": "Split",
                "pattern": {"Regex": "\\X"}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel"}]})")),
              HasSubstr("pre_tokenizer.pretokenizers[0].pattern.Regex: expected a pattern of the kind"));
  EXPECT_THAT(error_with("/pre_tokenizer", json::parse(R"({"type": "Sequence", "pretokenizers": [{"type": "Split",
                "pattern": {"Regex": "a"}, "behavior": "MergedWithNext", "invert": false}, {"type": "ByteLevel"}]})")),
              HasSubstr("pre_tokenizer.pretokenizers[0].behavior: expected Isolated"));
  EXPECT_THAT(error_with("/decoder/type", "WordPiece"),
              HasSubstr("decoder.type: expected ByteLevel, got \"WordPiece\""));
  EXPECT_THAT(error_with("/post_processor/type", "BertProcessing"), HasSubstr("post_processor.type"));
  EXPECT_THAT(error_with("/model/type", "WordPiece"), HasSubstr("model.type: expected BPE"));
  EXPECT_THAT(error_with("/model/dropout", 0.1), HasSubstr("model.dropout"));
  EXPECT_THAT(error_with("/model/byte_fallback", true), HasSubstr("model.byte_fallback"));
  EXPECT_THAT(error_with("/model/unk_token", "<gone>"),
              HasSubstr("model.unk_token: expected null or a token of model.vocab"));
  EXPECT_THAT(error_with("/added_tokens/0/lstrip", true),
              HasSubstr("added_tokens[0].lstrip: expected false, got true"));
  EXPECT_THAT(error_with("/surprise", true), HasSubstr("surprise: expected no such field"));
}

TEST(TokenizerJson, HostileFilesAreRefused) {
  EXPECT_THAT(error_with("/model/vocab/a", -1), HasSubstr("model.vocab['a']: expected an id from 0 to"));
  EXPECT_THAT(error_with("/model/vocab/a", 4'000'000'000), HasSubstr("model.vocab['a']: expected an id from 0 to"));
  EXPECT_THAT(error_with("/model/vocab/a", "0"), HasSubstr("model.vocab['a']: expected an id"));
  EXPECT_THAT(error_with("/model/vocab/b", 0), HasSubstr("expected an id that no other token has, got 0"));
  EXPECT_THAT(error_with("/model/vocab", json::array()), HasSubstr("model.vocab: expected an object"));
  EXPECT_THAT(error_with("/model/vocab/", 5), HasSubstr("expected a token with at least one character"));
  EXPECT_THAT(error_with("/model/merges/0", "b a"), HasSubstr("model.merges[0]: expected tokens of model.vocab"));
  EXPECT_THAT(error_with("/model/merges/0", "a c"), HasSubstr("got 'c'"));
  EXPECT_THAT(error_with("/model/merges/0", "a b c"), HasSubstr("model.merges[0]: expected two tokens"));
  EXPECT_THAT(error_with("/model/merges/0", 7), HasSubstr("model.merges[0]: expected two tokens, got 7"));
  EXPECT_THAT(error_with("/model/merges", json::array({"a b", "a b"})), HasSubstr("expected each pair once"));
  EXPECT_THAT(error_with("/added_tokens/0/id", 1), HasSubstr("expected an id that no other token has"));
  EXPECT_THAT(error_with("/added_tokens/0/content", "ab"), HasSubstr("expected the id that model.vocab gives it, 2"));
  EXPECT_THAT(error_with("/added_tokens/0", 3), HasSubstr("added_tokens[0]: expected an object, got 3"));
  EXPECT_THAT(error_of(json::array()), HasSubstr("expected a JSON object"));
  json deep = 1;
  for (int i = 0; i < 100; ++i) deep = json::array({deep});
  EXPECT_THAT(error_with("/model/vocab", deep), HasSubstr("levels"));
  EXPECT_FALSE(parse_tokenizer_json("{\"version\": \"1.0\", \"version\": \"1.0\"}"));
  std::string many = "{\"added_tokens\": [";
  for (int i = 0; i < 4'000'100; ++i) many += "1,";
  const auto too_many = parse_tokenizer_json(many + "1]}");
  ASSERT_FALSE(too_many);
  EXPECT_THAT(too_many.error().message, HasSubstr("more than 4000000 values"));
}

TEST(ByteAlphabet, SpellsEveryByteAndReadsItBack) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) bytes.push_back(static_cast<char>(i));
  const std::string spelled = to_byte_alphabet(bytes);
  EXPECT_EQ(from_byte_alphabet(spelled), bytes);
  EXPECT_EQ(to_byte_alphabet(" a\n"), "\u0120a\u010a");
  EXPECT_EQ(from_byte_alphabet("a b"), std::nullopt);  // a space is not spelled as itself
  EXPECT_EQ(from_byte_alphabet("\u0144"), std::nullopt);
  EXPECT_EQ(from_byte_alphabet("\xff"), std::nullopt);
}

}  // namespace
}  // namespace starling::trainer
