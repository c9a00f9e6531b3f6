#include "trainer/data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(Tokenizer, AnUnknownNameIsRefused) {
  const auto tokenizer = Tokenizer::open("bytes");
  ASSERT_FALSE(tokenizer);
  EXPECT_EQ(tokenizer.error().code, ErrorCode::bad_config);
  EXPECT_THAT(tokenizer.error().message, HasSubstr("expected byte"));
}

TEST(ByteTokenizer, TokensAreBytes) {
  const auto tokenizer = *Tokenizer::open("byte");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_THAT(*tokenizer->encode("A\xc3\xa9\xff"), ElementsAre(65, 195, 169, 255));
  EXPECT_EQ(tokenizer->decode(std::vector{65, 195, 169}), "A\xc3\xa9");
  EXPECT_EQ(tokenizer->decode(std::vector{65, 256, -1, 66}), "AB");  // a padded vocabulary has ids of no token
  EXPECT_EQ(tokenizer->find("A"), 65);
  EXPECT_EQ(tokenizer->find("AB"), std::nullopt);
  EXPECT_EQ(tokenizer->end_of_text(), std::nullopt);
}

TEST(TextStream, GivesWholeCharactersOnly) {
  const auto tokenizer = *Tokenizer::open("byte");
  TextStream stream(*tokenizer);
  EXPECT_EQ(stream.next('a'), "a");
  EXPECT_EQ(stream.next(0xe2), "");
  EXPECT_EQ(stream.next(0x82), "");
  EXPECT_EQ(stream.next(0xac), "\xe2\x82\xac");
  EXPECT_EQ(stream.next(0xf0), "");
  EXPECT_EQ(stream.next('b'),
            "\xef\xbf\xbd"
            "b");  // nothing can come of it any more
  EXPECT_EQ(stream.next(0xc3), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.finish(), "");
}

RC_GTEST_PROP(TextStreamProperties, TokenByTokenIsTheWhole, ()) {
  const auto tokenizer = *Tokenizer::open("byte");
  const auto ids = *rc::gen::container<std::vector<std::int32_t>>(
      rc::gen::element(0x61, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98, 0x80, 0xff));
  TextStream stream(*tokenizer);
  std::string out;
  for (const std::int32_t id : ids) out += stream.next(id);
  out += stream.finish();
  RC_ASSERT(out == tokenizer->decode(ids));
}

}  // namespace
}  // namespace starling::trainer
