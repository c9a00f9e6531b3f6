// What a node says of itself: a signed record. And what one node says of another: a signed suspicion.
//
// A record is a fixed byte layout behind a signature, carried as an opaque vector, verified first and parsed after. Order:
// (boot, incarnation, version): the higher one replaces the lower. Speed, load and D raise the version only, at most once
// a second; a change of stage, state or endpoints raises the incarnation.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/transport.h"

namespace starling::membership {

enum class Role : std::uint8_t { worker, observer };
// What a node can say of itself. "suspect" and "dead" are verdicts of others (PeerState in view.h).
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
  Role role = Role::worker;
  Standing standing = Standing::joining;
  Stage stage = no_stage;
  Slot slot = no_slot;           // originators only
  Step step = 1;                 // k
  Step done = -1;                // D; -1: no originator
  Round round = 1;
  net::Endpoints endpoints;
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
  Bytes certificate;                            // chain as certificate.h reads it
};

// Signs and verifies for one node. The real one is Ed25519 (gossip/net/identity); the simulated world uses a keyed hash,
// as a signature costs more there than all the rest.
class Signatures {
 public:
  virtual ~Signatures() = default;
  virtual std::array<std::byte, 64> sign(ByteView message) const = 0;
  virtual bool verify(const NodeId& signer, ByteView message, const std::array<std::byte, 64>& signature) const = 0;
};

// REQUIRES: bounds above hold; signatures.sign signs for record.id.
Bytes encode_record(const Record& record, const Signatures& signatures);
// Verifies the signature by the id inside, then parses. Errors: bad_input (layout, bounds, name, non-finite numbers),
// unauthenticated (signature). The certificate is checked by the caller, once per id.
Result<Record> decode_record(ByteView bytes, const Signatures& signatures);

struct Suspicion {
  NodeId accuser;
  NodeId suspect;
  Boot boot = 0;                 // of the suspect, as the accuser knows it
  std::uint64_t incarnation = 0;
};
Bytes encode_suspicion(const Suspicion& suspicion, const Signatures& signatures);
Result<Suspicion> decode_suspicion(ByteView bytes, const Signatures& signatures);

}  // namespace starling::membership
