#include "trainer/data/corpus_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/trainer/data/golden_file.h"
#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

using testing::HasSubstr;

class CorpusTest : public testing::Test {
 protected:
  // The ids of all parts, from the beginning of the part with number `from` on.
  Result<TokenIds> encode(const std::vector<std::filesystem::path>& files, const CorpusShape& shape,
                          CorpusPosition start = {}) {
    CorpusReader reader(files, shape, *tokenizer_, start);
    const auto encoder = tokenizer_->encoder();
    TokenIds out;
    positions_.clear();
    for (;;) {
      auto part = reader.next();
      if (!part) return tl::unexpected(part.error());
      if (!*part) return out;
      positions_.emplace_back((*part)->begin, out.size());
      auto ids = encode_part(**part, shape, *tokenizer_, SpecialNames::text, *encoder);
      if (!ids) return tl::unexpected(ids.error());
      out.insert(out.end(), ids->begin(), ids->end());
    }
  }
  TokenIds document(std::string_view text) {
    TokenIds ids = *tokenizer_->encode(text, SpecialNames::text);
    ids.insert(ids.begin(), *tokenizer_->begin_of_text());
    ids.push_back(*tokenizer_->end_of_text());
    return ids;
  }
  TokenIds documents(const std::vector<std::string>& texts) {
    TokenIds out;
    for (const std::string& text : texts) {
      const TokenIds ids = document(text);
      out.insert(out.end(), ids.begin(), ids.end());
    }
    return out;
  }
  std::shared_ptr<const Tokenizer> tokenizer_ = *Tokenizer::open(golden_path("tokenizers/llama3.json"));
  std::vector<std::pair<CorpusPosition, std::size_t>> positions_;  // of parts, and ids before them
  ScratchFolder folder_;
};

TEST_F(CorpusTest, AFileIsADocument) {
  const std::string a = folder_.write("a", "one two three\n");
  const std::string empty = folder_.write("b", "");
  const std::string c = folder_.write("c", "<|endoftext|> is text here");
  EXPECT_EQ(*encode({a, empty, c}, {}), documents({"one two three\n", "<|endoftext|> is text here"}));
}

TEST_F(CorpusTest, DocumentsMayBeLinesObjectsOrSeparated) {
  const std::string lines = folder_.write("lines", "one two\n\n  \nthree\nfour");
  EXPECT_EQ(*encode({lines}, {.documents = Documents::lines}), documents({"one two", "three", "four"}));
  const std::string json =
      folder_.write("json", "{\"text\": \"one\\ntwo\", \"id\": 7}\n\n{\"text\": \"three\"}\r\n{\"text\": \" \"}");
  EXPECT_EQ(*encode({json}, {.documents = Documents::json_lines}), documents({"one\ntwo", "three"}));
  const std::string separated = folder_.write("separated", "one\n<end>two <en<end><end>three");
  EXPECT_EQ(*encode({separated}, {.documents = Documents::separated, .separator = "<end>"}),
            documents({"one\n", "two <en", "three"}));
}

TEST_F(CorpusTest, ASeparatorIsNeverCut) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += std::string(static_cast<std::size_t>(i), 'w') + " word and the end of it now";
  const std::string path = folder_.write("a", text);
  CorpusShape shape{.documents = Documents::separated, .separator = " and the end of it "};
  const TokenIds whole = *encode({path}, shape);
  EXPECT_EQ(std::count(whole.begin(), whole.end(), *tokenizer_->end_of_text()), 41);
  for (shape.part_bytes = 25; shape.part_bytes < 90; ++shape.part_bytes) ASSERT_EQ(*encode({path}, shape), whole);
}

TEST_F(CorpusTest, AWrongLineIsNamedByItsPlace) {
  const std::string json = folder_.write("json", "{\"text\": \"one\"}\n{\"txt\": 1}\n");
  EXPECT_THAT(encode({json}, {.documents = Documents::json_lines}).error().message,
              HasSubstr("byte 16: expected an object with a text under \"text\", got {\"txt\": 1}"));
  EXPECT_THAT(encode({folder_.path("gone")}, {}).error().message, HasSubstr("gone: cannot be read: No such file"));
  const std::string endless = folder_.write("endless", std::string(5000, 'x'));
  EXPECT_THAT(encode({endless}, {.part_bytes = 100, .max_part_bytes = 1600}).error().message,
              HasSubstr("endless: byte 0: expected a document of at most 1600 bytes"));
}

// However small the parts, and from whichever of them on.
TEST_F(CorpusTest, PartsGiveTheIdsOfTheWholeAndCanBeTakenUpAgain) {
  std::string text;
  for (int i = 0; i < 300; ++i) text += "some words of number " + std::to_string(i * i) + (i % 7 == 0 ? "<end>" : ", ");
  const std::vector<std::filesystem::path> files{folder_.write("a", text), folder_.write("b", "short"),
                                                 folder_.write("c", text)};
  for (CorpusShape shape : {CorpusShape{.documents = Documents::files}, CorpusShape{.documents = Documents::lines},
                            CorpusShape{.documents = Documents::separated, .separator = "<end>"}}) {
    const TokenIds whole = *encode(files, shape);
    for (const std::size_t part_bytes : {40u, 64u, 1000u}) {
      shape.part_bytes = part_bytes;
      ASSERT_EQ(*encode(files, shape), whole);
      ASSERT_GT(positions_.size(), 2 * text.size() / part_bytes / 3);
      const auto positions = positions_;
      for (std::size_t i = 0; i < positions.size(); i += 17) {
        const auto& [position, ids_before] = positions[i];
        const TokenIds rest(whole.begin() + static_cast<std::ptrdiff_t>(ids_before), whole.end());
        ASSERT_EQ(*encode(files, shape, position), rest);
      }
    }
  }
}

}  // namespace
}  // namespace starling::trainer
