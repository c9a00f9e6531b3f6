#include "gossip/membership/record.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "gossip/base/host_port.h"
#include "gossip/net/certificate.h"
#include "gossip/net/wire.h"

namespace starling::membership {
namespace {

// The NUL is part of the domain: no pair of domain and body can be cut in two ways.
constexpr std::string_view record_domain{"starling/record/1\0", 18};
constexpr std::string_view suspicion_domain{"starling/suspicion/1\0", 21};
constexpr std::uint8_t record_layout = 1;
constexpr std::uint8_t suspicion_layout = 1;
constexpr std::size_t signature_bytes = 64;
constexpr std::size_t suspicion_bytes = signature_bytes + 1 + 2 * 32 + 8 + 8;

constexpr Slot max_slot = 1 << 20;
constexpr std::int64_t max_tokens = std::int64_t{1} << 56;
constexpr double max_seconds = 1e9;

constexpr std::size_t fixed_body_bytes = 1 + 32 + 3 * 8 + 1 + 1 + 4 + 4 + 3 * 8 + 8 + 8 + 1 + 4 * 8 + 1 + 8 + 4 + 1 + 1;
constexpr std::size_t largest_record = signature_bytes + fixed_body_bytes + (4 + net::max_name_bytes) +
                                       4 * (4 + max_address_bytes) + max_backups_held * 12 + max_outcomes * 49 +
                                       (4 + net::max_chain_bytes);
static_assert(largest_record <= net::max_record_bytes, "a record within its bounds fits where gossip carries it");

using SignatureBytes = std::array<std::byte, signature_bytes>;

Bytes joined(ByteView head, ByteView tail) {
  Bytes out(head.size() + tail.size());
  std::copy(head.begin(), head.end(), out.begin());
  std::copy(tail.begin(), tail.end(), out.begin() + static_cast<std::ptrdiff_t>(head.size()));
  return out;
}

Bytes with_signature(std::string_view domain, const Bytes& body, const Signatures& signatures) {
  return joined(signatures.sign(joined(as_bytes(domain), body)), body);
}

// REQUIRES: at least signature_bytes.
bool signature_holds(std::string_view domain, const NodeId& signer, ByteView bytes, const Signatures& signatures) {
  SignatureBytes signature;
  std::memcpy(signature.data(), bytes.data(), signature.size());
  return signatures.verify(signer, joined(as_bytes(domain), bytes.subspan(signature_bytes)), signature);
}

bool is_endpoint(std::string_view text) {
  constexpr std::string_view scheme = "tcp://";
  if (text.empty()) return true;
  // Other schemes are for sockets inside one machine or process: a peer must not make us dial those.
  return text.size() <= max_address_bytes && text.starts_with(scheme) &&
         parse_host_port(text.substr(scheme.size())).has_value();
}

bool is_duration(double seconds) { return std::isfinite(seconds) && seconds >= 0.0 && seconds <= max_seconds; }
bool is_stage(Stage stage) { return stage >= no_stage && stage < net::max_stages; }
bool is_step(Step step, Step least) { return step >= least && step <= net::max_step; }

// A byte that must be 0 or 1; anything else would be a second encoding of `true`.
std::optional<bool> flag(std::uint8_t byte) {
  if (byte > 1) return std::nullopt;
  return byte == 1;
}

void write_body(ByteWriter& out, const Record& record) {
  out.number(record_layout);
  out.raw(record.id.key);
  out.number(record.boot);
  out.number(record.incarnation);
  out.number(record.version);
  out.text(record.name);
  out.number(static_cast<std::uint8_t>(record.role));
  out.number(static_cast<std::uint8_t>(record.standing));
  out.number(record.stage);
  out.number(record.slot);
  out.number(record.step);
  out.number(record.done);
  out.number(record.round);
  out.text(record.endpoints.control);
  out.text(record.endpoints.bulk);
  out.text(record.endpoints.lobby);
  out.text(record.http);
  out.number(record.host);
  out.number(record.pid);
  out.number(static_cast<std::uint8_t>(record.has_data ? 1 : 0));
  out.number(record.microbatch_seconds);
  out.number(record.load_seconds);
  out.number(record.tokens);
  out.number(record.rss_bytes);
  out.number(static_cast<std::uint8_t>(record.finished ? 1 : 0));
  out.number(record.last_step);
  out.number(record.claim);
  out.number(static_cast<std::uint8_t>(record.backups.size()));
  for (const BackupHeld& backup : record.backups) {
    out.number(backup.stage);
    out.number(backup.step);
  }
  out.number(static_cast<std::uint8_t>(record.outcomes.size()));
  for (const ExchangeOutcome& outcome : record.outcomes) {
    out.raw(outcome.exchange.proposer.key);
    out.number(outcome.exchange.boot);
    out.number(outcome.exchange.counter);
    out.number(static_cast<std::uint8_t>(outcome.result));
  }
  out.blob(record.certificate);
}

// What follows the scalars: two short lists and the certificate. False: a value that no encoder writes.
bool read_lists(ByteReader& in, Record& record) {
  const auto backups = in.number<std::uint8_t>();
  if (backups > max_backups_held) return false;
  for (std::size_t i = 0; i < backups; ++i) {
    BackupHeld backup;
    backup.stage = in.number<Stage>();
    backup.step = in.number<Step>();
    record.backups.push_back(backup);
  }
  const auto outcomes = in.number<std::uint8_t>();
  if (outcomes > max_outcomes) return false;
  for (std::size_t i = 0; i < outcomes; ++i) {
    ExchangeOutcome outcome;
    outcome.exchange.proposer.key = in.array<32>();
    outcome.exchange.boot = in.number<Boot>();
    outcome.exchange.counter = in.number<std::uint64_t>();
    const auto result = in.number<std::uint8_t>();
    if (result > static_cast<std::uint8_t>(ExchangeOutcome::Result::solo)) return false;
    outcome.result = static_cast<ExchangeOutcome::Result>(result);
    record.outcomes.push_back(outcome);
  }
  const ByteView certificate = in.blob(net::max_chain_bytes);
  record.certificate.assign(certificate.begin(), certificate.end());
  return true;
}

// False: too short, too long, or a value that no encoder writes.
bool read_body(ByteView body, Record& record) {
  ByteReader in(body);
  if (in.number<std::uint8_t>() != record_layout) return false;
  record.id.key = in.array<32>();
  record.boot = in.number<Boot>();
  record.incarnation = in.number<std::uint64_t>();
  record.version = in.number<std::uint64_t>();
  record.name = in.text(net::max_name_bytes);
  const auto role = in.number<std::uint8_t>();
  const auto standing = in.number<std::uint8_t>();
  record.stage = in.number<Stage>();
  record.slot = in.number<Slot>();
  record.step = in.number<Step>();
  record.done = in.number<Step>();
  record.round = in.number<Round>();
  record.endpoints.control = in.text(max_address_bytes);
  record.endpoints.bulk = in.text(max_address_bytes);
  record.endpoints.lobby = in.text(max_address_bytes);
  record.http = in.text(max_address_bytes);
  record.host = in.number<std::uint64_t>();
  record.pid = in.number<std::int64_t>();
  const auto has_data = flag(in.number<std::uint8_t>());
  record.microbatch_seconds = in.number<double>();
  record.load_seconds = in.number<double>();
  record.tokens = in.number<std::int64_t>();
  record.rss_bytes = in.number<std::uint64_t>();
  const auto finished = flag(in.number<std::uint8_t>());
  record.last_step = in.number<Step>();
  record.claim = in.number<Stage>();
  if (!in.ok() || role > static_cast<std::uint8_t>(Role::observer) ||
      standing > static_cast<std::uint8_t>(Standing::left) || !has_data || !finished) {
    return false;
  }
  record.role = static_cast<Role>(role);
  record.standing = static_cast<Standing>(standing);
  record.has_data = *has_data;
  record.finished = *finished;
  return read_lists(in, record) && in.complete();
}

}  // namespace

std::optional<std::string> defect_of(const Record& record) {
  const auto address = [](std::string_view what) {
    return fmt::format("{} is not host:port of at most {} characters", what, max_address_bytes);
  };
  if (!net::is_valid_name(record.name)) return "the name is not 1 to 32 characters of a-z, 0-9 and '-'";
  if (record.role == Role::observer &&
      (record.stage != no_stage || record.slot != no_slot || record.claim != no_stage)) {
    return "an observer holds no stage";
  }
  if (!is_stage(record.stage) || !is_stage(record.claim)) return "a stage is out of range";
  if (record.slot < no_slot || record.slot > max_slot) return "the slot is out of range";
  if (!is_step(record.step, 0) || !is_step(record.done, -1) || !is_step(record.round, 0) ||
      !is_step(record.last_step, 0)) {
    return "a step or round is out of range";
  }
  if (!is_endpoint(record.endpoints.control)) return address("the control endpoint");
  if (!is_endpoint(record.endpoints.bulk)) return address("the bulk endpoint");
  if (!is_endpoint(record.endpoints.lobby)) return address("the lobby endpoint");
  if (!record.http.empty() && (record.http.size() > max_address_bytes || !parse_host_port(record.http))) {
    return address("http");
  }
  if (record.pid < 0) return "the process id is negative";
  if (!is_duration(record.microbatch_seconds) || !is_duration(record.load_seconds)) {
    return "a time is negative, too long or not finite";
  }
  if (record.tokens < 0 || record.tokens > max_tokens) return "the count of tokens is out of range";
  if (record.backups.size() > max_backups_held) return "more than 8 backups";
  if (record.outcomes.size() > max_outcomes) return "more than 2 outcomes";
  for (const BackupHeld& backup : record.backups) {
    if (!is_stage(backup.stage) || backup.stage == no_stage || !is_step(backup.step, 0)) {
      return "a backup's stage or step is out of range";
    }
  }
  if (record.certificate.size() > net::max_chain_bytes) return "the certificate is too long";
  return std::nullopt;
}

Bytes encode_record(const Record& record, const Signatures& signatures) {
  const auto defect = defect_of(record);
  STARLING_CHECK(!defect, defect->c_str());
  ByteWriter body;
  write_body(body, record);
  return with_signature(record_domain, body.bytes(), signatures);
}

Result<Record> decode_record(ByteView bytes, const Signatures& signatures) {
  if (bytes.size() > net::max_record_bytes) return fail(ErrorCode::bad_input, "a record is longer than any can be");
  const auto label = peek_record(bytes);
  if (!label) return fail(ErrorCode::bad_input, "a record is too short, or of a layout that this program does not read");
  if (!signature_holds(record_domain, label->id, bytes, signatures)) {
    return fail(ErrorCode::unauthenticated, "the record of " + label->id.brief() + " is not signed by it");
  }
  Record record;
  if (!read_body(bytes.subspan(signature_bytes), record)) {
    return fail(ErrorCode::bad_input, "the record of " + label->id.brief() + " is signed but malformed");
  }
  if (const auto defect = defect_of(record)) {
    return fail(ErrorCode::bad_input, "the record of " + label->id.brief() + " is signed but " + *defect);
  }
  return record;
}

std::optional<RecordLabel> peek_record(ByteView bytes) {
  if (bytes.size() < signature_bytes) return std::nullopt;
  ByteReader in(bytes.subspan(signature_bytes));
  const auto layout = in.number<std::uint8_t>();
  RecordLabel label;
  label.id.key = in.array<32>();
  label.order.boot = in.number<Boot>();
  label.order.incarnation = in.number<std::uint64_t>();
  label.order.version = in.number<std::uint64_t>();
  if (!in.ok() || layout != record_layout) return std::nullopt;
  return label;
}

Bytes encode_suspicion(const Suspicion& suspicion, const Signatures& signatures) {
  ByteWriter body;
  body.number(suspicion_layout);
  body.raw(suspicion.accuser.key);
  body.raw(suspicion.suspect.key);
  body.number(suspicion.boot);
  body.number(suspicion.incarnation);
  return with_signature(suspicion_domain, body.bytes(), signatures);
}

Result<Suspicion> decode_suspicion(ByteView bytes, const Signatures& signatures) {
  const auto suspicion = peek_suspicion(bytes);
  if (!suspicion) return fail(ErrorCode::bad_input, "a suspicion has the wrong size or layout");
  if (!signature_holds(suspicion_domain, suspicion->accuser, bytes, signatures)) {
    return fail(ErrorCode::unauthenticated, "a suspicion is not signed by its accuser " + suspicion->accuser.brief());
  }
  return *suspicion;
}

std::optional<Suspicion> peek_suspicion(ByteView bytes) {
  if (bytes.size() != suspicion_bytes) return std::nullopt;
  ByteReader in(bytes.subspan(signature_bytes));
  const auto layout = in.number<std::uint8_t>();
  Suspicion out;
  out.accuser.key = in.array<32>();
  out.suspect.key = in.array<32>();
  out.boot = in.number<Boot>();
  out.incarnation = in.number<std::uint64_t>();
  if (!in.complete() || layout != suspicion_layout) return std::nullopt;
  return out;
}

}  // namespace starling::membership
