#include "trainer/data/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "tests/trainer/data/golden_file.h"
#include "tests/trainer/data/scratch_files.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {
namespace {

using testing::HasSubstr;

// Bytes first, first + 1, ... within one value of a byte, so that a token tells where in the file it stood.
std::string ramp(int count, int first = 1) {
  std::string out;
  for (int i = 0; i < count; ++i) out.push_back(static_cast<char>(first + i));
  return out;
}

class SourceTest : public testing::Test {
 protected:
  static Result<Source> open(std::vector<std::string> train, std::vector<std::string> val = {},
                             BatchShape shape = {.sequences = 2, .seq_len = 4}) {
    return Source::open({.train = std::move(train), .val = std::move(val)}, shape, 256);
  }
  ScratchFolder folder_;
};

TEST_F(SourceTest, ASampleIsAFunctionOfItsNameAlone) {
  const std::string path = folder_.write("a.txt", ramp(200));
  const auto one = open({path});
  const auto two = open({path});
  ASSERT_TRUE(one && two);
  const TokenBatch sample = *one->sample(7, 1, 30, 2);
  EXPECT_EQ(sample.size(), 10u);
  EXPECT_EQ(one->sample(7, 1, 31, 2)->size(), 10u);  // what is drawn between changes nothing
  EXPECT_EQ(*two->sample(7, 1, 30, 2), sample);
  EXPECT_NE(*two->sample(8, 1, 30, 2), sample);
  EXPECT_NE(*two->sample(7, 2, 30, 2), sample);
  EXPECT_NE(*two->sample(7, 1, 29, 2), sample);
  EXPECT_NE(*two->sample(7, 1, 30, 3), sample);
}

TEST_F(SourceTest, SequencesAreWindowsOfTheText) {
  const auto source = open({folder_.write("a.txt", ramp(200))});
  ASSERT_TRUE(source);
  for (std::uint32_t index = 0; index < 100; ++index) {
    const TokenBatch batch = *source->sample(1, 0, 1, index);
    for (const std::size_t begin : {0u, 5u}) {
      for (std::size_t i = 1; i < 5; ++i) EXPECT_EQ(batch[begin + i], batch[begin] + static_cast<int>(i));
    }
  }
}

TEST_F(SourceTest, HeldOutTextIsNeverSampledAndAllElseIs) {
  const std::string a = folder_.write("a.txt", ramp(100, 1));
  const std::string b = folder_.write("b.txt", ramp(100, 101));
  const auto source = open({a, b});
  ASSERT_TRUE(source);
  EXPECT_EQ(source->training_tokens(), 190);
  EXPECT_EQ(source->validation_tokens(), 10);
  std::set<std::int32_t> sampled;
  for (std::uint32_t index = 0; index < 2000; ++index) {
    const TokenBatch batch = *source->sample(1, 0, 1, index);
    sampled.insert(batch.begin(), batch.end());
  }
  EXPECT_EQ(sampled.size(), 190u);
  // The last 5 of both files: values 96 to 100 and 196 to 200.
  const TokenBatch held_out = *source->validation(0);
  EXPECT_EQ(TokenBatch(held_out.begin(), held_out.begin() + 5), (TokenBatch{96, 97, 98, 99, 100}));
  for (const std::int32_t token : held_out) EXPECT_FALSE(sampled.contains(token)) << token;
}

TEST_F(SourceTest, ValidationWindowsFollowEachOtherAndStartAgain) {
  const auto source = open({folder_.write("a.txt", ramp(50))}, {folder_.write("v.txt", ramp(13))});
  ASSERT_TRUE(source);
  EXPECT_EQ(source->training_tokens(), 50);  // nothing is held out when data.val is given
  EXPECT_EQ(source->validation_windows(), 3);
  EXPECT_EQ(*source->validation(0), (TokenBatch{1, 2, 3, 4, 5, 5, 6, 7, 8, 9}));
  EXPECT_EQ(*source->validation(1), (TokenBatch{9, 10, 11, 12, 13, 1, 2, 3, 4, 5}));
}

TEST_F(SourceTest, PatternsPassOverWhatIsNotText) {
  folder_.write("art", ramp(30, 100));
  folder_.write("zen", ramp(30, 150));
  folder_.write("art.dat", std::string("\0\0\0\2", 4));
  folder_.write("empty", "");
  std::filesystem::create_symlink("art", folder_.path("art.u8"));
  std::filesystem::create_directory(folder_.path("folder"));
  const auto source = open({folder_.path("*")}, {folder_.path("zen")});
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->training_tokens(), 60);
}

TEST_F(SourceTest, ErrorsNameTheFileAndTheFix) {
  const auto message = [&](std::vector<std::string> train, std::vector<std::string> val = {}) {
    const auto source = open(std::move(train), std::move(val));
    EXPECT_FALSE(source);
    return source ? std::string() : source.error().message;
  };
  const std::string good = folder_.write("good.txt", ramp(100));
  const std::string tiny = folder_.write("tiny.txt", "abcd");
  EXPECT_THAT(message({}), HasSubstr("data.train: expected paths"));
  EXPECT_THAT(message({folder_.path("gone.txt")}), HasSubstr("gone.txt: cannot be opened"));
  EXPECT_THAT(message({folder_.path("gone*")}), HasSubstr("no file matches"));
  EXPECT_THAT(message({folder_.write("empty.txt", "")}), HasSubstr("data.train: " + folder_.path("empty.txt")));
  EXPECT_THAT(message({tiny}), HasSubstr("data.train: expected at least 5 tokens"));
  EXPECT_THAT(message({good}, {tiny}), HasSubstr("data.val: expected at least 5 tokens"));
  EXPECT_THAT(message({folder_.write("short.txt", ramp(60))}), HasSubstr("set data.val to files of its own"));
  EXPECT_THAT(message({good}, {folder_.path("gone.txt")}), HasSubstr("data.val: "));
}

TEST_F(SourceTest, TheTokenizerHasToFitTheModel) {
  const std::string shard = folder_.write("a.bin", raw_ids(std::vector<std::uint16_t>(200, 7)));
  const auto open_with = [&](const std::string& tokenizer, std::int64_t vocab_size, const std::string& data) {
    const auto source = Source::open({.train = {data}, .val = {}, .tokenizer = tokenizer}, {2, 4}, vocab_size);
    return source ? std::string() : source.error().message;
  };
  const std::string path = golden_path("tokenizers/gpt2.json");  // 705 tokens
  EXPECT_EQ(open_with(path, 705, shard), "");
  EXPECT_THAT(open_with(path, 704, shard),
              HasSubstr("has ids up to 704, but model.vocab_size is 704; set it to at least 705"));
  EXPECT_THAT(open_with("bytes", 256, shard), HasSubstr("tokenizer.path: expected byte or a file"));
  EXPECT_THAT(open_with(folder_.path("gone.json"), 256, shard), HasSubstr("gone.json: cannot be opened"));
  // Text is its bytes, which are not this tokenizer's ids.
  EXPECT_THAT(open_with(path, 705, folder_.write("b.txt", ramp(200))), HasSubstr("starling tokenize"));
}

TEST_F(SourceTest, TellsDocumentsApart) {
  const std::string path = golden_path("tokenizers/llama3.json");
  const auto tokenizer = *Tokenizer::open(path);
  const auto end = static_cast<std::uint16_t>(*tokenizer->end_of_text());
  const auto begin = static_cast<std::uint16_t>(*tokenizer->begin_of_text());
  const std::string shard =
      folder_.write("a.bin", raw_ids({begin, 5, 6, end, begin, 7, 8, end, 9, begin, end, end, begin, 3, 4, 4, 4, 4}));
  const auto source = Source::open({.train = {shard}, .val = {shard}, .tokenizer = path}, {1, 16}, 906);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->document_borders(*source->validation(0)), (std::vector<std::uint32_t>{4, 8, 9, 11, 12}));
  const auto bytes = open({folder_.write("a.txt", ramp(100))});
  EXPECT_EQ(bytes->document_borders(*bytes->sample(1, 0, 1, 0)), std::vector<std::uint32_t>());
}

// However the text is cut into files, a window reads the same tokens.
RC_GTEST_PROP(TokenTextProperties, SlicesReadAsOneText, ()) {
  const ScratchFolder folder;
  const auto whole =
      *rc::gen::nonEmpty(rc::gen::container<std::vector<std::uint16_t>>(rc::gen::arbitrary<std::uint16_t>()));
  TokenText text;
  for (std::size_t from = 0; from < whole.size();) {
    const auto count = *rc::gen::inRange<std::size_t>(1, whole.size() - from + 1);
    const std::vector<std::uint16_t> part(whole.begin() + static_cast<std::ptrdiff_t>(from),
                                          whole.begin() + static_cast<std::ptrdiff_t>(from + count));
    auto file = TokenFile::open(*open_local(folder.write("part.bin", raw_ids(part))), TokenFormat::uint16, 65536);
    RC_ASSERT(file.has_value());
    text.append(std::make_shared<const TokenFile>(std::move(*file)), 0, static_cast<std::int64_t>(count));
    std::filesystem::remove(folder.path("part.bin"));  // the mapping stays
    from += count;
  }
  RC_ASSERT(text.size() == static_cast<std::int64_t>(whole.size()));
  const auto first = *rc::gen::inRange<std::size_t>(0, whole.size());
  TokenBatch window(*rc::gen::inRange<std::size_t>(0, whole.size() - first + 1));
  RC_ASSERT(text.read(static_cast<std::int64_t>(first), window).has_value());
  RC_ASSERT(std::equal(window.begin(), window.end(), whole.begin() + static_cast<std::ptrdiff_t>(first)));
}

}  // namespace
}  // namespace starling::trainer
