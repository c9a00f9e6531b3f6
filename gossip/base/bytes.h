// Byte strings: hex, little-endian readers and writers with bounds, and the two hashes.
//
// BLAKE2b-256 names whatever is signed or stands in a token; XXH3-128 guards bulk bytes against damage, not malice.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "gossip/base/error.h"

namespace starling {

using Bytes = std::vector<std::byte>;
using ByteView = std::span<const std::byte>;
// Immutable once made; shared between threads, and with transfers that still travel.
using Buffer = std::shared_ptr<const Bytes>;

using Hash128 = std::array<std::byte, 16>;
using Hash256 = std::array<std::byte, 32>;

Hash128 xxh3_128(ByteView bytes);
Hash256 blake2b_256(ByteView bytes);
// 64 bits of XXH3 over `bytes`, for orders that all nodes must agree on.
std::uint64_t xxh3_64(ByteView bytes, std::uint64_t seed = 0);

inline ByteView as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view as_text(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string to_hex(ByteView bytes);
// Errors: an odd length or a character that is no hex digit.
Result<Bytes> from_hex(std::string_view text);

// Appends fixed-width little-endian values; strings and blobs carry a 32-bit length.
class ByteWriter {
 public:
  template <typename T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    const auto* p = reinterpret_cast<const std::byte*>(&value);
    out_.insert(out_.end(), p, p + sizeof value);
  }
  void raw(ByteView bytes) { out_.insert(out_.end(), bytes.begin(), bytes.end()); }
  void blob(ByteView bytes) {
    number(static_cast<std::uint32_t>(bytes.size()));
    raw(bytes);
  }
  void text(std::string_view t) { blob(as_bytes(t)); }
  const Bytes& bytes() const& { return out_; }
  Bytes bytes() && { return std::move(out_); }

 private:
  Bytes out_;
};

// Reads what ByteWriter wrote. A read past the end fails once and for all: every later read gives zero or empty, and
// `complete()` is false. So a decoder reads all fields and asks once. Never allocates more than the bytes that are there.
class ByteReader {
 public:
  explicit ByteReader(ByteView bytes) : rest_(bytes) {}
  template <typename T>
  T number() {
    static_assert(std::is_arithmetic_v<T>);
    T value{};
    const ByteView b = raw(sizeof value);
    if (ok_) std::memcpy(&value, b.data(), sizeof value);
    return value;
  }
  ByteView raw(std::size_t size) {
    if (!ok_ || size > rest_.size()) {
      ok_ = false;
      return {};
    }
    const ByteView out = rest_.first(size);
    rest_ = rest_.subspan(size);
    return out;
  }
  ByteView blob(std::size_t max_size) {
    const auto size = number<std::uint32_t>();
    if (size > max_size) ok_ = false;
    return raw(size);
  }
  std::string text(std::size_t max_size) { return std::string(as_text(blob(max_size))); }
  template <std::size_t N>
  std::array<std::byte, N> array() {
    std::array<std::byte, N> out{};
    const ByteView b = raw(N);
    if (ok_) std::memcpy(out.data(), b.data(), N);
    return out;
  }
  bool ok() const { return ok_; }
  // True when every read succeeded and nothing is left over.
  bool complete() const { return ok_ && rest_.empty(); }

 private:
  ByteView rest_;
  bool ok_ = true;
};

}  // namespace starling
