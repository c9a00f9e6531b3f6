// Against what Python's `tokenizers` gave for the same files: tests/golden/tokenizer_golden.py.
#include "trainer/data/bpe_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "gossip/base/bytes.h"
#include "tests/trainer/data/golden_file.h"
#include "tests/trainer/data/scratch_files.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string unhex(const json& text) {
  const auto bytes = from_hex(text.get<std::string>());
  return bytes ? std::string(as_text(*bytes)) : std::string();
}

void append_utf8(char32_t c, std::string& out) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) return put(c);
  if (c < 0x800) {
    put(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      put(0xe0 | c >> 12);
    } else {
      put(0xf0 | c >> 18);
      put(0x80 | (c >> 12 & 0x3f));
    }
    put(0x80 | (c >> 6 & 0x3f));
  }
  put(0x80 | (c & 0x3f));
}

// As in the script.
std::string all_characters() {
  std::string out;
  const auto add = [&out](char32_t first, char32_t end) {
    for (char32_t c = first; c < end; ++c) {
      const bool left_out =
          (c >= 0x11de0 && c < 0x11dea) || (c >= 0x16ff4 && c < 0x16ff7) || (c >= 0xd800 && c < 0xe000);
      if (left_out) continue;
      out += 'x';
      append_utf8(c, out);
      out += ' ';
      append_utf8(c, out);
      out += '1';
    }
  };
  add(0, 0x33480);
  add(0xe0000, 0xe0200);
  add(0xf0000, 0xf0010);
  return out;
}

std::string repaired(const std::string& text) {
  std::string out;
  if (!append_valid_utf8(text, out).empty()) out += replacement_character;
  return out;
}

class GoldenTokenizer : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const json all = json::parse(golden_text("tokenizers/cases.json"));
    for (const json& text : all["texts"]) texts_.push_back(unhex(text));
    cases_ = all[GetParam()];
    auto opened = Tokenizer::open(golden_path("tokenizers/" + GetParam() + ".json"));
    ASSERT_TRUE(opened) << opened.error().message;
    tokenizer_ = *opened;
  }
  std::vector<std::string> texts_;
  json cases_;
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(GoldenTokenizer, GivesTheSameIds) {
  ASSERT_GT(texts_.size(), 100u);
  const auto encoder = tokenizer_->encoder();  // one for all, as in use: what it remembers must not matter
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    TokenIds ids;
    ASSERT_TRUE(encoder->append(texts_[i], SpecialNames::recognized, ids));
    EXPECT_EQ(ids, cases_["ids"][i].get<TokenIds>()) << texts_[i];
    EXPECT_EQ(tokenizer_->decode(ids, SpecialTokens::shown), repaired(texts_[i]));

    ids.clear();
    ASSERT_TRUE(encoder->append(texts_[i], SpecialNames::text, ids));
    const auto& as_text = cases_["ids_as_text"];
    const std::string key = std::to_string(i);
    EXPECT_EQ(ids, (as_text.contains(key) ? as_text[key] : cases_["ids"][i]).get<TokenIds>()) << texts_[i];
  }
}

TEST_P(GoldenTokenizer, CutsEveryCharacterAsTheReferenceDoes) {
  const auto ids = tokenizer_->encode(all_characters());
  ASSERT_TRUE(ids);
  EXPECT_EQ(to_hex(blake2b_256(std::as_bytes(std::span(*ids)))), cases_["all_characters"]);
}

TEST_P(GoldenTokenizer, DecodesIdsThatNoTextLeadsTo) {
  for (std::size_t i = 0; i < cases_["random_ids"].size(); ++i) {
    const auto ids = cases_["random_ids"][i].get<TokenIds>();
    EXPECT_EQ(tokenizer_->decode(ids), unhex(cases_["random_ids_decoded"][i]));
    TextStream stream(*tokenizer_);
    std::string streamed;
    for (const std::int32_t id : ids) {
      const std::string part = stream.next(id);
      EXPECT_EQ(repaired(part), part) << "half a character";
      streamed += part;
    }
    streamed += stream.finish();
    EXPECT_EQ(streamed, tokenizer_->decode(ids));
  }
}

// What lets a long text be encoded in parts.
TEST_P(GoldenTokenizer, CutPartsGiveTheIdsOfTheWhole) {
  std::string text;
  for (const std::string& part : texts_) text += part;
  const TokenIds whole = *tokenizer_->encode(text);
  TokenIds in_parts;
  std::size_t parts = 0;
  for (std::string_view rest = text; !rest.empty(); ++parts) {
    std::size_t size = rest.size();
    for (std::size_t window = 100; window < rest.size(); window += 100) {
      if (const std::size_t cut = tokenizer_->cut(rest.substr(0, window)); cut > 0) {
        size = cut;
        break;
      }
    }
    const TokenIds ids = *tokenizer_->encode(rest.substr(0, size));
    in_parts.insert(in_parts.end(), ids.begin(), ids.end());
    rest.remove_prefix(size);
  }
  EXPECT_EQ(in_parts, whole);
  EXPECT_GT(parts, 20u);
}

INSTANTIATE_TEST_SUITE_P(All, GoldenTokenizer, testing::Values("gpt2", "llama3", "smollm"),
                         [](const auto& instance) { return instance.param; });

TEST(BpeTokenizer, KnowsTheTokensThatOpenAndCloseATextAndIsNamedBySize) {
  const auto llama = *Tokenizer::open(golden_path("tokenizers/llama3.json"));
  EXPECT_EQ(llama->begin_of_text(), llama->find("<|begin_of_text|>"));
  EXPECT_EQ(llama->end_of_text(), llama->find("<|endoftext|>"));
  EXPECT_TRUE(llama->is_special(*llama->end_of_text()));
  EXPECT_FALSE(llama->is_special(*llama->find("verylongtoken")));
  EXPECT_EQ(llama->vocab_size(), 906);
  EXPECT_EQ(llama->decode(std::vector{906}), "");
  const auto gpt2 = *Tokenizer::open(golden_path("tokenizers/gpt2.json"));
  EXPECT_EQ(gpt2->begin_of_text(), std::nullopt);
}

TEST(BpeTokenizer, TheFileBesideItNamesTheEnd) {
  const ScratchFolder folder;
  const std::string path = folder.write("tokenizer.json", golden_text("tokenizers/gpt2.json"));
  folder.write("tokenizer_config.json", R"({"eos_token": "<|im_start|>", "model_max_length": 1e30})");
  const auto tokenizer = *Tokenizer::open(path);
  EXPECT_EQ(tokenizer->end_of_text(), tokenizer->find("<|im_start|>"));
  folder.write("tokenizer_config.json", R"({"eos_token": {"content": "<|begin_of_text|>"}})");
  EXPECT_EQ((*Tokenizer::open(path))->end_of_text(), tokenizer->find("<|begin_of_text|>"));
  folder.write("tokenizer_config.json", R"({"eos_token": "<gone>"})");
  EXPECT_THAT(Tokenizer::open(path).error().message, HasSubstr("eos_token: expected a token"));
  folder.write("tokenizer_config.json", R"({"eos_token": 7})");
  EXPECT_THAT(Tokenizer::open(path).error().message,
              HasSubstr("tokenizer_config.json: eos_token: expected a text, got 7"));
}

// Checked by hand against Python's `tokenizers`.
TEST(BpeTokenizer, BytesWithoutATokenAreLeftOutOrUnknown) {
  const auto ids_of = [](const json& unknown, bool fused) {
    json file = json::parse(golden_text("tokenizers/gpt2.json"));
    file["added_tokens"] = json::array();
    file["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {"<unk>", 3}};
    file["model"]["merges"] = {"a b"};
    file["model"]["unk_token"] = unknown;
    file["model"]["fuse_unk"] = fused;
    auto description = parse_tokenizer_json(file.dump());
    EXPECT_TRUE(description) << description.error().message;
    const auto tokenizer = *BpeTokenizer::create(std::move(*description), std::nullopt);
    EXPECT_EQ(tokenizer->missing_bytes().size(), 254u);
    return std::vector<TokenIds>{*tokenizer->encode("abxyab"), *tokenizer->encode("axb"), *tokenizer->encode("abéb")};
  };
  EXPECT_EQ(ids_of(nullptr, false), (std::vector<TokenIds>{{2, 2}, {2}, {2, 1}}));
  EXPECT_EQ(ids_of("<unk>", false), (std::vector<TokenIds>{{2, 3, 3, 2}, {0, 3, 1}, {2, 3, 3, 1}}));
  EXPECT_EQ(ids_of("<unk>", true), (std::vector<TokenIds>{{2, 3, 2}, {0, 3, 1}, {2, 3, 1}}));
}

TEST(BpeTokenizer, AWholeWordIsTakenBeforeMergesWhereTheFileSaysSo) {
  for (const bool ignore_merges : {false, true}) {
    json file = json::parse(golden_text("tokenizers/gpt2.json"));
    file["added_tokens"] = json::array();
    file["model"]["vocab"] = {{"a", 0}, {"b", 1}, {"ab", 2}, {"aab", 3}};
    file["model"]["merges"] = {"a b"};
    file["model"]["ignore_merges"] = ignore_merges;
    const auto tokenizer = *BpeTokenizer::create(std::move(*parse_tokenizer_json(file.dump())), std::nullopt);
    EXPECT_EQ(*tokenizer->encode("aab"), ignore_merges ? (TokenIds{3}) : (TokenIds{0, 2}));
    EXPECT_EQ(*tokenizer->encode("aaba"), (TokenIds{0, 2, 0}));
  }
}

// A pattern that is slow on purpose ends in an error, not in a day.
TEST(BpeTokenizer, ASlowPatternIsGivenUp) {
  json file = json::parse(golden_text("tokenizers/llama3.json"));
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = R"(\p{L}*\p{L}*\p{L}*\p{L}*\p{L}*x)";
  auto description = parse_tokenizer_json(file.dump());
  ASSERT_TRUE(description) << description.error().message;
  const auto tokenizer = *BpeTokenizer::create(std::move(*description), std::nullopt);
  EXPECT_TRUE(tokenizer->encode("short"));
  const auto ids = tokenizer->encode(std::string(10'000, 'a'));
  ASSERT_FALSE(ids);
  EXPECT_THAT(ids.error().message, HasSubstr("pre_tokenizer"));
}

}  // namespace
}  // namespace starling::trainer
