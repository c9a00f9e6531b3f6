#include "trainer/data/shard_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/trainer/data/scratch_files.h"
#include "trainer/data/token_file.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {
namespace {

using testing::HasSubstr;

TokenIds ramp(std::int32_t first, std::int32_t count) {
  TokenIds out(static_cast<std::size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

class ShardWriterTest : public testing::Test {
 protected:
  ShardSpec spec(ShardFormat format = ShardFormat::bin, std::int64_t vocab_size = 1000) const {
    return {.prefix = folder_.path("t"), .format = format, .vocab_size = vocab_size, .shard_tokens = 10};
  }
  TokenIds read(const std::filesystem::path& path, std::int64_t vocab_size = 1000) const {
    const auto file = TokenFile::open(*open_local(path), TokenFormat::automatic, vocab_size);
    EXPECT_TRUE(file) << file.error().message;
    TokenIds out(file ? static_cast<std::size_t>(file->size()) : 0);
    if (file) {
      EXPECT_TRUE(file->read(0, out));
    }
    return out;
  }
  // All shards, one after the other.
  TokenIds all(const ShardSpec& spec, std::int64_t shards) const {
    TokenIds out;
    for (std::int64_t i = 0; i < shards; ++i) {
      const TokenIds ids = read(spec.shard(i), spec.vocab_size);
      out.insert(out.end(), ids.begin(), ids.end());
    }
    return out;
  }
  ScratchFolder folder_;
};

TEST_F(ShardWriterTest, ShardsAreFullButForTheLast) {
  for (const auto format : {ShardFormat::bin, ShardFormat::uint16, ShardFormat::uint32}) {
    auto writer = ShardWriter::resume(spec(format), {});
    ASSERT_TRUE(writer);
    ASSERT_TRUE(writer->append(ramp(0, 7)));
    ASSERT_TRUE(writer->append(ramp(7, 18)));
    EXPECT_EQ(*writer->finish(), 3);
    EXPECT_EQ(all(spec(format), 3), ramp(0, 25));
    EXPECT_EQ(read(spec(format).shard(2)).size(), 5u);
  }
}

TEST_F(ShardWriterTest, NoEmptyShardIsLeft) {
  auto writer = ShardWriter::resume(spec(), {});
  ASSERT_TRUE(writer->append(ramp(0, 20)));
  EXPECT_EQ(*writer->finish(), 2);
  EXPECT_FALSE(std::filesystem::exists(spec().shard(2).string() + ".part"));
}

TEST_F(ShardWriterTest, IdsBeyond16BitsGetTheOtherMagic) {
  auto writer = ShardWriter::resume(spec(ShardFormat::bin, 100'000), {});
  ASSERT_TRUE(writer->append(TokenIds{1, 99'999}));
  EXPECT_EQ(*writer->finish(), 1);
  EXPECT_EQ(read(spec().shard(0), 100'000), (TokenIds{1, 99'999}));
  EXPECT_EQ(std::filesystem::file_size(spec().shard(0)), 1024u + 8);
}

// A writer that is gone at any moment is taken up at its last mark.
TEST_F(ShardWriterTest, WhatCameAfterTheMarkIsCutAway) {
  for (const std::int32_t lost : {0, 1, 5, 6, 16, 40}) {
    ShardMark mark;
    {
      auto writer = ShardWriter::resume(spec(), {});
      ASSERT_TRUE(writer->append(ramp(0, 14)));
      mark = *writer->mark();
      EXPECT_EQ(mark.shard, 1);
      EXPECT_EQ(mark.tokens, 4);
      ASSERT_TRUE(writer->append(TokenIds(static_cast<std::size_t>(lost), 999)));
      ASSERT_TRUE(writer->mark());  // one that nobody wrote down
    }
    if (lost == 5) {  // what is written again may be less than what stood there
      auto shorter = ShardWriter::resume(spec(), mark);
      ASSERT_TRUE(shorter->append(ramp(14, 1)));
      EXPECT_EQ(*shorter->finish(), 2);
      EXPECT_EQ(all(spec(), 2), ramp(0, 15));
    }
    auto writer = ShardWriter::resume(spec(), mark);
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE(writer->append(ramp(14, 11)));
    EXPECT_EQ(*writer->finish(), 3);
    EXPECT_EQ(all(spec(), 3), ramp(0, 25)) << lost;
    EXPECT_FALSE(std::filesystem::exists(spec().shard(3)));
  }
}

TEST_F(ShardWriterTest, AMissingOrShortPartIsAnError) {
  EXPECT_THAT(ShardWriter::resume(spec(), {2, 5}).error().message, HasSubstr("t_000002.bin.part: cannot be opened"));
  folder_.write("t_000002.bin.part", "short");
  EXPECT_THAT(ShardWriter::resume(spec(), {2, 5}).error().message, HasSubstr("expected at least 1034 bytes"));
  ShardSpec nowhere = spec();
  nowhere.prefix = folder_.path("no/such/t");
  EXPECT_EQ(ShardWriter::resume(nowhere, {}).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace starling::trainer
