// Every message between members, as plain values, and their one way to bytes and back.
//
// On control a frame is one FlatBuffers `Envelope` (wire.fbs), verified before anything is read; on bulk it is a fixed
// header with tensor bytes behind it. A decoded message obeys every bound below, so deciders need no further length
// checks. Fields that name the sender are filled from the authenticated key of the frame, never from its content:
// nobody can speak for somebody else. The folder README lists who sends what, what answers it and what a repeat does.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/lane.h"

namespace starling::net {

// Bounds of what a frame may hold; a frame beyond them is malformed.
inline constexpr std::size_t max_hops = 64;
inline constexpr std::size_t max_borders = 4096;
inline constexpr std::size_t max_updates = 24;            // records or suspicions on one packet
inline constexpr std::size_t max_record_bytes = 2048;     // a signed record with its certificate chain
inline constexpr std::size_t max_originators = 256;
inline constexpr std::size_t max_report_bytes = 16 << 10;
inline constexpr std::size_t max_statement_bytes = 1024;  // what the owner signed
inline constexpr std::uint32_t max_view_pages = 1024;
// Numbers are bounded too, so that a decider can add and multiply without a thought of overflow.
inline constexpr Stage max_stages = 4096;
inline constexpr Step max_step = Step{1} << 48;           // of rounds too
inline constexpr std::uint64_t max_transfer_bytes = std::uint64_t{1} << 40;
inline constexpr Duration max_wire_duration = std::chrono::hours(24 * 30);  // the encoder cuts, the decoder refuses

// ---------------------------------------------------------------- membership
// A signed record or suspicion as gossip carries it: opaque here, verified first and parsed after by membership.
struct Update {
  enum class Kind : std::uint8_t { record, suspicion } kind = Kind::record;
  Bytes bytes;
  bool operator==(const Update&) const = default;
};
// An originator's closed steps, repeated on probes and acks; from anybody else it counts only inside a signed record.
struct DoneMark {
  Boot boot = 0;
  Step step = -1;  // -1: the sender is no originator
  bool operator==(const DoneMark&) const = default;
};
struct Ping {
  std::uint64_t sequence = 0;
  DoneMark done;
  std::vector<Update> updates;
  bool operator==(const Ping&) const = default;
};
struct Ack {
  std::uint64_t sequence = 0;
  NodeId about;  // whose life it proves: the sender, or the target of an indirect probe
  DoneMark done;
  std::vector<Update> updates;
  bool operator==(const Ack&) const = default;
};
struct PingRequest {
  std::uint64_t sequence = 0;
  NodeId target;
  bool operator==(const PingRequest&) const = default;
};
struct ViewRequest {
  std::uint32_t page = 0;
  bool operator==(const ViewRequest&) const = default;
};
struct ViewPage {
  std::uint32_t page = 0;
  std::uint32_t pages = 1;
  std::vector<Update> updates;
  bool operator==(const ViewPage&) const = default;
};
// The admitting node makes a newcomer known before it answers it: the certificate that it just issued and the record that
// the newcomer signed for its request (no stage yet).
struct Introduce {
  Bytes certificate;
  Bytes record;
  bool operator==(const Introduce&) const = default;
};
struct IntroduceAck {
  NodeId newcomer;
  bool operator==(const IntroduceAck&) const = default;
};
// The owner's signed wish to end the run (certificate.h); passed on once by everybody who sees it first.
struct Finish {
  Bytes statement;
  bool operator==(const Finish&) const = default;
};
// Lines for the run's log files, from workers whose disk is not the run's.
struct Report {
  enum class File : std::uint8_t { metrics, events } file = File::metrics;
  std::string lines;
  bool operator==(const Report&) const = default;
};

// ---------------------------------------------------------------- step clock
struct Done {
  Boot boot = 0;
  Step step = 0;
  bool operator==(const Done&) const = default;
};

// ---------------------------------------------------------------- microbatches
struct Hop {
  Stage stage = 0;
  NodeId peer;
  auto operator<=>(const Hop&) const = default;
};
enum class Direction : std::uint8_t { forward, backward };
enum class Purpose : std::uint8_t { train, eval };

// What travels with an activation or a gradient.
struct MicrobatchHeader {
  MicrobatchId id;
  Direction direction = Direction::forward;
  Purpose purpose = Purpose::train;
  Stage stage = 0;              // what the sender believes the receiver to hold; 0: home at its originator
  std::vector<Hop> made;        // hops whose forward output is inside, in order, originator left out
  std::vector<Hop> ahead;       // forward: hops planned after the receiver; the way home is not listed
  std::uint64_t bypassed = 0;   // backward: bit i: made[i] was gone and its gradient went on as the identity
  Duration age{};               // since the originator began it, without time on links
  Duration give_up_age{};       // every hop frees what it keeps at this age
  // Rows at which a document begins inside of a sequence, rising: attention does not look across. Only what runs a block
  // needs them; empty where attention sees whole sequences.
  std::vector<std::uint32_t> borders;
  bool operator==(const MicrobatchHeader&) const = default;
};
// Names one of several copies of a microbatch after a re-route: a hash of the hops made. Serves Abandon and the
// originator's choice only.
using BranchId = std::uint64_t;
BranchId branch_of(const std::vector<Hop>& made);

enum class RefuseCode : std::uint8_t {
  full,         // no activation memory: next replica at once
  starting,     // not active yet: next replica at once
  wrong_stage,  // the view of the sender is old: next replica at once
  duplicate,    // this microbatch is here already: free your graph, report passed
  stale,        // its step is too old: free
  done,         // its gradient was added already: free
  unknown,      // backward only: no graph here: bypass
  malformed,    // size or content is not what the config says: never offered again
};
// The last byte is in and the hash holds; `eta`: until its forward or backward here is computed, hold included.
// Returns the transfer's credit, as Release does.
struct Accepted {
  TransferId transfer;
  Duration eta{};
  bool operator==(const Accepted&) const = default;
};
// "My output for this microbatch was accepted by its next hop": the receiver may drop the output it kept.
struct Passed {
  MicrobatchId microbatch;
  Direction direction = Direction::forward;
  bool operator==(const Passed&) const = default;
};
// "Where is what I gave you?" Answered by AskAnswer.
struct Ask {
  MicrobatchId microbatch;
  Direction direction = Direction::forward;
  bool operator==(const Ask&) const = default;
};
struct AskAnswer {
  enum class State : std::uint8_t { working, passed, given_back, unknown } state = State::working;
  MicrobatchId microbatch;
  Direction direction = Direction::forward;
  Duration eta{};
  bool operator==(const AskAnswer&) const = default;
};
// From the originator only: free every graph of this microbatch.
struct Abandon {
  MicrobatchId microbatch;
  bool operator==(const Abandon&) const = default;
};

// ---------------------------------------------------------------- exchanges
struct Propose {
  ExchangeId exchange;  // proposer = the sender
  Round round = 0;
  Stage stage = 0;
  bool operator==(const Propose&) const = default;
};
struct Accept {
  ExchangeId exchange;
  Round round = 0;
  bool operator==(const Accept&) const = default;
};
struct Decline {
  enum class Code : std::uint8_t { stale, busy, better, wrong_stage, finished } code = Code::busy;
  ExchangeId exchange;
  Round round = 0;  // of the decliner, so that "stale" tells who is behind
  bool operator==(const Decline&) const = default;
};
struct Got {
  ExchangeId exchange;
  bool operator==(const Got&) const = default;
};

// ---------------------------------------------------------------- state of a stage
struct StateRequest {
  enum class Source : std::uint8_t { live, backup } source = Source::live;
  std::uint64_t request = 0;  // of the asker; comes back in every answer
  Stage stage = 0;
  std::uint8_t parts = 1;     // bit 0 phi, 1 adam_m, 2 adam_v, 3 outer momentum, 4 theta
  bool operator==(const StateRequest&) const = default;
};
struct StateInfo {
  std::uint64_t request = 0;
  Stage stage = 0;
  Step step = 0;              // the donor's k; of a backup: the step after which it was taken
  Round round = 0;
  Duration tau{};
  std::int64_t adam_steps = 0;
  std::uint8_t parts = 0;     // which are going to be offered; 0: refused
  bool closed_any = false;    // the donor has closed a step: weights must be copied, not drawn
  std::vector<std::pair<NodeId, DoneMark>> done;
  double gradient_norm = 0.0; // of the donor's last step, before clipping; 0: none yet
  bool operator==(const StateInfo&) const = default;
};

// ---------------------------------------------------------------- bulk
struct ExchangePart {
  ExchangeId exchange;
  Round round = 0;
  Stage stage = 0;
  bool operator==(const ExchangePart&) const = default;
};
struct StatePart {
  std::uint64_t request = 0;
  Stage stage = 0;
  std::uint8_t part = 0;      // 0 phi, 1 adam_m, 2 adam_v, 3 outer momentum, 4 theta
  std::uint8_t encoding = 0;  // 0 fp32, 1 bf16
  bool operator==(const StatePart&) const = default;
};
struct BackupPart {
  Stage stage = 0;
  Step step = 0;
  Round round = 0;
  bool operator==(const BackupPart&) const = default;
};
// This worker's last metrics, for nodes that are scraped in its place.
struct MetricsText {
  bool operator==(const MetricsText&) const = default;
};
// Of a worker's state at the end of a round, for whoever collects a checkpoint; fp32.
struct CheckpointPart {
  Stage stage = 0;
  Step step = 0;               // the last one of that round
  Round round = 0;
  std::uint8_t part = 0;       // as StatePart's
  std::int64_t adam_steps = 0;
  std::int32_t replicas = 0;   // of its stage, as the sender sees them: so many slow weights come
  bool operator==(const CheckpointPart&) const = default;
};

using About = std::variant<MicrobatchHeader, ExchangePart, StatePart, BackupPart, MetricsText, CheckpointPart>;

struct Offer {
  TransferId transfer;
  About about;
  std::uint64_t bytes = 0;
  Hash128 hash{};
  std::uint64_t follows = 0;  // so many of the first bytes are sent without a Pull, within the receiver's credit
  bool operator==(const Offer&) const = default;
};
// Send me bytes [from, upto).
struct Pull {
  TransferId transfer;
  std::uint64_t from = 0;
  std::uint64_t upto = 0;
  bool operator==(const Pull&) const = default;
};
struct Release {
  TransferId transfer;
  bool operator==(const Release&) const = default;
};
struct Refuse {
  TransferId transfer;
  RefuseCode code = RefuseCode::full;
  bool operator==(const Refuse&) const = default;
};
// You may have this many bytes under way to me without a Pull, all transfers together. A level, not a gift: the newest
// one counts, so a repeat changes nothing; the end of a transfer returns what it used without a word.
struct Credit {
  std::uint64_t bytes = 0;
  bool operator==(const Credit&) const = default;
};

using Message = std::variant<Ping, Ack, PingRequest, ViewRequest, ViewPage, Introduce, IntroduceAck, Finish, Report, Done,
                             Accepted, Passed, Ask, AskAnswer, Abandon, Propose, Accept, Decline, Got, StateRequest,
                             StateInfo, Offer, Pull, Release, Refuse, Credit>;

// REQUIRES: the message obeys the bounds above; durations are cut to 0 .. max_wire_duration. Result: at most
// max_control_frame_bytes.
Bytes encode(const Message& message);
// `from`: the authenticated sender; `self`: this node (Pull, Release, Refuse, Accepted name our transfers). Propose must
// name its sender as proposer and Abandon its sender as originator.
// Errors: bad_input, with what was wrong, for anything that does not verify or breaks a bound. Never throws.
Result<Message> decode(ByteView frame, const NodeId& from, const NodeId& self);

// Bulk frame: "SB" magic u16 | version u8 | kind u8 | payload bytes u32 | boot u64 | counter u64 | offset u64 | payload.
// Kind 0: no more. Kind 1, offset 0 only: the Offer that the payload follows stands behind it, as an encoded message. So
// what fits into one frame costs one message and wakes its receiver once.
inline constexpr std::size_t chunk_header_bytes = 32;
struct Chunk {
  TransferId transfer;
  std::uint64_t offset = 0;
  ByteView payload;            // inside the frame that was decoded
  std::optional<Offer> offer;  // of the same transfer
};
// REQUIRES: 1 .. max_chunk_payload_bytes of payload.
Bytes encode_chunk(const TransferId& transfer, std::uint64_t offset, ByteView payload);
// The first chunk of a transfer with its Offer; empty when both together are beyond max_chunk_payload_bytes: then each
// travels alone. REQUIRES: as for encode() and encode_chunk().
Bytes encode_offered_chunk(const Offer& offer, ByteView payload);
// Errors: bad_input, for anything but exactly such a frame.
Result<Chunk> decode_chunk(ByteView frame, const NodeId& from);

}  // namespace starling::net
