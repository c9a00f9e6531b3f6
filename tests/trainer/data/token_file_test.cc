#include "trainer/data/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <vector>

#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::int32_t> all_tokens(const TokenFile& file) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(file.size()));
  EXPECT_TRUE(file.read(0, out));
  return out;
}

Result<TokenFile> open_file(const std::string& path, TokenFormat format, std::int64_t vocab_size) {
  const auto bytes = open_local(path);
  if (!bytes) return tl::unexpected(bytes.error());
  return TokenFile::open(*bytes, format, vocab_size);
}

class TokenFileTest : public testing::Test {
 protected:
  Error error_of(const std::string& path, TokenFormat format = TokenFormat::automatic, std::int64_t vocab_size = 256) {
    const Result<TokenFile> file = open_file(path, format, vocab_size);
    EXPECT_FALSE(file.has_value());
    return file ? Error{} : file.error();
  }
  ScratchFolder folder_;
};

TEST_F(TokenFileTest, TextIsItsBytes) {
  const auto file = open_file(folder_.write("a.txt", "Az\xff"), TokenFormat::automatic, 256);
  ASSERT_TRUE(file);
  EXPECT_THAT(all_tokens(*file), ElementsAre(65, 122, 255));
}

TEST_F(TokenFileTest, AShardIsKnownByItsMagicWhateverItsName) {
  const auto file = open_file(folder_.write("a.txt", llmc_shard({1, 500, 65535}, 3)), TokenFormat::automatic, 65536);
  ASSERT_TRUE(file);
  EXPECT_THAT(all_tokens(*file), ElementsAre(1, 500, 65535));
  std::vector<std::int32_t> middle(1);
  ASSERT_TRUE(file->read(1, middle));
  EXPECT_THAT(middle, ElementsAre(500));
}

TEST_F(TokenFileTest, BinWithoutMagicIsRawIds) {
  const auto file = open_file(folder_.write("a.bin", raw_ids({7, 0, 8})), TokenFormat::automatic, 9);
  ASSERT_TRUE(file);
  EXPECT_THAT(all_tokens(*file), ElementsAre(7, 0, 8));
}

TEST_F(TokenFileTest, IdsMayHave32Bits) {
  const auto raw = open_file(folder_.write("a.uint32", raw_ids({1, 0, 2, 1})), TokenFormat::automatic, 65539);
  ASSERT_TRUE(raw);
  EXPECT_THAT(all_tokens(*raw), ElementsAre(1, 65538));
  const auto shard =
      open_file(folder_.write("a.bin", llmc_shard({1, 0, 2, 1}, 2, 20240801, 7)), TokenFormat::automatic, 65539);
  ASSERT_TRUE(shard);
  EXPECT_THAT(all_tokens(*shard), ElementsAre(1, 65538));
  EXPECT_THAT(
      error_of(folder_.write("b.uint32", raw_ids({1, 0, 0xffff, 0xffff})), TokenFormat::automatic, 65539).message,
      HasSubstr("b.uint32: token 1 has id 4294967295, but model.vocab_size is 65539"));
  EXPECT_THAT(error_of(folder_.write("c.uint32", "abcdef"), TokenFormat::automatic).message,
              HasSubstr("expected ids of 32 bits, got 6 bytes"));
}

TEST_F(TokenFileTest, WhatIsNoReadableFileIsNamed) {
  EXPECT_EQ(error_of(folder_.path("nothing")).code, ErrorCode::not_found);
  EXPECT_THAT(error_of(folder_.path("")).message, HasSubstr("a folder; write FOLDER/*"));
  EXPECT_THAT(error_of(folder_.write("e.txt", "")).message, HasSubstr("empty"));
  ASSERT_EQ(::mkfifo(folder_.path("pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of(folder_.path("pipe")).message, HasSubstr("a pipe or device"));
}

TEST_F(TokenFileTest, ADamagedShardIsRefused) {
  const auto message = [&](const std::string& content) {
    return error_of(folder_.write("s.bin", content), TokenFormat::bin).message;
  };
  EXPECT_THAT(message("short"), HasSubstr("a header of 1024 bytes, got a file of 5 bytes"));
  EXPECT_THAT(message(llmc_shard({1, 2}, 3)), HasSubstr("announces 3 tokens, 6 bytes, but 4 bytes follow"));
  EXPECT_THAT(message(llmc_shard({1, 2}, -1)), HasSubstr("announces 4294967295 tokens"));
  EXPECT_THAT(message(llmc_shard({}, 0)), HasSubstr("no tokens"));
  EXPECT_THAT(message(llmc_shard({1}, 1, 1234)), HasSubstr("set data.format to uint16"));
  EXPECT_THAT(message(llmc_shard({1}, 1, 20240520, 2)), HasSubstr("version 2"));
  EXPECT_THAT(message(llmc_shard({1, 2}, 2, 20240801, 7)),
              HasSubstr("announces 2 tokens, 8 bytes, but 4 bytes follow"));
}

TEST_F(TokenFileTest, AnOddNumberOfBytesIsNotIds) {
  EXPECT_THAT(error_of(folder_.write("a.bin", "abc")).message, HasSubstr("expected ids of 16 bits, got 3 bytes"));
}

TEST_F(TokenFileTest, BinaryIsNotText) {
  EXPECT_THAT(error_of(folder_.write("a.txt", std::string("a\0b", 3))).message, HasSubstr("got binary data"));
}

TEST_F(TokenFileTest, IdsBeyondTheVocabularyAreFoundAtOnce) {
  std::vector<std::uint16_t> ids(100'000, 3);
  ids[77'777] = 300;
  const std::string path = folder_.write("a.bin", raw_ids(ids));
  EXPECT_THAT(error_of(path).message, HasSubstr("token 77777 has id 300, but model.vocab_size is 256"));
  EXPECT_TRUE(open_file(path, TokenFormat::automatic, 301));
  EXPECT_THAT(error_of(folder_.write("a.txt", "A\xc3"), TokenFormat::text, 128).message,
              HasSubstr("has id 195, but model.vocab_size is 128; set it to 256"));
}

TEST(TokenFormat, UnknownNamesAreRefusedWithTheKnownOnes) {
  EXPECT_EQ(*token_format("text"), TokenFormat::text);
  EXPECT_THAT(token_format("parquet").error().message,
              HasSubstr("expected auto, bin, uint16, uint32 or text, got 'parquet'"));
}

}  // namespace
}  // namespace starling::trainer
