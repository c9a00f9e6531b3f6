// What a node says of itself: a signed record. And what one node says of another: a signed suspicion.
//
// Both are a fixed byte layout behind a signature, carried as opaque vectors, verified first and parsed after: one content
// has one encoding. Order of the records of one id: (boot, incarnation, version); the higher one replaces the lower. Speed,
// load and D raise the version only, at most once a second; a change of stage, state or endpoints raises the incarnation.
//
//   record      = signature(64) body          signed: "starling/record/1" NUL body
//   body        = layout(1) id(32) boot(8) incarnation(8) version(8)
//                 name(text) role(1) standing(1) stage(4) slot(4) step(8) done(8) round(8)
//                 control(text) bulk(text) lobby(text) http(text) host(8) pid(8) has_data(1)
//                 microbatch_seconds(8) load_seconds(8) tokens(8) rss_bytes(8) finished(1) last_step(8) claim(4)
//                 backups(1) {stage(4) step(8)}*  outcomes(1) {proposer(32) boot(8) counter(8) result(1)}*
//                 certificate(4 + bytes)
//   suspicion   = signature(64) body          signed: "starling/suspicion/1" NUL body
//   body        = layout(1) accuser(32) suspect(32) boot(8) incarnation(8)
//   text        = size(4) bytes
//
// Integers are little-endian. Everything has a bound and numbers are finite, so that whoever holds a decoded record can
// add, multiply and dial without a thought.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/lane.h"

namespace starling::membership {

inline constexpr std::size_t max_backups_held = 8;
inline constexpr std::size_t max_outcomes = 2;
inline constexpr std::size_t max_address_bytes = 128;   // of each endpoint, and of http

enum class Role : std::uint8_t { worker, observer };
// What a node can say of itself. "suspect" and "dead" are verdicts of others (PeerState in swarm.h).
enum class Standing : std::uint8_t { joining, active, paused, left };

// A copy of a stage's slow weights that this node keeps for workers of other stages.
struct BackupHeld {
  Stage stage = 0;
  Step step = 0;
  auto operator<=>(const BackupHeld&) const = default;
};

// How an exchange ended on this side, so that the other side can see a one-sided one.
struct ExchangeOutcome {
  ExchangeId exchange;
  enum class Result : std::uint8_t { averaged, solo } result = Result::solo;
  auto operator<=>(const ExchangeOutcome&) const = default;
};

struct Record {
  NodeId id;
  Boot boot = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t version = 0;
  std::string name;              // [a-z0-9-]{1,32}
  Role role = Role::worker;      // an observer has no stage, slot or claim
  Standing standing = Standing::joining;
  Stage stage = no_stage;
  Slot slot = no_slot;           // originators only
  Step step = 1;                 // k
  Step done = -1;                // D; -1: no originator
  Round round = 1;
  net::Endpoints endpoints;      // each "tcp://host:port", or empty: none
  std::string http;              // host:port of its own HTTP server; empty: none
  std::uint64_t host = 0;        // hash of the machine's identity, so that copies avoid one host
  std::int64_t pid = 0;          // for people on the same host
  bool has_data = false;         // may take stage 0
  double microbatch_seconds = 0; // compute time of one forward and backward here; 0: not measured
  double load_seconds = 0;       // work queued here, backward passes of open graphs included
  std::int64_t tokens = 0;       // trained on as originator, ever
  std::uint64_t rss_bytes = 0;
  bool finished = false;         // lead only: the run is over
  Step last_step = 0;            // 0: max_steps of the config; else it replaces max_steps
  Stage claim = no_stage;        // the stage this node is taking over
  std::vector<BackupHeld> backups;              // at most 8
  std::vector<ExchangeOutcome> outcomes;        // at most 2, newest first
  Bytes certificate;                            // chain as certificate.h reads it; empty until the node has one
  bool operator==(const Record&) const = default;
};

// What decides between two records of one id.
struct RecordOrder {
  Boot boot = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t version = 0;
  auto operator<=>(const RecordOrder&) const = default;
};
inline RecordOrder order_of(const Record& record) { return {record.boot, record.incarnation, record.version}; }
// Whether `a` outdates verdicts on `b`: a newer version alone does not.
inline bool newer_life(const RecordOrder& a, const RecordOrder& b) {
  return a.boot != b.boot ? a.boot > b.boot : a.incarnation > b.incarnation;
}

// Signs and verifies for one node. The real one is Ed25519 (key_signatures.h); the simulated world uses a keyed hash, as
// a signature costs more there than all the rest.
class Signatures {
 public:
  virtual ~Signatures() = default;
  virtual std::array<std::byte, 64> sign(ByteView message) const = 0;
  virtual bool verify(const NodeId& signer, ByteView message, const std::array<std::byte, 64>& signature) const = 0;
};

// What is wrong with a record, as text for a person; unset: every bound holds. Made for those who fill in their own.
std::optional<std::string> defect_of(const Record& record);

// REQUIRES: defect_of(record) is unset; signatures.sign signs for record.id. Result: at most net::max_record_bytes.
Bytes encode_record(const Record& record, const Signatures& signatures);
// Verifies the signature by the id inside, then parses. Errors: bad_input (layout, bounds, name, non-finite numbers),
// unauthenticated (signature). The certificate is checked by the caller, once per id.
Result<Record> decode_record(ByteView bytes, const Signatures& signatures);

// Whose record this claims to be and which one, unverified: enough to throw away what is known already, at a hundredth of
// the price of a signature. Never a reason to believe anything. Unset: no record at all.
struct RecordLabel {
  NodeId id;
  RecordOrder order;
};
std::optional<RecordLabel> peek_record(ByteView bytes);

struct Suspicion {
  NodeId accuser;
  NodeId suspect;
  Boot boot = 0;                 // of the suspect, as the accuser knows it
  std::uint64_t incarnation = 0;
  auto operator<=>(const Suspicion&) const = default;
};
// REQUIRES: signatures.sign signs for suspicion.accuser.
Bytes encode_suspicion(const Suspicion& suspicion, const Signatures& signatures);
// Errors: bad_input (layout), unauthenticated (signature of the accuser).
Result<Suspicion> decode_suspicion(ByteView bytes, const Signatures& signatures);
// As peek_record: the content, unverified.
std::optional<Suspicion> peek_suspicion(ByteView bytes);

}  // namespace starling::membership
