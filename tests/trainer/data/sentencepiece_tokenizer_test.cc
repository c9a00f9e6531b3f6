// Against what Python's `sentencepiece` gave for the same models: tests/golden/sentencepiece_golden.py.
#include "trainer/data/sentencepiece_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "gossip/base/bytes.h"
#include "tests/trainer/data/golden_file.h"
#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string unhex(const json& text) {
  const auto bytes = from_hex(text.get<std::string>());
  return bytes ? std::string(as_text(*bytes)) : std::string();
}

class GoldenSentencePiece : public testing::TestWithParam<std::string> {};

TEST_P(GoldenSentencePiece, GivesTheSameIdsAndTexts) {
  const json all = json::parse(golden_text("sentencepiece/cases.json"));
  const json& cases = all[GetParam()];
  const auto tokenizer = Tokenizer::open(golden_path("sentencepiece/" + GetParam() + ".model"));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  ASSERT_GT(all["texts"].size(), 100u);
  for (std::size_t i = 0; i < all["texts"].size(); ++i) {
    const auto ids = (*tokenizer)->encode(unhex(all["texts"][i]));
    ASSERT_TRUE(ids);
    EXPECT_EQ(*ids, cases["ids"][i].get<TokenIds>()) << unhex(all["texts"][i]);
    EXPECT_EQ((*tokenizer)->decode(*ids), unhex(cases["decoded"][i]));
  }
  for (std::size_t i = 0; i < cases["random_ids"].size(); ++i) {
    EXPECT_EQ((*tokenizer)->decode(cases["random_ids"][i].get<TokenIds>()), unhex(cases["random_ids_decoded"][i]))
        << cases["random_ids"][i];
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenSentencePiece, testing::Values("bpe", "unigram"),
                         [](const auto& instance) { return instance.param; });

TEST(SentencePieceTokenizer, KnowsItsSpecialPieces) {
  const auto tokenizer = *Tokenizer::open(golden_path("sentencepiece/bpe.model"));
  EXPECT_EQ(tokenizer->vocab_size(), 700);
  EXPECT_EQ(tokenizer->begin_of_text(), tokenizer->find("<s>"));
  EXPECT_EQ(tokenizer->end_of_text(), tokenizer->find("</s>"));
  EXPECT_EQ(tokenizer->find("no such piece"), std::nullopt);
  const std::vector<std::int32_t> end{*tokenizer->end_of_text()};
  EXPECT_EQ(tokenizer->decode(end), "");
  EXPECT_EQ(tokenizer->decode(end, SpecialTokens::shown), "</s>");
  EXPECT_EQ(tokenizer->decode(std::vector{-1, 700}), "");
}

TEST(SentencePieceTokenizer, DamagedModelsAreRefusedOrHarmless) {
  const ScratchFolder folder;
  const std::string good = golden_text("sentencepiece/bpe.model");
  EXPECT_THAT(Tokenizer::open(folder.write("a.model", "no model at all")).error().message,
              HasSubstr("a.model: expected a SentencePiece model"));
  for (std::size_t cut = 1; cut < good.size(); cut += 97) {
    if (const auto model = SentencePieceTokenizer::create(as_bytes(good).first(cut))) (*model)->encode("some text");
  }
  for (std::size_t at = 0; at < good.size(); at += 13) {
    std::string damaged = good;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    const auto model = SentencePieceTokenizer::create(as_bytes(damaged));
    if (!model) continue;
    const auto ids = (*model)->encode("some text 123");
    if (ids) (*model)->decode(*ids);
  }
}

}  // namespace
}  // namespace starling::trainer
