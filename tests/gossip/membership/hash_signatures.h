// Signatures that cost nothing: a hash keyed with the signer's id. Whoever knows an id can forge them; tests that must
// not forge simply do not.
#pragma once

#include <array>
#include <cstring>

#include "gossip/base/bytes.h"
#include "gossip/base/ids.h"
#include "gossip/membership/record.h"

namespace starling::membership {

class HashSignatures final : public Signatures {
 public:
  explicit HashSignatures(const NodeId& self) : self_(self) {}
  std::array<std::byte, 64> sign(ByteView message) const override { return tag(self_, message); }
  bool verify(const NodeId& signer, ByteView message, const std::array<std::byte, 64>& signature) const override {
    ++verified;
    return tag(signer, message) == signature;
  }
  mutable std::uint64_t verified = 0;

 private:
  static std::array<std::byte, 64> tag(const NodeId& signer, ByteView message) {
    std::array<std::byte, 64> out{};
    const Hash128 hash = xxh3_128(message);
    const std::uint64_t keyed = xxh3_64(hash, xxh3_64(signer.key));
    std::memcpy(out.data(), hash.data(), hash.size());
    std::memcpy(out.data() + hash.size(), &keyed, sizeof keyed);
    return out;
  }
  NodeId self_;
};

// The i-th node of a test; ids are in the order of i.
inline NodeId test_id(int i) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(1 + i / 256);
  id.key[1] = static_cast<std::byte>(i % 256);
  id.key[31] = std::byte{7};
  return id;
}

inline Record test_record(int i, Standing standing = Standing::active, Stage stage = 0) {
  Record record;
  record.id = test_id(i);
  record.boot = 1;
  record.name = "w" + std::to_string(i);
  record.standing = standing;
  record.stage = stage;
  record.endpoints = {"tcp://10.0.0.1:" + std::to_string(1000 + 3 * i), "tcp://10.0.0.1:" + std::to_string(1001 + 3 * i),
                      "tcp://10.0.0.1:" + std::to_string(1002 + 3 * i)};
  record.certificate = Bytes(212, std::byte{1});
  return record;
}

}  // namespace starling::membership
