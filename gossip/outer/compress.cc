#include "gossip/outer/compress.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace starling::outer {
namespace {

static_assert(std::endian::native == std::endian::little, "wire floats are little-endian");

// Values go through a block that stays in the first cache level; larger ones are not faster.
constexpr std::size_t block_values = 2048;

// Round to nearest, ties to even: adding 0x7fff, and one more when the last kept bit is set, carries into the kept half
// exactly when the dropped half is above one half, or equal to it and the kept half is odd. A carry out of the mantissa
// raises the exponent, which is the right result, up to infinity. A NaN would be carried over to zero, so it is cut
// instead, with its quiet bit set so that it never becomes an infinity. Without branches, so that it vectorises.
std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const std::uint32_t quiet_nan = (bits >> 16) | 0x40U;
  return static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

float from_bf16(std::uint16_t half) { return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16); }

}  // namespace

std::size_t compressed_bytes(std::size_t count, Compression compression) {
  return count * (compression == Compression::bf16 ? sizeof(std::uint16_t) : sizeof(float));
}

void compress(std::span<const float> values, Compression compression, Bytes& out) {
  out.reserve(out.size() + compressed_bytes(values.size(), compression));
  if (compression == Compression::none) {
    const ByteView raw = std::as_bytes(values);
    out.insert(out.end(), raw.begin(), raw.end());
    return;
  }
  std::array<std::uint16_t, block_values> block;
  for (std::size_t start = 0; start < values.size(); start += block_values) {
    const std::size_t count = std::min(block_values, values.size() - start);
    const float* from = values.data() + start;
    for (std::size_t i = 0; i < count; ++i) block[i] = to_bf16(from[i]);
    const ByteView raw = std::as_bytes(std::span(block).first(count));
    out.insert(out.end(), raw.begin(), raw.end());
  }
}

void decompress(ByteView bytes, Compression compression, std::span<float> values) {
  STARLING_CHECK(bytes.size() == compressed_bytes(values.size(), compression), "a buffer of another size");
  if (compression == Compression::none) {
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return;
  }
  // Through an aligned block: the bytes may stand anywhere in a frame.
  std::array<std::uint16_t, block_values> block;
  for (std::size_t start = 0; start < values.size(); start += block_values) {
    const std::size_t count = std::min(block_values, values.size() - start);
    std::memcpy(block.data(), bytes.data() + start * sizeof(std::uint16_t), count * sizeof(std::uint16_t));
    float* to = values.data() + start;
    for (std::size_t i = 0; i < count; ++i) to[i] = from_bf16(block[i]);
  }
}

}  // namespace starling::outer
