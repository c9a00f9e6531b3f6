// Who a node is: an Ed25519 key, the CURVE key derived from it, and a counter of starts.
//
// One key serves both: its public half is the node id that certificates name, and the same key, mapped to curve25519,
// encrypts connections, so whoever completes a handshake has proved that the id is his and no table of key pairs has to
// be believed. The map forgets one sign bit: an id and its mirror image share a CURVE key, and only the holder of the
// secret can make signatures for either; who keeps a table of CURVE keys lets the first id stand.
//
// Signatures are always over a domain (what kind of statement this is) and bytes of fixed layout, so that a signature
// asked for one purpose can never serve another.
//
// Secrets live in `Secret`, which is wiped when it dies, cannot be copied by accident and has no operator<<.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "gossip/base/bytes.h"
#include "gossip/base/env.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"

namespace starling::net {

// Overwrites memory in a way that no optimiser removes.
void wipe(std::span<std::byte> memory);

// N bytes that nobody may see. A moved-from one holds zeros.
template <std::size_t N>
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::span<const std::byte, N> bytes) { std::memcpy(bytes_.data(), bytes.data(), N); }
  Secret(Secret&& other) noexcept : bytes_(other.bytes_) { wipe(other.bytes_); }
  Secret& operator=(Secret&& other) noexcept {
    if (this != &other) {
      bytes_ = other.bytes_;
      wipe(other.bytes_);
    }
    return *this;
  }
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  ~Secret() { wipe(bytes_); }

  Secret clone() const { return Secret(std::span<const std::byte, N>(bytes_)); }
  // The bytes themselves, for a library that needs them; never for a log, a metric or a message.
  std::span<const std::byte, N> reveal() const { return bytes_; }
  std::span<std::byte, N> reveal_for_writing() { return bytes_; }

 private:
  std::array<std::byte, N> bytes_{};
};

using Signature = std::array<std::byte, 64>;
inline constexpr std::size_t signature_bytes = 64;

// A curve25519 public key, as a ZAP request and ZMQ_CURVE_SERVERKEY carry it (32 bytes, not Z85).
struct CurveKey {
  std::array<std::byte, 32> key{};
  auto operator<=>(const CurveKey&) const = default;
};

// The CURVE key that belongs to a node id. Errors: unauthenticated, when the id is no key.
Result<CurveKey> curve_key_of(const NodeId& id);

class CurveKeyPair {
 public:
  static CurveKeyPair generate();
  static CurveKeyPair from_secret(Secret<32> secret);
  const CurveKey& public_key() const { return public_; }
  const Secret<32>& secret() const { return secret_; }
  CurveKeyPair clone() const { return CurveKeyPair(public_, secret_.clone()); }

 private:
  CurveKeyPair(const CurveKey& public_key, Secret<32> secret) : public_(public_key), secret_(std::move(secret)) {}
  CurveKey public_;
  Secret<32> secret_;
};

// The key of a node, of an owner or of a delegate: they differ in what certificates say about them only.
class NodeKey {
 public:
  static NodeKey generate();
  // The same seed gives the same key: for simulations, where keys follow from the world's seed.
  static NodeKey from_seed(const Secret<32>& seed);

  const NodeId& id() const { return id_; }
  CurveKeyPair curve() const;
  // REQUIRES: `domain` has no NUL.
  Signature sign(std::string_view domain, ByteView message) const;
  NodeKey clone() const { return NodeKey(id_, seed_.clone()); }

 private:
  friend Status save_key(Storage& storage, std::string_view path, const NodeKey& key);
  NodeKey(const NodeId& id, Secret<32> seed) : id_(id), seed_(std::move(seed)) {}
  NodeId id_;
  Secret<32> seed_;
};

// Whether `signer` signed `message` for `domain`.
[[nodiscard]] bool verify(const NodeId& signer, std::string_view domain, ByteView message, const Signature& signature);

// Run id = BLAKE2b-256(owner key, the run's own random bytes).
RunId make_run_id(const NodeId& owner, const Hash256& salt);
// 32 or 16 bytes from the operating system's generator.
Hash256 random_bytes_256();
Hash128 random_bytes_128();

// A key file: 8 bytes of magic, 32 bytes of seed. Storage keeps secrets at mode 0600.
// Errors: those of Storage.
Status save_key(Storage& storage, std::string_view path, const NodeKey& key);
// Errors: not_found, io, bad_input (names the file and what to do).
Result<NodeKey> load_key(Storage& storage, std::string_view path);

// The identity folder of a node: identity.key, boot (a counter of starts), and, where somebody wrote one before the
// first start, the certificate chain of the key.
inline constexpr std::string_view identity_key_file = "identity.key";
inline constexpr std::string_view identity_boot_file = "boot";
inline constexpr std::string_view identity_certificate_file = "certificate";

// Makes a folder for a node that has not started yet. `chain` may be empty.
// Errors: those of Storage.
Status create_identity(Storage& folder, const NodeKey& key, ByteView chain);

// An opened identity: one start of one node. Its boot number is on disk before anybody can have seen a packet of it, so
// that (boot, incarnation, version) orders all that this node ever says.
class Identity {
 public:
  // Opens the folder, or makes a new key where there is none, and raises the boot counter.
  // Errors: io, disk_full, bad_input: a damaged or a missing counter beside a key (starting over would reuse old
  // boots).
  static Result<Identity> open(Storage& folder);

  const NodeKey& key() const { return key_; }
  const NodeId& id() const { return key_.id(); }
  Boot boot() const { return boot_; }
  // The stored chain, empty if there is none; not verified yet.
  ByteView stored_chain() const { return chain_; }

 private:
  Identity(NodeKey key, Boot boot, Bytes chain) : key_(std::move(key)), boot_(boot), chain_(std::move(chain)) {}
  NodeKey key_;
  Boot boot_ = 0;
  Bytes chain_;
};

// Keeps the chain that an admission gave, so that the next start finds it. Errors: those of Storage.
Status store_chain(Storage& folder, ByteView chain);

}  // namespace starling::net
