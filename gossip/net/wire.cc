// Encoding, and the bulk frame. The other way, where everything is suspect, is wire_decode.cc.
#include "gossip/net/wire.h"

#include <algorithm>

#include "gossip/net/wire_generated.h"

namespace starling::net {
namespace {

using flatbuffers::FlatBufferBuilder;
template <typename T>
using Offset = flatbuffers::Offset<T>;
using ByteVector = flatbuffers::Vector<std::uint8_t>;

// A message inside the builder, ready for the envelope.
struct Packed {
  fbs::Message type;
  Offset<void> table;
};

template <typename Table>
Packed packed(Offset<Table> table) {
  return {fbs::MessageTraits<Table>::enum_value, table.Union()};
}

std::int64_t on_wire(Duration d) { return std::clamp(d, Duration::zero(), max_wire_duration).count(); }

fbs::DoneMark on_wire(const DoneMark& done) { return {done.boot, done.step}; }

Offset<ByteVector> put(FlatBufferBuilder& b, ByteView bytes) {
  return b.CreateVector(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

Offset<ByteVector> put(FlatBufferBuilder& b, const NodeId& id) { return put(b, ByteView(id.key)); }

template <typename Value, typename Make>
auto put_all(FlatBufferBuilder& b, const std::vector<Value>& values, Make make) {
  std::vector<decltype(make(values.front()))> offsets;
  offsets.reserve(values.size());
  for (const Value& value : values) offsets.push_back(make(value));
  return b.CreateVector(offsets);
}

auto put(FlatBufferBuilder& b, const std::vector<Update>& updates) {
  return put_all(b, updates, [&](const Update& u) {
    return fbs::CreateUpdate(b, static_cast<std::uint8_t>(u.kind), put(b, u.bytes));
  });
}

auto put(FlatBufferBuilder& b, const std::vector<Hop>& hops) {
  return put_all(b, hops, [&](const Hop& h) { return fbs::CreateHop(b, h.stage, put(b, h.peer)); });
}

Offset<fbs::MicrobatchId> put(FlatBufferBuilder& b, const MicrobatchId& id) {
  return fbs::CreateMicrobatchId(b, put(b, id.originator), id.boot, id.step, id.index);
}

Offset<fbs::ExchangeId> put(FlatBufferBuilder& b, const ExchangeId& id) {
  return fbs::CreateExchangeId(b, put(b, id.proposer), id.boot, id.counter);
}

// ---------------------------------------------------------------- membership
Packed pack(FlatBufferBuilder& b, const Ping& m) {
  const auto done = on_wire(m.done);
  return packed(fbs::CreatePing(b, m.sequence, &done, put(b, m.updates)));
}
Packed pack(FlatBufferBuilder& b, const Ack& m) {
  const auto done = on_wire(m.done);
  const auto about = put(b, m.about);
  return packed(fbs::CreateAck(b, m.sequence, about, &done, put(b, m.updates)));
}
Packed pack(FlatBufferBuilder& b, const PingRequest& m) {
  return packed(fbs::CreatePingRequest(b, m.sequence, put(b, m.target)));
}
Packed pack(FlatBufferBuilder& b, const ViewRequest& m) { return packed(fbs::CreateViewRequest(b, m.page)); }
Packed pack(FlatBufferBuilder& b, const ViewPage& m) {
  return packed(fbs::CreateViewPage(b, m.page, m.pages, put(b, m.updates)));
}
Packed pack(FlatBufferBuilder& b, const Introduce& m) {
  const auto certificate = put(b, m.certificate);
  return packed(fbs::CreateIntroduce(b, certificate, put(b, m.record)));
}
Packed pack(FlatBufferBuilder& b, const IntroduceAck& m) {
  return packed(fbs::CreateIntroduceAck(b, put(b, m.newcomer)));
}
Packed pack(FlatBufferBuilder& b, const Finish& m) { return packed(fbs::CreateFinishRun(b, put(b, m.statement))); }
Packed pack(FlatBufferBuilder& b, const Report& m) {
  return packed(fbs::CreateReport(b, static_cast<std::uint8_t>(m.file), b.CreateString(m.lines)));
}

// ---------------------------------------------------------------- step clock and microbatches
Packed pack(FlatBufferBuilder& b, const Done& m) { return packed(fbs::CreateDone(b, m.boot, m.step)); }
Packed pack(FlatBufferBuilder& b, const Accepted& m) {
  return packed(fbs::CreateAccepted(b, m.transfer.boot, m.transfer.counter, on_wire(m.eta)));
}
Packed pack(FlatBufferBuilder& b, const Passed& m) {
  return packed(fbs::CreatePassed(b, put(b, m.microbatch), static_cast<std::uint8_t>(m.direction)));
}
Packed pack(FlatBufferBuilder& b, const Ask& m) {
  return packed(fbs::CreateAsk(b, put(b, m.microbatch), static_cast<std::uint8_t>(m.direction)));
}
Packed pack(FlatBufferBuilder& b, const AskAnswer& m) {
  return packed(fbs::CreateAskAnswer(b, static_cast<std::uint8_t>(m.state), put(b, m.microbatch),
                                     static_cast<std::uint8_t>(m.direction), on_wire(m.eta)));
}
Packed pack(FlatBufferBuilder& b, const Abandon& m) { return packed(fbs::CreateAbandon(b, put(b, m.microbatch))); }

// ---------------------------------------------------------------- exchanges and state
Packed pack(FlatBufferBuilder& b, const Propose& m) {
  return packed(fbs::CreatePropose(b, put(b, m.exchange), m.round, m.stage));
}
Packed pack(FlatBufferBuilder& b, const Accept& m) { return packed(fbs::CreateAccept(b, put(b, m.exchange), m.round)); }
Packed pack(FlatBufferBuilder& b, const Decline& m) {
  return packed(fbs::CreateDecline(b, static_cast<std::uint8_t>(m.code), put(b, m.exchange), m.round));
}
Packed pack(FlatBufferBuilder& b, const Got& m) { return packed(fbs::CreateGot(b, put(b, m.exchange))); }
Packed pack(FlatBufferBuilder& b, const StateRequest& m) {
  return packed(fbs::CreateStateRequest(b, static_cast<std::uint8_t>(m.source), m.request, m.stage, m.parts));
}
Packed pack(FlatBufferBuilder& b, const StateInfo& m) {
  const auto done = put_all(b, m.done, [&](const std::pair<NodeId, DoneMark>& d) {
    return fbs::CreateOriginatorDone(b, put(b, d.first), d.second.boot, d.second.step);
  });
  return packed(fbs::CreateStateInfo(b, m.request, m.stage, m.step, m.round, on_wire(m.tau), m.adam_steps, m.parts,
                                     m.closed_any, done, m.gradient_norm));
}

// ---------------------------------------------------------------- bulk
struct PackedAbout {
  fbs::About type;
  Offset<void> table;
};
PackedAbout pack_about(FlatBufferBuilder& b, const MicrobatchHeader& a) {
  const auto id = put(b, a.id);
  const auto made = put(b, a.made);
  const auto ahead = put(b, a.ahead);
  const auto borders = a.borders.empty() ? Offset<flatbuffers::Vector<std::uint32_t>>() : b.CreateVector(a.borders);
  return {
      fbs::About::MicrobatchHeader,
      fbs::CreateMicrobatchHeader(b, id, static_cast<std::uint8_t>(a.direction), static_cast<std::uint8_t>(a.purpose),
                                  a.stage, made, ahead, a.bypassed, on_wire(a.age), on_wire(a.give_up_age), borders)
          .Union()};
}
PackedAbout pack_about(FlatBufferBuilder& b, const ExchangePart& a) {
  return {fbs::About::ExchangePart, fbs::CreateExchangePart(b, put(b, a.exchange), a.round, a.stage).Union()};
}
PackedAbout pack_about(FlatBufferBuilder& b, const StatePart& a) {
  return {fbs::About::StatePart, fbs::CreateStatePart(b, a.request, a.stage, a.part, a.encoding).Union()};
}
PackedAbout pack_about(FlatBufferBuilder& b, const BackupPart& a) {
  return {fbs::About::BackupPart, fbs::CreateBackupPart(b, a.stage, a.step, a.round).Union()};
}
PackedAbout pack_about(FlatBufferBuilder& b, const CheckpointPart& a) {
  return {fbs::About::CheckpointPart,
          fbs::CreateCheckpointPart(b, a.stage, a.step, a.round, a.part, a.adam_steps, a.replicas).Union()};
}
PackedAbout pack_about(FlatBufferBuilder& b, const MetricsText&) {
  return {fbs::About::MetricsText, fbs::CreateMetricsText(b).Union()};
}

Packed pack(FlatBufferBuilder& b, const Offer& m) {
  const PackedAbout about = std::visit([&](const auto& a) { return pack_about(b, a); }, m.about);
  return packed(fbs::CreateOffer(b, m.transfer.boot, m.transfer.counter, about.type, about.table, m.bytes,
                                 put(b, ByteView(m.hash)), m.follows));
}
Packed pack(FlatBufferBuilder& b, const Pull& m) {
  return packed(fbs::CreatePull(b, m.transfer.boot, m.transfer.counter, m.from, m.upto));
}
Packed pack(FlatBufferBuilder& b, const Release& m) {
  return packed(fbs::CreateRelease(b, m.transfer.boot, m.transfer.counter));
}
Packed pack(FlatBufferBuilder& b, const Refuse& m) {
  return packed(fbs::CreateRefuse(b, m.transfer.boot, m.transfer.counter, static_cast<std::uint8_t>(m.code)));
}
Packed pack(FlatBufferBuilder& b, const Credit& m) { return packed(fbs::CreateCredit(b, m.bytes)); }

constexpr std::uint16_t chunk_magic = 0x4253;  // "SB"
constexpr std::uint8_t chunk_version = 1;

}  // namespace

Bytes encode(const Message& message) {
  FlatBufferBuilder builder(512);
  const Packed body = std::visit([&](const auto& m) { return pack(builder, m); }, message);
  fbs::FinishEnvelopeBuffer(builder, fbs::CreateEnvelope(builder, 1, body.type, body.table));
  STARLING_CHECK(builder.GetSize() <= max_control_frame_bytes, "a message of ours is beyond its bounds");
  const auto* begin = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return Bytes(begin, begin + builder.GetSize());
}

BranchId branch_of(const std::vector<Hop>& made) {
  ByteWriter hops;
  for (const Hop& hop : made) {
    hops.number(hop.stage);
    hops.raw(hop.peer.key);
  }
  return xxh3_64(hops.bytes());
}

namespace {

enum class ChunkKind : std::uint8_t { alone = 0, with_offer = 1 };

Bytes chunk_frame(ChunkKind kind, const TransferId& transfer, std::uint64_t offset, ByteView payload, ByteView offer) {
  STARLING_CHECK(!payload.empty() && payload.size() <= max_chunk_payload_bytes, "a chunk of ours is beyond its bounds");
  Bytes frame;
  frame.reserve(chunk_header_bytes + payload.size() + offer.size());
  const auto number = [&frame](auto value) {
    const auto* p = reinterpret_cast<const std::byte*>(&value);
    frame.insert(frame.end(), p, p + sizeof value);
  };
  number(chunk_magic);
  number(chunk_version);
  number(static_cast<std::uint8_t>(kind));
  number(static_cast<std::uint32_t>(payload.size()));
  number(transfer.boot);
  number(transfer.counter);
  number(offset);
  frame.insert(frame.end(), payload.begin(), payload.end());
  frame.insert(frame.end(), offer.begin(), offer.end());
  return frame;
}

}  // namespace

Bytes encode_chunk(const TransferId& transfer, std::uint64_t offset, ByteView payload) {
  return chunk_frame(ChunkKind::alone, transfer, offset, payload, {});
}

Bytes encode_offered_chunk(const Offer& offer, ByteView payload) {
  const Bytes encoded = encode(offer);
  if (payload.size() + encoded.size() > max_chunk_payload_bytes) return {};
  return chunk_frame(ChunkKind::with_offer, offer.transfer, 0, payload, encoded);
}

Result<Chunk> decode_chunk(ByteView frame, const NodeId& from) {
  ByteReader in(frame);
  const auto magic = in.number<std::uint16_t>();
  const auto version = in.number<std::uint8_t>();
  const auto kind = in.number<std::uint8_t>();
  const auto size = in.number<std::uint32_t>();
  Chunk chunk;
  chunk.transfer.sender = from;
  chunk.transfer.boot = in.number<Boot>();
  chunk.transfer.counter = in.number<std::uint64_t>();
  chunk.offset = in.number<std::uint64_t>();
  const bool with_offer = kind == static_cast<std::uint8_t>(ChunkKind::with_offer);
  if (!in.ok() || magic != chunk_magic || (kind != 0 && !with_offer)) {
    return fail(ErrorCode::bad_input, "bulk frame: no chunk header");
  }
  if (version != chunk_version)
    return fail(ErrorCode::bad_input, "bulk frame: a version that this program does not speak");
  if (size == 0 || size > max_chunk_payload_bytes || chunk.offset > max_transfer_bytes) {
    return fail(ErrorCode::bad_input, "bulk frame: size or offset is out of bounds");
  }
  chunk.payload = in.raw(size);
  if (with_offer && in.ok()) {
    // Copied: a message is read where its numbers are aligned.
    const ByteView rest = in.raw(frame.size() - chunk_header_bytes - size);
    auto message = decode(Bytes(rest.begin(), rest.end()), from, NodeId{});
    if (!message) return tl::unexpected(message.error());
    auto* offer = std::get_if<Offer>(&*message);
    if (offer == nullptr || offer->transfer != chunk.transfer || chunk.offset != 0) {
      return fail(ErrorCode::bad_input, "bulk frame: what stands behind a first chunk is not its offer");
    }
    chunk.offer = std::move(*offer);
  }
  if (!in.complete()) return fail(ErrorCode::bad_input, "bulk frame: its length is not what its header says");
  return chunk;
}

}  // namespace starling::net
