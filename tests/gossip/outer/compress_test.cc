#include "gossip/outer/compress.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "gossip/base/random.h"

namespace starling::outer {
namespace {

std::vector<float> round_trip(const std::vector<float>& values, Compression compression) {
  Bytes bytes;
  compress(values, compression, bytes);
  EXPECT_EQ(bytes.size(), compressed_bytes(values.size(), compression));
  std::vector<float> out(values.size(), -1.0F);
  decompress(bytes, compression, out);
  return out;
}

// The nearest bf16 the slow way: of the two neighbours with 8 bits of mantissa, the nearer one; of equally near ones the
// one whose last bit is zero. Exact, as doubles hold floats and their differences.
float nearest_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t low = bits & 0xffff0000U;
  const std::uint32_t high = low + 0x10000U;
  // Beyond the largest bf16 the next one would be 2^128, which bf16 calls infinity.
  const auto as_double = [](std::uint32_t b) {
    const float f = std::bit_cast<float>(b);
    return std::isinf(f) ? std::copysign(0x1p128, static_cast<double>(f)) : static_cast<double>(f);
  };
  const double to_low = std::fabs(value - as_double(low));
  const double to_high = std::fabs(value - as_double(high));
  if (to_low != to_high) return std::bit_cast<float>(to_low < to_high ? low : high);
  return std::bit_cast<float>((low & 0x10000U) == 0 ? low : high);
}

TEST(Compress, Fp32IsExact) {
  Stream random(1);
  std::vector<float> values(3000);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
  const auto out = round_trip(values, Compression::none);
  EXPECT_EQ(std::memcmp(out.data(), values.data(), values.size() * sizeof(float)), 0);
}

TEST(Compress, Bf16IsTheNearestEvenOfAnyFiniteFloat) {
  Stream random(2);
  std::vector<float> values{0.0F, -0.0F, 1.0F, std::numeric_limits<float>::max(), std::numeric_limits<float>::min(),
                            std::numeric_limits<float>::denorm_min(),
                            // Ties: half way above an even and above an odd last bit.
                            std::bit_cast<float>(0x3f808000U), std::bit_cast<float>(0x3f818000U),
                            // The mantissa carries into the exponent.
                            std::bit_cast<float>(0x3fffffffU)};
  while (values.size() < 200'000) {
    const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random.next()));
    if (std::isfinite(value)) values.push_back(value);
    // Random bits hardly ever tie.
    const auto tie = (static_cast<std::uint32_t>(random.next()) & 0xffff0000U) | 0x8000U;
    if (std::isfinite(std::bit_cast<float>(tie))) values.push_back(std::bit_cast<float>(tie));
  }
  const auto out = round_trip(values, Compression::bf16);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(out[i]), std::bit_cast<std::uint32_t>(nearest_bf16(values[i])))
        << "value " << i << ": " << values[i];
  }
}

TEST(Compress, Bf16KeepsNaNAndInfinity) {
  // Payloads in the half that is dropped, in the half that is kept, in both; quiet and signalling, both signs.
  for (const std::uint32_t bits :
       {0x7f800001U, 0x7f80ffffU, 0x7fffffffU, 0x7fc00000U, 0xff800001U, 0xffffffffU, 0x7fff8000U, 0xffff8000U}) {
    const auto out = round_trip({std::bit_cast<float>(bits)}, Compression::bf16);
    EXPECT_TRUE(std::isnan(out[0])) << std::hex << bits;
    EXPECT_EQ(std::signbit(out[0]), (bits >> 31) != 0) << std::hex << bits;
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(round_trip({infinity, -infinity}, Compression::bf16), (std::vector<float>{infinity, -infinity}));
}

TEST(Compress, AppendsAndCopesWithEveryLengthAroundItsBlocks) {
  for (const std::size_t count : {0UL, 1UL, 3UL, 2047UL, 2048UL, 2049UL, 6000UL}) {
    std::vector<float> values(count);
    for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 251);  // exact in bf16
    Bytes bytes{std::byte{0x5a}};  // what stands before stays, and shifts the rest to odd addresses
    compress(values, Compression::bf16, bytes);
    ASSERT_EQ(bytes.size(), 1 + compressed_bytes(count, Compression::bf16));
    EXPECT_EQ(bytes[0], std::byte{0x5a});
    std::vector<float> out(count);
    decompress(ByteView(bytes).subspan(1), Compression::bf16, out);
    EXPECT_EQ(out, values);
  }
}

}  // namespace
}  // namespace starling::outer
