#include "gossip/net/token.h"

#include <sodium.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace starling::net {
namespace {

constexpr std::string_view token_prefix = "starling1:";
constexpr std::string_view token_domain = "starling/token/1";
constexpr std::string_view grant_domain = "starling/grant/1";
constexpr std::string_view join_domain = "starling/join/1";
constexpr std::uint8_t layout_version = 1;  // of token, grant, request and answer alike
constexpr std::size_t check_bytes = 8;
constexpr std::size_t max_token_bytes =
    2 + 1 + grant_bytes + 3 * 32 + 1 + max_seeds * (32 + 4 + max_endpoint_bytes) + signature_bytes + check_bytes;
constexpr int base64_variant = sodium_base64_VARIANT_URLSAFE_NO_PADDING;
constexpr std::string_view ask_again = "; ask the owner of the run for the whole line again";

tl::unexpected<Error> bad(std::string why) { return fail(ErrorCode::bad_input, std::move(why)); }
tl::unexpected<Error> refuse(std::string why) { return fail(ErrorCode::unauthenticated, std::move(why)); }

Signature signature_at_end(ByteView bytes) {
  Signature out{};
  std::memcpy(out.data(), bytes.data() + bytes.size() - signature_bytes, signature_bytes);
  return out;
}

std::array<std::byte, check_bytes> check_of(ByteView bytes) {
  const Hash256 hash = blake2b_256(bytes);
  std::array<std::byte, check_bytes> out{};
  std::memcpy(out.data(), hash.data(), out.size());
  return out;
}

bool is_role(std::uint8_t role) {
  return role == static_cast<std::uint8_t>(Role::worker) || role == static_cast<std::uint8_t>(Role::observer);
}

bool has_passed(std::int64_t expiry, double unix_seconds) {
  return unix_seconds > static_cast<double>(expiry) + static_cast<double>(expiry_leeway_seconds);
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto first = text.find_first_not_of(space);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(space) - first + 1);
}

// The bytes behind the prefix. Their signature and checksum are not looked at here.
Result<Bytes> token_bytes(std::string_view text) {
  const std::string_view line = trimmed(text);
  constexpr std::string_view family = "starling";
  const auto colon = line.find(':');
  if (!line.starts_with(family) || colon == std::string_view::npos || colon > 20) {
    return bad("this is not a join token: a token is one line that begins with '" + std::string(token_prefix) + "'");
  }
  if (line.substr(0, colon + 1) != token_prefix) {
    return bad("this token is from a newer version of Starling ('" + std::string(line.substr(0, colon)) +
               "'; this program reads 'starling1'); update Starling");
  }
  const std::string_view body = line.substr(colon + 1);
  if (body.empty()) return bad("the token is cut off" + std::string(ask_again));
  Bytes out(std::min(body.size(), 2 * max_token_bytes));
  std::size_t size = 0;
  const char* end = nullptr;
  const int rc = sodium_base642bin(reinterpret_cast<unsigned char*>(out.data()), out.size(), body.data(), body.size(),
                                   nullptr, &size, &end, base64_variant);
  out.resize(rc == 0 ? size : 0);
  if (rc == 0 && end == body.data() + body.size()) return out;
  // A cut in the middle of a group of four characters can leave bits over.
  const bool clean = body.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") ==
                     std::string_view::npos;
  if (clean) return bad("the token is cut off" + std::string(ask_again));
  return bad("the token is damaged: it has characters that no token has, or more than one line" +
             std::string(ask_again));
}

// Size and checksum: damage on the way, told apart.
Status check_wholeness(ByteView token) {
  ByteReader in(token);
  const auto size = in.number<std::uint16_t>();
  if (!in.ok() || token.size() < size) return bad("the token is cut off" + std::string(ask_again));
  if (token.size() > size || token.size() < signature_bytes + check_bytes + 3) {
    return bad("the token is damaged" + std::string(ask_again));
  }
  const ByteView front = token.first(token.size() - check_bytes);
  const auto expected = check_of(front);
  if (!std::equal(expected.begin(), expected.end(), token.end() - check_bytes)) {
    return bad("the token is damaged (its checksum does not hold)" + std::string(ask_again));
  }
  return {};
}

bool is_endpoint(std::string_view text) {
  return text.starts_with("tcp://") && text.size() > 8 && text.find(':', 6) != std::string_view::npos &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
}

// A request is signed for one seed: its id stands before the frame's own bytes.
Bytes join_statement(const NodeId& seed, ByteView body) {
  ByteWriter out;
  out.raw(seed.key);
  out.raw(body);
  return std::move(out).bytes();
}

Result<JoinAnswer> check_admission(JoinAdmission admission, const JoinToken& token, const NodeId& self,
                                   double unix_seconds) {
  if (blake2b_256(as_bytes(admission.run_spec)) != token.spec_hash) {
    return refuse("the seed sent a run spec that the owner of the run did not sign; try another seed");
  }
  const Trust trust{token.grant.run, token.owner, {}};
  const auto certificate = verify_chain(admission.chain, trust, unix_seconds);
  if (!certificate) return tl::unexpected(certificate.error());
  if (certificate->subject != self) return refuse("the seed sent a certificate for another node; try another seed");
  if (certificate->role != token.grant.role) return refuse("the seed sent a certificate for another role");
  return JoinAnswer(std::move(admission));
}

}  // namespace

Bytes sign_grant(const NodeKey& owner, const Grant& grant) {
  ByteWriter out;
  out.number(layout_version);
  out.raw(grant.run.hash);
  out.raw(grant.token);
  out.number(static_cast<std::uint8_t>(grant.role));
  out.number(grant.expiry);
  const Signature signature = owner.sign(grant_domain, out.bytes());
  out.raw(signature);
  STARLING_CHECK(out.bytes().size() == grant_bytes, "grant_bytes states the layout");
  return std::move(out).bytes();
}

Result<Grant> verify_grant(ByteView bytes, const Trust& trust, double unix_seconds) {
  if (bytes.size() != grant_bytes) return bad("a grant has the wrong size");
  const ByteView body = bytes.first(grant_bytes - signature_bytes);
  if (!verify(trust.owner, grant_domain, body, signature_at_end(bytes))) {
    return refuse("the token's signature does not hold for this run's owner");
  }
  ByteReader in(body);
  const auto version = in.number<std::uint8_t>();
  Grant out;
  out.run.hash = in.array<32>();
  out.token = in.array<16>();
  const auto role = in.number<std::uint8_t>();
  out.expiry = in.number<std::int64_t>();
  if (version != layout_version || !is_role(role))
    return bad("the token is from a newer version of Starling; update it");
  out.role = static_cast<Role>(role);
  if (out.run != trust.run) {
    return refuse("the token is for run " + out.run.brief() + ", this is run " + trust.run.brief());
  }
  if (has_passed(out.expiry, unix_seconds)) {
    return refuse("the token expired at " + format_utc(out.expiry) + "; ask the owner of the run for a new one");
  }
  if (trust.revocations.has(out.token)) {
    return refuse("the token was revoked; ask the owner of the run for a new one");
  }
  return out;
}

std::string create_token(const NodeKey& owner, const CurveKeyPair& lobby_key, const TokenFields& fields) {
  STARLING_CHECK(!fields.seeds.empty() && fields.seeds.size() <= max_seeds, "a token names one to eight seeds");
  Grant grant{fields.run, random_bytes_128(), fields.role, fields.expiry};
  ByteWriter body;
  body.number(layout_version);
  body.raw(sign_grant(owner, grant));
  body.raw(owner.id().key);
  body.raw(fields.spec_hash);
  body.raw(lobby_key.secret().reveal());
  body.number(static_cast<std::uint8_t>(fields.seeds.size()));
  for (const Seed& seed : fields.seeds) {
    STARLING_CHECK(is_endpoint(seed.lobby) && seed.lobby.size() <= max_endpoint_bytes,
                   "a seed's lobby is tcp://host:port");
    body.raw(seed.node.key);
    body.text(seed.lobby);
  }
  ByteWriter out;
  out.number(static_cast<std::uint16_t>(2 + body.bytes().size() + signature_bytes + check_bytes));
  out.raw(body.bytes());
  const Signature signature = owner.sign(token_domain, out.bytes());
  out.raw(signature);
  const auto check = check_of(out.bytes());
  out.raw(check);
  const Bytes& bytes = out.bytes();
  std::string text(sodium_base64_encoded_len(bytes.size(), base64_variant), '\0');
  sodium_bin2base64(text.data(), text.size(), reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                    base64_variant);
  text.resize(std::strlen(text.c_str()));
  return std::string(token_prefix) + text;
}

Result<JoinToken> parse_token(std::string_view text, double unix_seconds) {
  auto bytes = token_bytes(text);
  if (!bytes) return tl::unexpected(bytes.error());
  if (Status whole = check_wholeness(*bytes); !whole) return tl::unexpected(whole.error());
  const ByteView front = ByteView(*bytes).first(bytes->size() - check_bytes);
  ByteReader in(front.first(front.size() - signature_bytes));
  in.number<std::uint16_t>();
  if (in.number<std::uint8_t>() != layout_version)
    return bad("the token is from a newer version of Starling; update it");
  const ByteView grant = in.raw(grant_bytes);
  NodeId owner{in.array<32>()};
  if (!in.ok() || !verify(owner, token_domain, front.first(front.size() - signature_bytes), signature_at_end(front))) {
    return refuse("the token's signature does not hold: it was not made by the owner it names" +
                  std::string(ask_again));
  }
  const Hash256 spec_hash = in.array<32>();
  std::array<std::byte, 32> lobby = in.array<32>();
  CurveKeyPair lobby_key = CurveKeyPair::from_secret(Secret<32>(lobby));
  wipe(lobby);
  const auto count = in.number<std::uint8_t>();
  std::vector<Seed> seeds;
  for (std::size_t i = 0; i < count && i < max_seeds && in.ok(); ++i) {
    Seed seed;
    seed.node.key = in.array<32>();
    seed.lobby = in.text(max_endpoint_bytes);
    seeds.push_back(std::move(seed));
  }
  const bool sound = in.complete() && !seeds.empty() && seeds.size() == count &&
                     std::all_of(seeds.begin(), seeds.end(), [](const Seed& s) { return is_endpoint(s.lobby); });
  if (!sound) return bad("the token is signed but malformed; it was made by a faulty or newer version of Starling");
  // The grant's run is what the token is for, so there is nothing to compare it with yet.
  ByteReader grant_in(grant);
  grant_in.number<std::uint8_t>();
  const Trust trust{RunId{grant_in.array<32>()}, owner, {}};
  const auto verified = verify_grant(grant, trust, unix_seconds);
  Bytes signed_grant(grant.begin(), grant.end());
  wipe(*bytes);
  if (!verified) return tl::unexpected(verified.error());
  return JoinToken{*verified, std::move(signed_grant), owner, spec_hash, std::move(lobby_key), std::move(seeds)};
}

Bytes encode_join_request(const JoinRequest& request, ByteView signed_grant, const NodeId& seed, const NodeKey& key) {
  STARLING_CHECK(is_valid_name(request.name) && request.record.size() <= max_answer_record_bytes &&
                     signed_grant.size() == grant_bytes && request.node == key.id(),
                 "a join request is made of checked parts");
  ByteWriter out;
  out.number(layout_version);
  out.raw(signed_grant);
  out.raw(request.node.key);
  out.text(request.name);
  out.number(static_cast<std::uint8_t>(request.has_data ? 1 : 0));
  out.number(request.stage);
  out.blob(request.record);
  const Signature signature = key.sign(join_domain, join_statement(seed, out.bytes()));
  out.raw(signature);
  STARLING_CHECK(out.bytes().size() <= max_lobby_request_bytes, "a join request fits the lobby's limit");
  return std::move(out).bytes();
}

Result<VerifiedJoinRequest> decode_join_request(ByteView frame, const NodeId& self, const Trust& trust,
                                                double unix_seconds) {
  if (frame.size() < 1 + grant_bytes + 32 + signature_bytes || frame.size() > max_lobby_request_bytes) {
    return bad("a join request has the wrong size");
  }
  if (frame[0] != std::byte{layout_version}) {
    return bad("the join request is from another version of Starling; use the same version as the run");
  }
  const ByteView body = frame.first(frame.size() - signature_bytes);
  // The cheap fixed fields first: who asks, and does he hold that key.
  ByteReader in(body);
  in.number<std::uint8_t>();
  const ByteView grant_part = in.raw(grant_bytes);
  VerifiedJoinRequest out;
  out.request.node.key = in.array<32>();
  if (!verify(out.request.node, join_domain, join_statement(self, body), signature_at_end(frame))) {
    return refuse("the joiner did not prove that it holds its key");
  }
  const auto grant = verify_grant(grant_part, trust, unix_seconds);
  if (!grant) return tl::unexpected(grant.error());
  out.grant = *grant;
  if (trust.revocations.has(out.request.node)) return refuse("the owner of the run has revoked this node");
  out.request.name = in.text(max_name_bytes);
  const auto has_data = in.number<std::uint8_t>();
  out.request.stage = in.number<Stage>();
  const ByteView record = in.blob(max_answer_record_bytes);
  if (!in.complete() || has_data > 1 || !is_valid_name(out.request.name) || out.request.stage < no_stage) {
    return bad("the join request is malformed");
  }
  out.request.has_data = has_data == 1;
  out.request.record.assign(record.begin(), record.end());
  return out;
}

std::string_view to_string(JoinRefusal code) {
  switch (code) {
    case JoinRefusal::token_invalid:
      return "token_invalid";
    case JoinRefusal::token_expired:
      return "token_expired";
    case JoinRefusal::revoked:
      return "revoked";
    case JoinRefusal::not_a_delegate:
      return "not_a_delegate";
    case JoinRefusal::busy:
      return "busy";
    case JoinRefusal::ended:
      return "ended";
  }
  return "unknown";
}

bool is_worth_retrying(JoinRefusal code) { return code == JoinRefusal::busy || code == JoinRefusal::not_a_delegate; }

Bytes encode_join_answer(const JoinAnswer& answer) {
  ByteWriter out;
  out.number(layout_version);
  if (const auto* denial = std::get_if<JoinDenial>(&answer)) {
    out.number(static_cast<std::uint8_t>(denial->code));
    out.text(std::string_view(denial->why).substr(0, max_refusal_bytes));
    return std::move(out).bytes();
  }
  const auto& admission = std::get<JoinAdmission>(answer);
  STARLING_CHECK(admission.run_spec.size() <= max_run_spec_bytes && admission.chain.size() <= max_chain_bytes,
                 "run spec and chain were checked when they were made");
  out.number(std::uint8_t{0});
  out.blob(admission.chain);
  out.text(admission.run_spec);
  out.number(admission.stage);
  out.number(admission.slot);
  std::size_t room = max_lobby_answer_bytes - out.bytes().size() - 1;
  std::size_t count = 0;
  while (count < admission.records.size() && count < max_answer_records) {
    const std::size_t size = 4 + admission.records[count].size();
    STARLING_CHECK(size <= 4 + max_answer_record_bytes, "records are bounded where they are verified");
    if (size > room) break;
    room -= size;
    ++count;
  }
  out.number(static_cast<std::uint8_t>(count));
  for (std::size_t i = 0; i < count; ++i) out.blob(admission.records[i]);
  return std::move(out).bytes();
}

Result<JoinAnswer> decode_join_answer(ByteView frame, const JoinToken& token, const NodeId& self, double unix_seconds) {
  const auto malformed = [] { return bad("the seed's answer is malformed, or from another version of Starling"); };
  if (frame.size() > max_lobby_answer_bytes) return malformed();
  ByteReader in(frame);
  if (in.number<std::uint8_t>() != layout_version) return malformed();
  const auto code = in.number<std::uint8_t>();
  if (code != 0) {
    JoinDenial denial{static_cast<JoinRefusal>(code), in.text(max_refusal_bytes)};
    // It ends on a terminal: nothing of a stranger may steer that.
    for (char& c : denial.why) c = c >= ' ' && c < 127 ? c : '?';
    if (!in.complete() || code > static_cast<std::uint8_t>(JoinRefusal::ended)) return malformed();
    return JoinAnswer(std::move(denial));
  }
  JoinAdmission out;
  const ByteView chain = in.blob(max_chain_bytes);
  out.chain.assign(chain.begin(), chain.end());
  out.run_spec = in.text(max_run_spec_bytes);
  out.stage = in.number<Stage>();
  out.slot = in.number<Slot>();
  const auto count = in.number<std::uint8_t>();
  for (std::size_t i = 0; i < count && i < max_answer_records && in.ok(); ++i) {
    const ByteView record = in.blob(max_answer_record_bytes);
    out.records.emplace_back(record.begin(), record.end());
  }
  if (!in.complete() || count > max_answer_records || out.stage < no_stage || out.slot < no_slot) return malformed();
  return check_admission(std::move(out), token, self, unix_seconds);
}

}  // namespace starling::net
