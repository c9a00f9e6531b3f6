#include "gossip/net/wire.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "gossip/net/wire_generated.h"
#include "tests/gossip/net/wire_samples.h"

namespace starling::net {
namespace {

using testing::HasSubstr;

NodeId id_of(unsigned char fill) {
  NodeId id;
  id.key.fill(static_cast<std::byte>(fill));
  return id;
}
const NodeId alice = id_of(0xa1);
const NodeId bob = id_of(0xb0);

std::string why(const Result<Message>& result) { return result ? "it was decoded" : result.error().message; }

// A frame as somebody without our encoder could make it.
template <typename Build>
Bytes hand_made(fbs::Message type, Build build, std::uint16_t version = 1) {
  flatbuffers::FlatBufferBuilder b;
  const auto table = build(b);
  fbs::FinishEnvelopeBuffer(b, fbs::CreateEnvelope(b, version, type, table.Union()));
  const auto* p = reinterpret_cast<const std::byte*>(b.GetBufferPointer());
  return Bytes(p, p + b.GetSize());
}

auto put_id(flatbuffers::FlatBufferBuilder& b, const NodeId& id, std::size_t size = 32) {
  return b.CreateVector(reinterpret_cast<const std::uint8_t*>(id.key.data()), size);
}

RC_GTEST_PROP(Wire, EveryMessageComesBackAsItWas, (std::uint64_t seed)) {
  WireSamples samples(seed);
  for (std::size_t kind = 0; kind < WireSamples::kinds; ++kind) {
    const Message message = samples.message(kind, alice, bob);
    RC_ASSERT(message.index() == kind);
    const Bytes frame = encode(message);
    RC_ASSERT(frame.size() <= max_control_frame_bytes);
    const Result<Message> back = decode(frame, alice, bob);
    RC_ASSERT(back.has_value());
    RC_ASSERT(*back == message);
  }
}

// Whatever is done to a frame, decoding ends with a message within all bounds or with an error. Under ASan and UBSan
// this also proves that nothing outside the frame is read.
RC_GTEST_PROP(Wire, DamagedFramesAreRefusedOrHarmless, (std::uint64_t seed)) {
  WireSamples samples(seed);
  Stream random(seed);
  for (std::size_t kind = 0; kind < WireSamples::kinds; ++kind) {
    const Bytes whole = encode(samples.message(kind, alice, bob));
    for (int i = 0; i < 20; ++i) {
      Bytes frame = whole;
      switch (random.below(4)) {
        case 0:
          frame.resize(random.below(frame.size()));
          break;
        case 1:
          frame.resize(frame.size() + 1 + random.below(64));
          break;
        default:
          break;
      }
      for (auto flips = random.below(8); flips > 0 && !frame.empty(); --flips) {
        // Offsets and sizes stand in the first bytes and all over the vtables: aim there half of the time.
        const std::size_t range = random.below(2) == 0 ? std::min<std::size_t>(frame.size(), 96) : frame.size();
        frame[random.below(range)] = static_cast<std::byte>(random.next());
      }
      frame.shrink_to_fit();
      const Result<Message> decoded = decode(frame, alice, bob);
      if (!decoded) continue;
      const Result<Message> again = decode(encode(*decoded), alice, bob);
      RC_ASSERT(again.has_value());
      RC_ASSERT(*again == *decoded);
    }
  }
}

RC_GTEST_PROP(Wire, RandomBytesAreRefused, (std::vector<std::uint8_t> noise)) {
  const auto* p = reinterpret_cast<const std::byte*>(noise.data());
  RC_ASSERT(!decode(ByteView(p, noise.size()), alice, bob));
  RC_ASSERT(!decode_chunk(ByteView(p, noise.size()), alice));
}

TEST(Wire, AFrameThatIsNotAlignedIsRead) {
  const Bytes frame = encode(Credit{77});
  Bytes shifted(1);
  shifted.insert(shifted.end(), frame.begin(), frame.end());
  const Result<Message> decoded = decode(ByteView(shifted).subspan(1), alice, bob);
  ASSERT_TRUE(decoded) << why(decoded);
  EXPECT_EQ(std::get<Credit>(*decoded).bytes, 77u);
}

TEST(Wire, TheSenderIsWhoTheKeySays) {
  const auto decoded = decode(encode(Offer{{bob, 3, 4}, MetricsText{}, 5, {}, 5}), alice, bob);
  ASSERT_TRUE(decoded) << why(decoded);
  EXPECT_EQ(std::get<Offer>(*decoded).transfer, (TransferId{alice, 3, 4}));

  const auto pull = decode(encode(Pull{{alice, 3, 4}, 0, 9}), alice, bob);
  ASSERT_TRUE(pull) << why(pull);
  EXPECT_EQ(std::get<Pull>(*pull).transfer, (TransferId{bob, 3, 4}));
}

TEST(Wire, NobodyProposesOrAbandonsForAnother) {
  EXPECT_THAT(why(decode(encode(Propose{{bob, 1, 1}, 1, 0}), alice, bob)), HasSubstr("proposer"));
  EXPECT_THAT(why(decode(encode(Abandon{{bob, 1, 1, 1}}), alice, bob)), HasSubstr("originator"));
}

TEST(Wire, AnIdOfAnotherLengthIsRefused) {
  for (const std::size_t size : {std::size_t{0}, std::size_t{31}}) {
    const Bytes frame = hand_made(fbs::Message::IntroduceAck,
                                  [&](auto& b) { return fbs::CreateIntroduceAck(b, put_id(b, alice, size)); });
    EXPECT_THAT(why(decode(frame, alice, bob)), HasSubstr("newcomer"));
  }
}

TEST(Wire, AMissingFieldIsRefused) {
  EXPECT_THAT(why(decode(hand_made(fbs::Message::Got, [](auto& b) { return fbs::CreateGot(b); }), alice, bob)),
              HasSubstr("exchange"));
  EXPECT_THAT(why(decode(hand_made(fbs::Message::Ping, [](auto& b) { return fbs::CreatePing(b, 1); }), alice, bob)),
              HasSubstr("done"));
  EXPECT_THAT(
      why(decode(hand_made(fbs::Message::Offer, [](auto& b) { return fbs::CreateOffer(b, 1, 1); }), alice, bob)),
      HasSubstr("about"));
}

TEST(Wire, AVectorBeyondItsBoundIsRefused) {
  const auto page_of = [](std::size_t updates, std::size_t bytes) {
    return hand_made(fbs::Message::ViewPage, [&](flatbuffers::FlatBufferBuilder& b) {
      // All share one vector: a small frame that would stand for much memory.
      const auto shared = b.CreateVector(std::vector<std::uint8_t>(bytes));
      std::vector<flatbuffers::Offset<fbs::Update>> list;
      for (std::size_t i = 0; i < updates; ++i) list.push_back(fbs::CreateUpdate(b, 0, shared));
      return fbs::CreateViewPage(b, 0, 1, b.CreateVector(list));
    });
  };
  EXPECT_TRUE(decode(page_of(max_updates, max_record_bytes), alice, bob));
  EXPECT_THAT(why(decode(page_of(max_updates + 1, 1), alice, bob)), HasSubstr("updates"));
  EXPECT_THAT(why(decode(page_of(1, max_record_bytes + 1), alice, bob)), HasSubstr("updates.bytes"));
  EXPECT_FALSE(decode(page_of(2000, 1), alice, bob));  // more tables than any message has
}

TEST(Wire, AFrameBeyondTheLimitIsRefused) {
  EXPECT_THAT(why(decode(Bytes(max_control_frame_bytes + 1), alice, bob)), HasSubstr("longer"));
}

TEST(Wire, AnotherVersionIsRefusedByName) {
  const Bytes frame = hand_made(
      fbs::Message::Credit, [](auto& b) { return fbs::CreateCredit(b, 1); }, 2);
  EXPECT_THAT(why(decode(frame, alice, bob)), HasSubstr("version 2"));
}

TEST(Wire, AnUnknownKindOfMessageIsRefused) {
  const Bytes frame = hand_made(static_cast<fbs::Message>(200), [](auto& b) { return fbs::CreateCredit(b, 1); });
  EXPECT_FALSE(decode(frame, alice, bob));
  EXPECT_FALSE(decode(hand_made(fbs::Message::NONE, [](auto& b) { return fbs::CreateCredit(b, 1); }), alice, bob));
}

TEST(Wire, ANumberOutOfBoundsIsRefused) {
  const auto refused = [](fbs::Message type, auto build) { return why(decode(hand_made(type, build), alice, bob)); };
  EXPECT_THAT(refused(fbs::Message::Accepted, [](auto& b) { return fbs::CreateAccepted(b, 1, 1, -1); }),
              HasSubstr("eta"));
  EXPECT_THAT(refused(fbs::Message::Done, [](auto& b) { return fbs::CreateDone(b, 1, max_step + 1); }),
              HasSubstr("step"));
  EXPECT_THAT(refused(fbs::Message::Pull, [](auto& b) { return fbs::CreatePull(b, 1, 1, 5, 5); }), HasSubstr("from"));
  EXPECT_THAT(refused(fbs::Message::Refuse, [](auto& b) { return fbs::CreateRefuse(b, 1, 1, 8); }), HasSubstr("code"));
  EXPECT_THAT(
      refused(fbs::Message::StateRequest, [](auto& b) { return fbs::CreateStateRequest(b, 0, 1, max_stages, 1); }),
      HasSubstr("stage"));
  EXPECT_THAT(refused(fbs::Message::Report, [](auto& b) { return fbs::CreateReport(b, 0, b.CreateString("\x1b[2J")); }),
              HasSubstr("lines"));
}

TEST(Wire, BypassedHopsMustBeHopsThatWereMade) {
  MicrobatchHeader header;
  header.made = {{1, alice}};
  header.bypassed = 1;
  EXPECT_TRUE(decode(encode(Offer{{alice, 1, 1}, header, 5, {}, 0}), alice, bob));
  header.bypassed = 2;
  EXPECT_THAT(why(decode(encode(Offer{{alice, 1, 1}, header, 5, {}, 0}), alice, bob)), HasSubstr("bypassed"));
}

TEST(Wire, DurationsAreCutToWhatTheDecoderTakes) {
  const auto eta_of = [](Duration eta) {
    return std::get<Accepted>(decode(encode(Accepted{{bob, 1, 1}, eta}), alice, bob).value()).eta;
  };
  EXPECT_EQ(eta_of(Duration(-5)), Duration::zero());
  EXPECT_EQ(eta_of(Duration::max()), max_wire_duration);
}

TEST(Wire, BranchesDifferByTheHopsMade) {
  const std::vector<Hop> one{{1, alice}};
  EXPECT_EQ(branch_of(one), branch_of({{1, alice}}));
  EXPECT_NE(branch_of(one), branch_of({{1, bob}}));
  EXPECT_NE(branch_of(one), branch_of({{2, alice}}));
  EXPECT_NE(branch_of(one), branch_of({}));
}

RC_GTEST_PROP(Chunk, ComesBackAsItWas, (std::uint64_t seed)) {
  WireSamples samples(seed);
  const Bytes payload = samples.bytes(1 + samples.up_to(max_chunk_payload_bytes - 1));
  const TransferId transfer{alice, samples.number(), samples.number()};
  const std::uint64_t offset = samples.up_to(max_transfer_bytes);
  const Bytes frame = encode_chunk(transfer, offset, payload);
  RC_ASSERT(frame.size() == chunk_header_bytes + payload.size());
  RC_ASSERT(frame.size() <= max_bulk_frame_bytes);
  const auto chunk = decode_chunk(frame, alice);
  RC_ASSERT(chunk.has_value());
  RC_ASSERT(chunk->transfer == transfer);
  RC_ASSERT(chunk->offset == offset);
  RC_ASSERT(std::equal(chunk->payload.begin(), chunk->payload.end(), payload.begin(), payload.end()));
}

RC_GTEST_PROP(Chunk, CarriesItsOffer, (std::uint64_t seed)) {
  WireSamples samples(seed);
  const Offer offer = std::get<Offer>(samples.message(Message(Offer{}).index(), alice, bob));
  const Bytes payload = samples.bytes(1 + samples.up_to(max_chunk_payload_bytes - 1));
  const Bytes frame = encode_offered_chunk(offer, payload);
  if (frame.empty()) {
    RC_ASSERT(payload.size() + encode(offer).size() > max_chunk_payload_bytes);
    return;
  }
  RC_ASSERT(frame.size() <= chunk_header_bytes + max_chunk_payload_bytes);
  const auto chunk = decode_chunk(frame, offer.transfer.sender);
  RC_ASSERT(chunk.has_value());
  RC_ASSERT(chunk->transfer == offer.transfer);
  RC_ASSERT(chunk->offset == 0u);
  RC_ASSERT(std::equal(chunk->payload.begin(), chunk->payload.end(), payload.begin(), payload.end()));
  RC_ASSERT(chunk->offer == offer);
}

TEST(Chunk, WithAnythingButItsOfferBehindItIsRefused) {
  const auto behind_a_chunk = [](std::uint64_t offset, const Bytes& message) {
    Bytes frame = encode_chunk({alice, 1, 2}, offset, as_bytes("payload"));
    frame[3] = std::byte{1};
    frame.insert(frame.end(), message.begin(), message.end());
    return decode_chunk(frame, alice).has_value();
  };
  const Offer offer{{alice, 1, 2}, BackupPart{}, 100, {}, 7};
  const Offer other{{alice, 1, 3}, BackupPart{}, 100, {}, 7};
  Bytes cut = encode(offer);
  EXPECT_TRUE(behind_a_chunk(0, cut));
  EXPECT_FALSE(behind_a_chunk(7, cut));
  cut.pop_back();
  EXPECT_FALSE(behind_a_chunk(0, cut));
  EXPECT_FALSE(behind_a_chunk(0, encode(other)));
  EXPECT_FALSE(behind_a_chunk(0, encode(Credit{5})));
  EXPECT_FALSE(behind_a_chunk(0, {}));
}

TEST(Chunk, AnythingButExactlyAChunkIsRefused) {
  const Bytes good = encode_chunk({alice, 1, 2}, 3, as_bytes("payload"));
  ASSERT_TRUE(decode_chunk(good, alice));
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(decode_chunk(ByteView(good).first(size), alice)) << size;
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(decode_chunk(longer, alice));
  for (const std::size_t at : {0u, 1u, 2u, 3u, 4u, 7u, 31u}) {  // magic, version, zero, size, offset
    Bytes bad = good;
    bad[at] = std::byte{0xee};
    EXPECT_FALSE(decode_chunk(bad, alice)) << at;
  }
  EXPECT_FALSE(decode_chunk(ByteView(good).first(chunk_header_bytes), alice));
}

}  // namespace
}  // namespace starling::net
