// Floats to wire bytes and back: fp32 as it is, bf16 rounded to nearest even. NaN stays NaN.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/outer/outer_config.h"

namespace starling::outer {

std::size_t compressed_bytes(std::size_t count, Compression compression);
// Appends the encoded values to `out`.
void compress(std::span<const float> values, Compression compression, Bytes& out);
// REQUIRES: bytes.size() == compressed_bytes(values.size(), compression).
void decompress(ByteView bytes, Compression compression, std::span<float> values);

}  // namespace starling::outer
