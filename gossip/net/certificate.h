// Certificates: who may be a member of a run, as what, and until when; and the owner's list of those who may no longer.
//
// A chain is owner -> node, or owner -> delegate -> node, and no longer: the owner's statement about a delegate lets
// that delegate admit plain workers until its own certificate ends, while the owner's key can stay on a machine that is
// switched off. Everybody verifies the chain itself; nobody believes another node's word that somebody is a member.
//
// Everything signed has one fixed layout and travels as opaque bytes: the signature is verified over the bytes as they
// came, and only then are they read. (A FlatBuffer has many encodings of one content and could not be signed so.)
//
//   certificate = body signature(64, by `issuer`, over domain "starling/certificate/1")
//   body        = version(1) run(32) subject(32) issuer(32) role(1) delegate(1) serial(8) expiry(8) name_size(1)
//                 name(32)
//   chain       = certificate | certificate certificate      (the node's own first, its delegate's second)
//   revocations = body signature(64, by the owner, over domain "starling/revocations/1")
//   body        = version(1) run(32) serial(8) nodes(2) tokens(2) node(32)* token(16)*     (both strictly ascending)
//   finish      = body signature(64, by the owner, over domain "starling/finish/1")
//   body        = version(1) run(32) last_step(1)
//
// Integers are little-endian; names are padded with zeros.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/net/identity.h"

namespace starling::net {

enum class Role : std::uint8_t { worker = 1, observer = 2 };
std::string_view to_string(Role role);

inline constexpr std::size_t max_name_bytes = 32;
inline constexpr std::size_t certificate_bytes = 1 + 3 * 32 + 1 + 1 + 8 + 8 + 1 + max_name_bytes + signature_bytes;
inline constexpr std::size_t max_chain_bytes = 2 * certificate_bytes;
inline constexpr std::int64_t expiry_leeway_seconds = 5 * 60;  // clocks of volunteers differ

// [a-z0-9-]{1,32}: names become metric labels and parts of paths, so issuers and readers both check them.
bool is_valid_name(std::string_view name);

enum class Delegation : std::uint8_t { none = 0, may_admit = 1 };

// What a certificate says; the run and the issuer are added when it is signed.
struct CertificateFields {
  NodeId subject;
  std::string name;
  Role role = Role::worker;
  Delegation delegation = Delegation::none;
  std::uint64_t serial = 0;  // rises with each certificate that an issuer gives to one subject
  std::int64_t expiry = 0;   // seconds since 1970
};

// A certificate whose chain has been verified: the only way to get one is verify_chain.
struct Certificate : CertificateFields {
  RunId run;
  NodeId issuer;
};

// Signs one certificate, which is a chain by itself when `issuer` is the owner.
// REQUIRES: a valid name.
Bytes issue_certificate(const NodeKey& issuer, const RunId& run, const CertificateFields& fields);
// The chain of a certificate that a delegate issued. REQUIRES: both are single certificates.
Bytes chain_of(ByteView certificate, ByteView delegate_certificate);

using TokenId = Hash128;

// Whom the owner has thrown out. A node on it is no member, and what it issued as a delegate does not hold.
// A token on it admits nobody any more. The list with the highest serial counts; each replaces the last.
struct Revocations {
  std::uint64_t serial = 0;     // 0: no list yet
  std::vector<NodeId> nodes;    // ascending
  std::vector<TokenId> tokens;  // ascending
  bool has(const NodeId& node) const;
  bool has(const TokenId& token) const;
};
inline constexpr std::size_t max_revoked_nodes = 1024;
inline constexpr std::size_t max_revoked_tokens = 1024;
inline constexpr std::size_t max_revocations_bytes =
    1 + 32 + 8 + 2 + 2 + 32 * max_revoked_nodes + 16 * max_revoked_tokens + signature_bytes;

// Sorts and signs. Errors: limit, when a bound is passed.
Result<Bytes> sign_revocations(const NodeKey& owner, const RunId& run, Revocations list);
// Errors: unauthenticated, bad_input.
Result<Revocations> verify_revocations(ByteView bytes, const RunId& run, const NodeId& owner);

// The owner's wish to end the run politely, made when a person stops the launcher. It can be repeated and replayed at
// will: a run ends once.
enum class LastStep : std::uint8_t { soon = 1 };  // the lead of the run publishes last_step = its k + 2
inline constexpr std::size_t finish_bytes = 1 + 32 + 1 + signature_bytes;
Bytes sign_finish(const NodeKey& owner, const RunId& run, LastStep policy);
// Errors: unauthenticated, bad_input.
Result<LastStep> verify_finish(ByteView statement, const RunId& run, const NodeId& owner);

// What every chain of a run is judged against.
struct Trust {
  RunId run;
  NodeId owner;
  Revocations revocations;
};

// The node's own certificate, if all of the chain holds at `unix_seconds` (with five minutes of leeway).
// Errors: unauthenticated, with the reason: a signature that does not hold, another run, expired, revoked, an issuer
// that may not issue this, a name that is not allowed; bad_input: not a chain at all.
Result<Certificate> verify_chain(ByteView chain, const Trust& trust, double unix_seconds);

// "2026-03-01 12:00:00 UTC"
std::string format_utc(std::int64_t unix_seconds);

}  // namespace starling::net
