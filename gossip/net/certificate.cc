#include "gossip/net/certificate.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>

namespace starling::net {
namespace {

constexpr std::string_view certificate_domain = "starling/certificate/1";
constexpr std::string_view revocations_domain = "starling/revocations/1";
constexpr std::string_view finish_domain = "starling/finish/1";
constexpr std::uint8_t certificate_version = 1;
constexpr std::uint8_t revocations_version = 1;
constexpr std::uint8_t finish_version = 1;
constexpr std::size_t body_bytes = certificate_bytes - signature_bytes;
// Where the issuer stands: the one field that must be read before the signature can be checked.
constexpr std::size_t issuer_offset = 1 + 32 + 32;

tl::unexpected<Error> refuse(std::string why) { return fail(ErrorCode::unauthenticated, std::move(why)); }

Signature signature_at_end(ByteView bytes) {
  Signature out{};
  std::memcpy(out.data(), bytes.data() + bytes.size() - signature_bytes, signature_bytes);
  return out;
}

// REQUIRES: bytes.size() == certificate_bytes.
NodeId issuer_of(ByteView bytes) {
  NodeId issuer;
  std::memcpy(issuer.key.data(), bytes.data() + issuer_offset, issuer.key.size());
  return issuer;
}

// Reads a body whose signature holds. Errors: bad_input, when the issuer signed nonsense.
Result<Certificate> parse_verified(ByteView body) {
  ByteReader in(body);
  Certificate out;
  const auto version = in.number<std::uint8_t>();
  out.run.hash = in.array<32>();
  out.subject.key = in.array<32>();
  out.issuer.key = in.array<32>();
  const auto role = in.number<std::uint8_t>();
  const auto delegation = in.number<std::uint8_t>();
  out.serial = in.number<std::uint64_t>();
  out.expiry = in.number<std::int64_t>();
  const auto name_size = in.number<std::uint8_t>();
  const ByteView name = in.raw(max_name_bytes);
  STARLING_CHECK(in.complete(), "a certificate's body has a fixed size");
  if (version != certificate_version) {
    return fail(ErrorCode::bad_input,
                "the certificate has layout " + std::to_string(version) +
                    ", this program reads layout 1; use the same version of Starling on both sides");
  }
  if (role != static_cast<std::uint8_t>(Role::worker) && role != static_cast<std::uint8_t>(Role::observer)) {
    return fail(ErrorCode::bad_input, "the certificate names an unknown role " + std::to_string(role));
  }
  if (delegation > 1) return fail(ErrorCode::bad_input, "the certificate's delegate flag is neither 0 nor 1");
  out.role = static_cast<Role>(role);
  out.delegation = static_cast<Delegation>(delegation);
  if (name_size > max_name_bytes) return fail(ErrorCode::bad_input, "the certificate's name is too long");
  out.name = std::string(as_text(name.first(name_size)));
  const auto padding = name.subspan(name_size);
  if (!is_valid_name(out.name) ||
      std::any_of(padding.begin(), padding.end(), [](std::byte b) { return b != std::byte{0}; })) {
    return fail(ErrorCode::bad_input, "the certificate's name is not 1 to 32 characters of a-z, 0-9 and '-'");
  }
  return out;
}

// One link: signature, run, time, revocation. REQUIRES: bytes.size() == certificate_bytes.
Result<Certificate> verify_one(ByteView bytes, const Trust& trust, const NodeId& issuer, double unix_seconds) {
  if (issuer_of(bytes) != issuer)
    return refuse("the certificate was issued by " + issuer_of(bytes).brief() + ", not by " + issuer.brief());
  if (!verify(issuer, certificate_domain, bytes.first(body_bytes), signature_at_end(bytes))) {
    return refuse("the certificate's signature does not hold");
  }
  auto certificate = parse_verified(bytes.first(body_bytes));
  if (!certificate) return certificate;
  if (certificate->run != trust.run) {
    return refuse("the certificate is for run " + certificate->run.brief() + ", this is run " + trust.run.brief());
  }
  // Compared as double: no expiry, however large, can overflow the sum.
  if (unix_seconds > static_cast<double>(certificate->expiry) + static_cast<double>(expiry_leeway_seconds)) {
    return refuse("the certificate of '" + certificate->name + "' expired at " + format_utc(certificate->expiry));
  }
  if (trust.revocations.has(certificate->subject)) {
    return refuse("the certificate of '" + certificate->name + "' was revoked by the owner of the run");
  }
  return certificate;
}

}  // namespace

std::string_view to_string(Role role) { return role == Role::worker ? "worker" : "observer"; }

bool is_valid_name(std::string_view name) {
  return !name.empty() && name.size() <= max_name_bytes && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
}

Bytes issue_certificate(const NodeKey& issuer, const RunId& run, const CertificateFields& fields) {
  STARLING_CHECK(is_valid_name(fields.name), "a certificate is issued for a checked name");
  ByteWriter out;
  out.number(certificate_version);
  out.raw(run.hash);
  out.raw(fields.subject.key);
  out.raw(issuer.id().key);
  out.number(static_cast<std::uint8_t>(fields.role));
  out.number(static_cast<std::uint8_t>(fields.delegation));
  out.number(fields.serial);
  out.number(fields.expiry);
  out.number(static_cast<std::uint8_t>(fields.name.size()));
  std::array<std::byte, max_name_bytes> name{};
  std::memcpy(name.data(), fields.name.data(), fields.name.size());
  out.raw(name);
  const Signature signature = issuer.sign(certificate_domain, out.bytes());
  out.raw(signature);
  STARLING_CHECK(out.bytes().size() == certificate_bytes, "certificate_bytes states the layout");
  return std::move(out).bytes();
}

Bytes chain_of(ByteView certificate, ByteView delegate_certificate) {
  STARLING_CHECK(certificate.size() == certificate_bytes && delegate_certificate.size() == certificate_bytes,
                 "a chain is made of two single certificates");
  Bytes out(certificate.begin(), certificate.end());
  out.insert(out.end(), delegate_certificate.begin(), delegate_certificate.end());
  return out;
}

bool Revocations::has(const NodeId& node) const { return std::binary_search(nodes.begin(), nodes.end(), node); }
bool Revocations::has(const TokenId& token) const { return std::binary_search(tokens.begin(), tokens.end(), token); }

Result<Bytes> sign_revocations(const NodeKey& owner, const RunId& run, Revocations list) {
  const auto sort = [](auto& items) {
    std::sort(items.begin(), items.end());
    items.erase(std::unique(items.begin(), items.end()), items.end());
  };
  sort(list.nodes);
  sort(list.tokens);
  if (list.nodes.size() > max_revoked_nodes || list.tokens.size() > max_revoked_tokens) {
    return fail(ErrorCode::limit, "at most " + std::to_string(max_revoked_nodes) + " nodes and " +
                                      std::to_string(max_revoked_tokens) +
                                      " tokens can be revoked in one run; start a new run with a new key");
  }
  ByteWriter out;
  out.number(revocations_version);
  out.raw(run.hash);
  out.number(list.serial);
  out.number(static_cast<std::uint16_t>(list.nodes.size()));
  out.number(static_cast<std::uint16_t>(list.tokens.size()));
  for (const NodeId& node : list.nodes) out.raw(node.key);
  for (const TokenId& token : list.tokens) out.raw(token);
  const Signature signature = owner.sign(revocations_domain, out.bytes());
  out.raw(signature);
  return std::move(out).bytes();
}

Result<Revocations> verify_revocations(ByteView bytes, const RunId& run, const NodeId& owner) {
  if (bytes.size() < signature_bytes || bytes.size() > max_revocations_bytes) {
    return fail(ErrorCode::bad_input, "a revocation list has the wrong size");
  }
  const ByteView body = bytes.first(bytes.size() - signature_bytes);
  if (!verify(owner, revocations_domain, body, signature_at_end(bytes))) {
    return refuse("the revocation list's signature does not hold");
  }
  ByteReader in(body);
  const auto version = in.number<std::uint8_t>();
  const RunId list_run{in.array<32>()};
  Revocations out;
  out.serial = in.number<std::uint64_t>();
  const auto nodes = in.number<std::uint16_t>();
  const auto tokens = in.number<std::uint16_t>();
  for (std::size_t i = 0; i < nodes && in.ok(); ++i) out.nodes.push_back(NodeId{in.array<32>()});
  for (std::size_t i = 0; i < tokens && in.ok(); ++i) out.tokens.push_back(in.array<16>());
  // Lookups are binary searches, so the order is part of the layout.
  const auto ascending = [](const auto& items) {
    return std::adjacent_find(items.begin(), items.end(), [](const auto& a, const auto& b) { return !(a < b); }) ==
           items.end();
  };
  if (!in.complete() || version != revocations_version || !ascending(out.nodes) || !ascending(out.tokens)) {
    return fail(ErrorCode::bad_input, "a revocation list is signed but malformed, or from a newer version");
  }
  if (list_run != run) return refuse("the revocation list is for run " + list_run.brief());
  return out;
}

Bytes sign_finish(const NodeKey& owner, const RunId& run, LastStep policy) {
  ByteWriter out;
  out.number(finish_version);
  out.raw(run.hash);
  out.number(static_cast<std::uint8_t>(policy));
  const Signature signature = owner.sign(finish_domain, out.bytes());
  out.raw(signature);
  return std::move(out).bytes();
}

Result<LastStep> verify_finish(ByteView statement, const RunId& run, const NodeId& owner) {
  if (statement.size() != finish_bytes) return fail(ErrorCode::bad_input, "a finish statement has the wrong size");
  const ByteView body = statement.first(finish_bytes - signature_bytes);
  if (!verify(owner, finish_domain, body, signature_at_end(statement))) {
    return refuse("the finish statement's signature does not hold");
  }
  ByteReader in(body);
  const auto version = in.number<std::uint8_t>();
  const RunId statement_run{in.array<32>()};
  const auto policy = in.number<std::uint8_t>();
  if (statement_run != run) return refuse("the finish statement is for run " + statement_run.brief());
  if (version != finish_version || policy != static_cast<std::uint8_t>(LastStep::soon)) {
    return fail(ErrorCode::bad_input, "the finish statement is from a newer version of Starling");
  }
  return LastStep::soon;
}

Result<Certificate> verify_chain(ByteView chain, const Trust& trust, double unix_seconds) {
  if (chain.size() == certificate_bytes) return verify_one(chain, trust, trust.owner, unix_seconds);
  if (chain.size() != max_chain_bytes) {
    return fail(ErrorCode::bad_input, "a certificate chain has " + std::to_string(certificate_bytes) + " or " +
                                          std::to_string(max_chain_bytes) + " bytes, this one has " +
                                          std::to_string(chain.size()));
  }
  const auto delegate = verify_one(chain.subspan(certificate_bytes), trust, trust.owner, unix_seconds);
  if (!delegate) return delegate;
  if (delegate->delegation != Delegation::may_admit) {
    return refuse("'" + delegate->name + "' issued a certificate but is no delegate");
  }
  auto own = verify_one(chain.first(certificate_bytes), trust, delegate->subject, unix_seconds);
  if (!own) return own;
  if (own->role != Role::worker || own->delegation != Delegation::none) {
    return refuse("the delegate '" + delegate->name + "' may admit plain workers only");
  }
  if (own->expiry > delegate->expiry) {
    return refuse("the certificate of '" + own->name + "' outlives that of the delegate who issued it");
  }
  return own;
}

std::string format_utc(std::int64_t unix_seconds) {
  const std::time_t time = static_cast<std::time_t>(unix_seconds);
  std::tm parts{};
  if (::gmtime_r(&time, &parts) == nullptr) return "second " + std::to_string(unix_seconds) + " since 1970";
  char text[64];
  if (std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts) == 0) {
    return "second " + std::to_string(unix_seconds) + " since 1970";
  }
  return text;
}

}  // namespace starling::net
