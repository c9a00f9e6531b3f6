#include "gossip/base/bytes.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>

namespace starling {
namespace {

Bytes bytes_of(const std::vector<std::uint8_t>& values) {
  Bytes out;
  for (const std::uint8_t value : values) out.push_back(static_cast<std::byte>(value));
  return out;
}

TEST(Hex, IsLowerCaseAndReadsBothCases) {
  EXPECT_EQ(to_hex(bytes_of({0x00, 0x0f, 0xa5, 0xff})), "000fa5ff");
  EXPECT_EQ(from_hex("000FA5ff").value(), bytes_of({0x00, 0x0f, 0xa5, 0xff}));
  EXPECT_TRUE(from_hex("").value().empty());
}

TEST(Hex, RefusesWhatIsNoHex) {
  for (const char* text : {"0", "abc", "0g", "g0", " 00", "0x00", "0 ", "-1", "\n\n"}) {
    const auto bytes = from_hex(text);
    ASSERT_FALSE(bytes) << text;
    EXPECT_EQ(bytes.error().code, ErrorCode::bad_input) << text;
  }
  EXPECT_FALSE(from_hex(std::string_view("0\0", 2)));
}

RC_GTEST_PROP(Hex, ReadsBackWhatItWrote, (const std::vector<std::uint8_t>& values)) {
  RC_ASSERT(from_hex(to_hex(bytes_of(values))).value() == bytes_of(values));
}

// Any text: either it is refused, or it stands for exactly as many bytes as it has pairs of digits.
RC_GTEST_PROP(Hex, NeverInventsBytes, (const std::string& text)) {
  const auto bytes = from_hex(text);
  if (bytes) RC_ASSERT(bytes->size() * 2 == text.size());
}

TEST(Hash, MatchesItsPublishedVectors) {
  EXPECT_EQ(to_hex(blake2b_256({})), "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
  EXPECT_EQ(to_hex(blake2b_256(as_bytes("abc"))), "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
  EXPECT_EQ(to_hex(xxh3_128({})), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(xxh3_64({}), 0x2d06800538d394c2U);
  EXPECT_NE(xxh3_64(as_bytes("abc"), 1), xxh3_64(as_bytes("abc"), 2));
}

TEST(ByteWriter, WritesLittleEndian) {
  ByteWriter writer;
  writer.number(std::uint32_t{0x01020304});
  writer.text("ab");
  EXPECT_EQ(writer.bytes(), bytes_of({4, 3, 2, 1, 2, 0, 0, 0, 'a', 'b'}));
}

RC_GTEST_PROP(ByteReader, ReadsBackWhatWasWritten,
              (std::uint8_t a, std::int64_t b, const std::string& c, const std::vector<std::uint8_t>& d,
               std::uint16_t e)) {
  ByteWriter writer;
  writer.number(a);
  writer.number(b);
  writer.text(c);
  writer.blob(bytes_of(d));
  writer.number(e);
  ByteReader reader(writer.bytes());
  RC_ASSERT(reader.number<std::uint8_t>() == a);
  RC_ASSERT(reader.number<std::int64_t>() == b);
  RC_ASSERT(reader.text(c.size()) == c);
  const ByteView blob = reader.blob(d.size());
  RC_ASSERT(Bytes(blob.begin(), blob.end()) == bytes_of(d));
  RC_ASSERT(reader.number<std::uint16_t>() == e);
  RC_ASSERT(reader.complete());
}

TEST(ByteReader, KeepsFloatsBitForBit) {
  ByteWriter writer;
  writer.number(-0.0);
  writer.number(std::numeric_limits<float>::quiet_NaN());
  ByteReader reader(writer.bytes());
  EXPECT_TRUE(std::signbit(reader.number<double>()));
  EXPECT_TRUE(std::isnan(reader.number<float>()));
  EXPECT_TRUE(reader.complete());
}

TEST(ByteReader, FailsOnceAndForAll) {
  const Bytes three = bytes_of({1, 2, 3});
  ByteReader reader(three);
  EXPECT_EQ(reader.number<std::uint32_t>(), 0U);  // too long by one
  EXPECT_FALSE(reader.ok());
  EXPECT_EQ(reader.number<std::uint8_t>(), 0U);  // would fit, but the reader has failed
  EXPECT_TRUE(reader.raw(1).empty());
  EXPECT_TRUE(reader.text(10).empty());
  EXPECT_EQ((reader.array<2>()), (std::array<std::byte, 2>{}));
  EXPECT_FALSE(reader.complete());
}

TEST(ByteReader, IsNotCompleteWhileSomethingIsLeft) {
  const Bytes two = bytes_of({1, 2});
  ByteReader reader(two);
  EXPECT_EQ(reader.number<std::uint8_t>(), 1U);
  EXPECT_TRUE(reader.ok());
  EXPECT_FALSE(reader.complete());
  EXPECT_EQ(reader.number<std::uint8_t>(), 2U);
  EXPECT_TRUE(reader.complete());
}

TEST(ByteReader, RefusesALengthBeyondTheLimitOrTheInput) {
  ByteWriter writer;
  writer.blob(as_bytes("hello"));
  ByteReader within(writer.bytes());
  EXPECT_EQ(as_text(within.blob(5)), "hello");
  ByteReader over_limit(writer.bytes());
  EXPECT_TRUE(over_limit.blob(4).empty());
  EXPECT_FALSE(over_limit.ok());

  // A declared length of 4 GiB in front of three bytes.
  const Bytes declared = bytes_of({0xff, 0xff, 0xff, 0xff, 1, 2, 3});
  ByteReader huge(declared);
  EXPECT_TRUE(huge.blob(std::numeric_limits<std::size_t>::max()).empty());
  EXPECT_FALSE(huge.ok());
}

// Any bytes and any sequence of reads: what comes out was there, and nothing is read twice.
RC_GTEST_PROP(ByteReader, StaysInsideHostileInput,
              (const std::vector<std::uint8_t>& input, const std::vector<std::uint8_t>& reads)) {
  const Bytes bytes = bytes_of(input);
  ByteReader reader(bytes);
  std::size_t taken = 0;
  for (const std::uint8_t read : reads) {
    const bool was_ok = reader.ok();
    switch (read % 5) {
      case 0:
        reader.number<std::uint16_t>();
        break;
      case 1:
        reader.number<std::uint64_t>();
        break;
      case 2:
        reader.array<3>();
        break;
      case 3:
        taken += reader.raw(read).size();
        break;
      case 4:
        taken += reader.blob(read).size();
        break;
    }
    if (read % 5 == 0 && reader.ok()) taken += 2;
    if (read % 5 == 1 && reader.ok()) taken += 8;
    if (read % 5 == 2 && reader.ok()) taken += 3;
    if (read % 5 == 4 && reader.ok()) taken += 4;
    if (!was_ok) RC_ASSERT(!reader.ok());
    RC_ASSERT(taken <= bytes.size());
  }
  RC_ASSERT(reader.complete() == (reader.ok() && taken == bytes.size()));
}

}  // namespace
}  // namespace starling
