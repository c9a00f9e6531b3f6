// The real signatures of records and suspicions: Ed25519 with the node's own key, in a domain of their own, so that
// nothing signed here can serve as a certificate, a grant or a join request.
#pragma once

#include <array>
#include <string_view>

#include "gossip/membership/record.h"
#include "gossip/net/identity.h"

namespace starling::membership {

class KeySignatures final : public Signatures {
 public:
  // `key` outlives this object.
  explicit KeySignatures(const net::NodeKey& key) : key_(key) {}
  std::array<std::byte, 64> sign(ByteView message) const override { return key_.sign(domain, message); }
  bool verify(const NodeId& signer, ByteView message, const std::array<std::byte, 64>& signature) const override {
    return net::verify(signer, domain, message, signature);
  }

 private:
  static constexpr std::string_view domain = "starling/gossip/1";
  const net::NodeKey& key_;
};

}  // namespace starling::membership
