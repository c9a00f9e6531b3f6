// Join tokens, and the two lobby messages that turn one into membership.
//
// A token is one line of text that the owner of a run gives to a volunteer. It says where to knock (seeds, each with
// the key that must answer there), for which run and under which owner, with which key to encrypt the knock, and it
// holds the owner's signed grant: "whoever shows this may become a <role> until <expiry>". There is no count of uses,
// because seeds that cannot see each other cannot count together: whoever copies a token can make a key of his own a
// member until the token expires. So a token is a secret, kept at mode 0600, and its lifetime is short.
//
//   text    = "starling1:" base64url(token), no padding, on one line
//   token   = size(2) version(1) grant(122) owner(32) spec_hash(32) lobby_secret(32) seeds(1) seed*
//             signature(64) check(8)
//             `size` counts the whole token, so that one that was cut off is told from one that was damaged;
//             `signature` is the owner's over all before it (domain "starling/token/1"); `check` is BLAKE2b-256, cut
//   seed    = node(32) endpoint(4 + text)
//   grant   = version(1) run(32) token_id(16) role(1) expiry(8) signature(64, the owner's, domain "starling/grant/1")
//   request = version(1) grant(122) node(32) name(4 + text) has_data(1) stage(4) record(4 + bytes) signature(64)
//             the signature is by `node`, domain "starling/join/1", over the seed's node id and all before it: a proof
//             that the asker holds the key, which nobody can carry to another seed or under another token
//   answer  = version(1) code(1), then code 0: chain(4 + bytes) run_spec(4 + text) stage(4) slot(4) records(1)
//                                              record(4 + bytes)*
//                                      else: why(4 + text)
//
// Integers are little-endian. Nothing in a request is secret beyond the grant; the lobby's CURVE session hides that.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/net/certificate.h"
#include "gossip/net/identity.h"
#include "gossip/net/lane.h"

namespace starling::net {

inline constexpr std::size_t max_seeds = 8;
inline constexpr std::size_t max_endpoint_bytes = 128;
inline constexpr std::size_t max_run_spec_bytes = 32 << 10;
inline constexpr std::size_t max_answer_records = 16;
inline constexpr std::size_t max_answer_record_bytes = 2048;
inline constexpr std::size_t max_refusal_bytes = 256;
inline constexpr std::size_t grant_bytes = 1 + 32 + 16 + 1 + 8 + signature_bytes;

// ---------------------------------------------------------------- grants: the owner's permission, as seeds see it
struct Grant {
  RunId run;
  TokenId token{};
  Role role = Role::worker;
  std::int64_t expiry = 0;  // seconds since 1970
};
Bytes sign_grant(const NodeKey& owner, const Grant& grant);
// Errors: unauthenticated (signature, other run, expired, revoked), bad_input.
Result<Grant> verify_grant(ByteView bytes, const Trust& trust, double unix_seconds);

// ---------------------------------------------------------------- tokens
struct Seed {
  std::string lobby;  // "tcp://host:port"
  NodeId node;
  bool operator==(const Seed&) const = default;
};

struct JoinToken {
  Grant grant;
  Bytes signed_grant;  // what a request shows
  NodeId owner;
  Hash256 spec_hash{};     // BLAKE2b-256 of the run spec's text
  CurveKeyPair lobby_key;  // the one client key that every lobby of the run lets in
  std::vector<Seed> seeds;

  JoinToken clone() const { return {grant, signed_grant, owner, spec_hash, lobby_key.clone(), seeds}; }
  // What the members' transport must know to open a lobby.
  const CurveKey& lobby_public_key() const { return lobby_key.public_key(); }
};

struct TokenFields {
  RunId run;
  Role role = Role::worker;
  std::int64_t expiry = 0;
  Hash256 spec_hash{};
  std::vector<Seed> seeds;  // 1 to max_seeds
};
// One line, without the end of line. A fresh token id is drawn. REQUIRES: the bounds hold.
std::string create_token(const NodeKey& owner, const CurveKeyPair& lobby_key, const TokenFields& fields);

// Reads a token as a person pasted it: white space around it does not matter. Verified by itself: the owner's key is
// inside, so this tells damage and expiry, and that the token is of one piece; trust in that owner is the reader's.
// Errors: bad_input: no token, cut off, damaged, from a newer version; unauthenticated: a signature that does not hold,
// expired. Each message says what to do.
Result<JoinToken> parse_token(std::string_view text, double unix_seconds);

// ---------------------------------------------------------------- join request
struct JoinRequest {
  NodeId node;
  std::string name;  // wanted; the admitting node may add "-2"
  bool has_data = false;
  Stage stage = no_stage;  // of a returning member that still holds a stage's weights
  Bytes record;            // the joiner's first signed record, opaque here
};
// REQUIRES: a valid name, a record of at most max_answer_record_bytes.
Bytes encode_join_request(const JoinRequest& request, ByteView signed_grant, const NodeId& seed, const NodeKey& key);

struct VerifiedJoinRequest {
  JoinRequest request;
  Grant grant;
};
// `self`: the seed that was asked. Errors: as verify_grant; unauthenticated also when the asker does not hold the key
// it names or was revoked.
Result<VerifiedJoinRequest> decode_join_request(ByteView frame, const NodeId& self, const Trust& trust,
                                                double unix_seconds);

// ---------------------------------------------------------------- join answer
enum class JoinRefusal : std::uint8_t {
  token_invalid = 1,  // signature, run, layout: ask the owner for another token
  token_expired = 2,
  revoked = 3,
  not_a_delegate = 4,  // this seed may not admit: try the next
  busy = 5,            // try again, or the next
  ended = 6,           // the run is over
};
std::string_view to_string(JoinRefusal code);
// Whether the next seed, or the same one later, may give another answer.
bool is_worth_retrying(JoinRefusal code);

struct JoinAdmission {
  Bytes chain;           // of the joiner's own key
  std::string run_spec;  // YAML text; its hash stands in the token, under the owner's signature
  Stage stage = no_stage;
  Slot slot = no_slot;
  std::vector<Bytes> records;  // signed records of active members, opaque here
};
struct JoinDenial {
  JoinRefusal code = JoinRefusal::busy;
  std::string why;
};
using JoinAnswer = std::variant<JoinAdmission, JoinDenial>;

// Leaves out records from the end until the answer fits a lobby frame; cuts a long reason.
// REQUIRES: a chain and a run spec within their bounds.
Bytes encode_join_answer(const JoinAnswer& answer);
// What the joiner accepts: the spec whose hash the token names, and a chain that holds for its own key under the
// token's owner, run and role. Errors: bad_input, unauthenticated.
Result<JoinAnswer> decode_join_answer(ByteView frame, const JoinToken& token, const NodeId& self, double unix_seconds);

}  // namespace starling::net
