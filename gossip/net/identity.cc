#include "gossip/net/identity.h"

#include <sodium.h>

#include <cstring>
#include <string>
#include <utility>

namespace starling::net {
namespace {

constexpr std::string_view key_magic = "STRLKEY1";
constexpr std::string_view boot_magic = "STRLBOT1";

unsigned char* into(std::span<std::byte> bytes) { return reinterpret_cast<unsigned char*>(bytes.data()); }
const unsigned char* raw(ByteView bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

// Before any secret is drawn: until then libsodium's generator is not seeded.
void start_sodium() {
  static const bool ready = sodium_init() >= 0;
  STARLING_CHECK(ready, "libsodium found no source of randomness");
}

// libsodium's 64-byte form of an Ed25519 secret: seed, then public key.
Secret<64> expanded(const Secret<32>& seed) {
  Secret<64> secret;
  NodeId ignored;
  crypto_sign_ed25519_seed_keypair(into(ignored.key), into(secret.reveal_for_writing()), raw(seed.reveal()));
  return secret;
}

// Domains have no NUL, so no pair of domain and message can be cut in two ways.
Bytes signed_bytes(std::string_view domain, ByteView message) {
  STARLING_CHECK(domain.find('\0') == std::string_view::npos, "a signature's domain has a NUL");
  ByteWriter out;
  out.raw(as_bytes(domain));
  out.number(std::uint8_t{0});
  out.raw(message);
  return std::move(out).bytes();
}

Status write_boot(Storage& folder, Boot boot) {
  ByteWriter out;
  out.raw(as_bytes(boot_magic));
  out.number(boot);
  return folder.replace(identity_boot_file, out.bytes());
}

Result<Boot> read_boot(Storage& folder) {
  const auto bytes = folder.read(identity_boot_file);
  if (!bytes && bytes.error().code != ErrorCode::not_found) return tl::unexpected(bytes.error());
  if (!bytes) {
    return fail(
        ErrorCode::bad_input,
        "the identity folder has a key but no 'boot' file; restore it, or remove the folder to get a new identity");
  }
  ByteReader in(*bytes);
  const std::string magic(as_text(in.raw(boot_magic.size())));
  const auto boot = in.number<Boot>();
  if (!in.complete() || magic != boot_magic || boot == ~Boot{0}) {
    return fail(ErrorCode::bad_input,
                "the identity folder's 'boot' file is damaged; restore it, or remove the folder to get a new identity");
  }
  return boot;
}

}  // namespace

void wipe(std::span<std::byte> memory) { sodium_memzero(memory.data(), memory.size()); }

Result<CurveKey> curve_key_of(const NodeId& id) {
  CurveKey out;
  if (crypto_sign_ed25519_pk_to_curve25519(into(out.key), raw(id.key)) != 0) {
    return fail(ErrorCode::unauthenticated, "the node id " + id.hex() + " is not an Ed25519 public key");
  }
  return out;
}

CurveKeyPair CurveKeyPair::generate() {
  start_sodium();
  Secret<32> secret;
  randombytes_buf(secret.reveal_for_writing().data(), 32);
  return from_secret(std::move(secret));
}

CurveKeyPair CurveKeyPair::from_secret(Secret<32> secret) {
  CurveKey key;
  crypto_scalarmult_curve25519_base(into(key.key), raw(secret.reveal()));
  return CurveKeyPair(key, std::move(secret));
}

NodeKey NodeKey::generate() {
  start_sodium();
  Secret<32> seed;
  randombytes_buf(seed.reveal_for_writing().data(), 32);
  return from_seed(seed);
}

NodeKey NodeKey::from_seed(const Secret<32>& seed) {
  NodeId id;
  Secret<64> secret;
  crypto_sign_ed25519_seed_keypair(into(id.key), into(secret.reveal_for_writing()), raw(seed.reveal()));
  return NodeKey(id, seed.clone());
}

CurveKeyPair NodeKey::curve() const {
  const Secret<64> secret = expanded(seed_);
  Secret<32> curve_secret;
  crypto_sign_ed25519_sk_to_curve25519(into(curve_secret.reveal_for_writing()), raw(secret.reveal()));
  return CurveKeyPair::from_secret(std::move(curve_secret));
}

Signature NodeKey::sign(std::string_view domain, ByteView message) const {
  const Bytes bytes = signed_bytes(domain, message);
  const Secret<64> secret = expanded(seed_);
  Signature out{};
  crypto_sign_ed25519_detached(into(out), nullptr, raw(bytes), bytes.size(), raw(secret.reveal()));
  return out;
}

bool verify(const NodeId& signer, std::string_view domain, ByteView message, const Signature& signature) {
  const Bytes bytes = signed_bytes(domain, message);
  return crypto_sign_ed25519_verify_detached(raw(signature), raw(bytes), bytes.size(), raw(signer.key)) == 0;
}

RunId make_run_id(const NodeId& owner, const Hash256& salt) {
  ByteWriter out;
  out.raw(owner.key);
  out.raw(salt);
  return RunId{blake2b_256(out.bytes())};
}

Hash256 random_bytes_256() {
  start_sodium();
  Hash256 out{};
  randombytes_buf(out.data(), out.size());
  return out;
}

Hash128 random_bytes_128() {
  start_sodium();
  Hash128 out{};
  randombytes_buf(out.data(), out.size());
  return out;
}

Status save_key(Storage& storage, std::string_view path, const NodeKey& key) {
  Secret<40> file;
  std::memcpy(file.reveal_for_writing().data(), key_magic.data(), key_magic.size());
  std::memcpy(file.reveal_for_writing().data() + key_magic.size(), key.seed_.reveal().data(), 32);
  return storage.replace(path, file.reveal());
}

Result<NodeKey> load_key(Storage& storage, std::string_view path) {
  auto bytes = storage.read(path);
  if (!bytes) return tl::unexpected(bytes.error());
  const bool sound = bytes->size() == key_magic.size() + 32 && as_text(*bytes).starts_with(key_magic);
  Secret<32> seed;
  if (sound) std::memcpy(seed.reveal_for_writing().data(), bytes->data() + key_magic.size(), 32);
  wipe(*bytes);
  if (!sound) {
    return fail(ErrorCode::bad_input,
                "'" + std::string(path) + "' is not a Starling key file; restore it, or remove it to get a new key");
  }
  return NodeKey::from_seed(seed);
}

Status create_identity(Storage& folder, const NodeKey& key, ByteView chain) {
  // The counter first: a key without one is refused by open(), a counter without a key is harmless.
  if (Status done = write_boot(folder, 0); !done) return done;
  if (!chain.empty()) {
    if (Status done = store_chain(folder, chain); !done) return done;
  }
  return save_key(folder, identity_key_file, key);
}

Status store_chain(Storage& folder, ByteView chain) { return folder.replace(identity_certificate_file, chain); }

Result<Identity> Identity::open(Storage& folder) {
  auto key = load_key(folder, identity_key_file);
  if (!key && key.error().code == ErrorCode::not_found) {
    NodeKey fresh = NodeKey::generate();
    if (Status done = create_identity(folder, fresh, {}); !done) return tl::unexpected(done.error());
    key = std::move(fresh);
  }
  if (!key) return tl::unexpected(key.error());
  const auto last = read_boot(folder);
  if (!last) return tl::unexpected(last.error());
  const Boot boot = *last + 1;
  if (Status done = write_boot(folder, boot); !done) return tl::unexpected(done.error());
  auto chain = folder.read(identity_certificate_file);
  if (!chain && chain.error().code != ErrorCode::not_found) return tl::unexpected(chain.error());
  return Identity(std::move(*key), boot, chain ? std::move(*chain) : Bytes{});
}

}  // namespace starling::net
