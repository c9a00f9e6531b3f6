// Bulk, fed by hand: one rule a test. What many of them do over a bad network is bulk_network_test.
#include "gossip/net/bulk.h"

#include <gtest/gtest.h>

#include <bit>

#include "gossip/base/random.h"

namespace starling::net {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t chunk = max_chunk_payload_bytes;
constexpr TimePoint start{};

NodeId id_of(unsigned char fill) {
  NodeId id;
  id.key.fill(static_cast<std::byte>(fill));
  return id;
}
const NodeId us = id_of(1);
const NodeId them = id_of(2);
const NodeId others = id_of(3);

Buffer buffer_of(std::size_t size, std::uint64_t seed = 1) {
  Bytes bytes(size);
  Stream random(seed);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random.next());
  return std::make_shared<const Bytes>(std::move(bytes));
}

ByteView part(const Buffer& buffer, std::uint64_t offset, std::uint64_t size) {
  return ByteView(*buffer).subspan(offset, size);
}

template <typename T>
std::vector<T> all(const std::vector<Bulk::Action>& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* of_kind = std::get_if<T>(&action)) out.push_back(*of_kind);
  }
  return out;
}

// The messages of one kind among what goes to anybody on control.
template <typename T>
std::vector<T> said(const std::vector<Bulk::Action>& actions) {
  std::vector<T> out;
  for (const auto& send : all<Bulk::SendControl>(actions)) {
    if (const auto* of_kind = std::get_if<T>(&send.message)) out.push_back(*of_kind);
  }
  return out;
}

// Our side of a transfer from them, and what they would send.
struct Incoming {
  TransferId id{them, 7, 1};
  Buffer buffer;
  std::uint64_t follows = 0;

  Offer offer() const { return {id, BackupPart{}, buffer->size(), xxh3_128(*buffer), follows}; }
  Bulk::ChunkCame chunk_at(std::uint64_t offset) const {
    return {{id, offset, part(buffer, offset, std::min(chunk, buffer->size() - offset))}};
  }
};

Bulk receiver(Bulk::Config config = {}) {
  Bulk bulk(config, us, 1);
  bulk.on(Bulk::PeerUp{them}, start);
  return bulk;
}

TransferId offer(Bulk& bulk, const Buffer& buffer, std::vector<Bulk::Action>* actions = nullptr,
                 TimePoint now = start) {
  const TransferId id = bulk.next_transfer();
  auto out = bulk.on(Bulk::OfferBuffer{them, id, BackupPart{}, buffer, xxh3_128(*buffer)}, now);
  if (actions != nullptr) *actions = std::move(out);
  return id;
}

std::uint64_t sent_bytes(const std::vector<Bulk::Action>& actions) {
  std::uint64_t total = 0;
  for (const auto& c : all<Bulk::SendChunk>(actions)) total += c.bytes;
  return total;
}

// ---------------------------------------------------------------- sending

TEST(BulkSender, SendsWhatTheCreditAllowsAtOnceAndTheRestWhenPulled) {
  Bulk bulk({}, us, 1);
  bulk.on(Bulk::CreditCame{them, {2 * chunk + 5}}, start);
  std::vector<Bulk::Action> actions;
  const Buffer buffer = buffer_of(3 * chunk + 10);
  const TransferId id = offer(bulk, buffer, &actions);
  ASSERT_EQ(said<Offer>(actions).size(), 1u);
  EXPECT_EQ(said<Offer>(actions)[0].follows, 2 * chunk);  // whole chunks, when it is not all
  ASSERT_EQ(all<Bulk::SendChunk>(actions).size(), 2u);
  EXPECT_EQ(all<Bulk::SendChunk>(actions)[1].offset, chunk);

  actions = bulk.on(Bulk::PullCame{them, {id, 2 * chunk, 3 * chunk + 10}}, start);
  ASSERT_EQ(all<Bulk::SendChunk>(actions).size(), 2u);
  EXPECT_EQ(all<Bulk::SendChunk>(actions)[1].offset, 3 * chunk);
  EXPECT_EQ(all<Bulk::SendChunk>(actions)[1].bytes, 10u);
}

TEST(BulkSender, CountsTheCreditOverAllTransfersAndGetsItBackAtTheirEnd) {
  Bulk bulk({}, us, 1);
  bulk.on(Bulk::CreditCame{them, {1000}}, start);
  const auto follows = [&](std::size_t size, TransferId* id) {
    std::vector<Bulk::Action> actions;
    *id = offer(bulk, buffer_of(size), &actions);
    EXPECT_EQ(sent_bytes(actions), said<Offer>(actions)[0].follows);
    return said<Offer>(actions)[0].follows;
  };
  TransferId first;
  TransferId second;
  TransferId third;
  EXPECT_EQ(follows(600, &first), 600u);
  EXPECT_EQ(follows(600, &second), 0u);
  EXPECT_EQ(follows(400, &third), 400u);
  bulk.on(Bulk::ReleaseCame{them, first}, start);
  EXPECT_EQ(follows(600, &first), 600u);
  bulk.on(Bulk::RefuseCame{them, {first, RefuseCode::full}}, start);
  EXPECT_EQ(follows(600, &first), 600u);
  bulk.on(Bulk::Cancel{first}, start);
  EXPECT_EQ(follows(600, &first), 600u);
}

TEST(BulkSender, SendsNoMoreAheadThanAWindowHoweverGenerousThePeer) {
  Bulk bulk({}, us, 1);
  bulk.on(Bulk::CreditCame{them, {~std::uint64_t{0}}}, start);
  std::vector<Bulk::Action> actions;
  std::uint64_t total = 0;
  for (int i = 0; i < 4; ++i) {
    offer(bulk, buffer_of(3 << 20), &actions);
    total += sent_bytes(actions);
  }
  EXPECT_LE(total, Bulk::Config().window_bytes);
  EXPECT_GE(total, std::uint64_t{3} << 20);
}

TEST(BulkSender, ServesOnlyWhomItOffered) {
  Bulk bulk({}, us, 1);
  const TransferId id = offer(bulk, buffer_of(1000));
  EXPECT_TRUE(bulk.on(Bulk::PullCame{others, {id, 0, 1000}}, start).empty());
  EXPECT_TRUE(bulk.on(Bulk::ReleaseCame{others, id}, start).empty());
  EXPECT_TRUE(bulk.on(Bulk::RefuseCame{others, {id, RefuseCode::full}}, start).empty());
  EXPECT_TRUE(bulk.on(Bulk::PullCame{them, {{us, 1, 99}, 0, 1000}}, start).empty());
  EXPECT_TRUE(bulk.on(Bulk::PullCame{them, {id, 1000, 2000}}, start).empty());  // nothing there
  EXPECT_EQ(sent_bytes(bulk.on(Bulk::PullCame{them, {id, 0, max_transfer_bytes}}, start)), 1000u);
}

TEST(BulkSender, APeerThatPullsForEverIsServedABoundedNumberOfTimes) {
  for (const std::size_t size : {std::size_t{1000}, std::size_t{4 * chunk}}) {
    for (const std::uint64_t step : {std::uint64_t{1}, std::uint64_t{size}}) {
      Bulk bulk({}, us, 1);
      const TransferId id = offer(bulk, buffer_of(size));
      std::uint64_t total = 0;
      bool over = false;
      for (int i = 0; i < 1000 && !over; ++i) {
        const auto actions = bulk.on(Bulk::PullCame{them, {id, 0, step}}, start);
        total += sent_bytes(actions);
        for (const auto& end : all<Bulk::SendEnded>(actions)) {
          EXPECT_EQ(end.why, Bulk::SendEnded::Why::expired);
          over = true;
        }
      }
      EXPECT_TRUE(over);
      EXPECT_LE(total, Bulk::Config().max_serve_factor * (size + chunk));
      EXPECT_EQ(bulk.next_deadline(), never);
    }
  }
}

TEST(BulkSender, APullerThatDawdlesCannotKeepABufferForEver) {
  Bulk bulk({}, us, 1);
  const TransferId id = offer(bulk, buffer_of(1 << 20));
  const Duration longest = Bulk::Config().keep_offered + 32s;  // 1 MiB at 32 KiB/s
  TimePoint now = start;
  while (bulk.next_deadline() != never && now < start + 1h) {
    now += 10s;
    bulk.on(Bulk::PullCame{them, {id, 0, 1}}, now);
    bulk.on(Bulk::Tick{}, now);
  }
  EXPECT_LE(now, start + longest + 10s);
}

TEST(BulkSender, RepeatsAnOfferThatNobodyAnswersThenKeepsItAWhileThenGivesUp) {
  Bulk bulk({}, us, 1);
  const TransferId id = offer(bulk, buffer_of(1000));
  std::vector<Duration> offers;
  std::optional<Duration> ended;
  while (bulk.next_deadline() != never) {
    const TimePoint now = bulk.next_deadline();
    const auto actions = bulk.on(Bulk::Tick{}, now);
    for (const auto& again : said<Offer>(actions)) {
      EXPECT_EQ(again.transfer, id);
      offers.push_back(now - start);
    }
    for (const auto& end : all<Bulk::SendEnded>(actions)) {
      EXPECT_EQ(end.why, Bulk::SendEnded::Why::expired);
      ended = now - start;
    }
  }
  EXPECT_EQ(offers, (std::vector<Duration>{2s, 5s, 9500ms}));  // 2 s, 3 s, 4.5 s
  EXPECT_EQ(ended, Duration(120s));
}

TEST(BulkSender, RepeatsTheOfferWhenAllIsSentAndNoReleaseComes) {
  Bulk bulk({}, us, 1);
  const TransferId id = offer(bulk, buffer_of(20'000));
  bulk.on(Bulk::PullCame{them, {id, 0, 10'000}}, start + 100ms);
  EXPECT_EQ(bulk.next_deadline(), start + 100ms + 120s);  // the receiver drives
  bulk.on(Bulk::PullCame{them, {id, 10'000, 20'000}}, start + 200ms);
  EXPECT_EQ(bulk.next_deadline(), start + 200ms + 2 * 100ms + 50ms);
  const auto actions = bulk.on(Bulk::Tick{}, bulk.next_deadline());
  EXPECT_EQ(said<Offer>(actions).size(), 1u);
}

TEST(BulkSender, TheOldestGivesWayWhenThereAreTooMany) {
  Bulk bulk({.max_outgoing = 3}, us, 1);
  const TransferId first = offer(bulk, buffer_of(10));
  offer(bulk, buffer_of(10));
  offer(bulk, buffer_of(10));
  std::vector<Bulk::Action> actions;
  offer(bulk, buffer_of(10), &actions);
  ASSERT_EQ(all<Bulk::SendEnded>(actions).size(), 1u);
  EXPECT_EQ(all<Bulk::SendEnded>(actions)[0].transfer, first);
}

// ---------------------------------------------------------------- receiving

TEST(BulkReceiver, ASmallBufferInsideTheCreditNeedsNoPull) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(1000), .follows = 1000};
  auto actions = bulk.on(Bulk::OfferCame{them, in.offer()}, start);
  ASSERT_EQ(all<Bulk::OfferAnnounced>(actions).size(), 1u);
  EXPECT_TRUE(bulk.on(Bulk::OfferTaken{them, in.offer()}, start).empty());
  actions = bulk.on(in.chunk_at(0), start);
  ASSERT_EQ(all<Bulk::Delivered>(actions).size(), 1u);
  EXPECT_EQ(*all<Bulk::Delivered>(actions)[0].buffer, *in.buffer);
  EXPECT_TRUE(all<Bulk::SendControl>(actions).empty());
  EXPECT_EQ(bulk.unpulled_bytes(them), 0u);
  EXPECT_EQ(bulk.receiving_bytes(), 0u);

  EXPECT_EQ(said<Accepted>(bulk.on(Bulk::Answered{them, in.id, 3s}, start)).size(), 1u);
  EXPECT_EQ(bulk.next_deadline(), never);
}

TEST(BulkReceiver, ChunksThatOvertakeTheirOfferAreKept) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(2 * chunk), .follows = 2 * chunk};
  EXPECT_TRUE(bulk.on(in.chunk_at(0), start).empty());
  EXPECT_TRUE(bulk.on(in.chunk_at(chunk), start).empty());
  EXPECT_EQ(bulk.unpulled_bytes(them), 2 * chunk);
  const auto actions = bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  ASSERT_EQ(all<Bulk::Delivered>(actions).size(), 1u);
  EXPECT_EQ(*all<Bulk::Delivered>(actions)[0].buffer, *in.buffer);
}

TEST(BulkReceiver, ChunksWithoutAnOfferStayWithinTheCreditAndGo) {
  Bulk::Config config;
  config.credit_bytes = 3 * chunk;
  Bulk bulk = receiver(config);
  Incoming in{.buffer = buffer_of(chunk)};
  for (std::uint64_t i = 0; i < 1000; ++i) {
    in.id.counter = i;
    EXPECT_TRUE(bulk.on(in.chunk_at(0), start).empty());
    EXPECT_LE(bulk.unpulled_bytes(them), config.credit_bytes);
  }
  EXPECT_EQ(bulk.receiving_bytes(), 3 * chunk);
  // Many small ones neither.
  const std::byte one{};
  for (std::uint64_t i = 0; i < 10'000; ++i) bulk.on(Bulk::ChunkCame{{{them, 8, i}, 0, ByteView(&one, 1)}}, start);
  EXPECT_LE(bulk.receiving_bytes(), config.credit_bytes);
  bulk.on(Bulk::Tick{}, start + config.keep_early);
  EXPECT_EQ(bulk.receiving_bytes(), 0u);
  EXPECT_EQ(bulk.next_deadline(), never);
}

TEST(BulkReceiver, AStrangerWithoutCreditStoresNothing) {
  Bulk bulk({}, us, 1);
  const Incoming in{.buffer = buffer_of(100)};
  bulk.on(in.chunk_at(0), start);
  EXPECT_EQ(bulk.receiving_bytes(), 0u);
}

TEST(BulkReceiver, PullsHalfAWindowAtATimeAndTheNextBeforeItRunsDry) {
  Bulk::Config config;
  config.window_bytes = 4 * chunk;
  Bulk bulk = receiver(config);
  const Incoming in{.buffer = buffer_of(8 * chunk)};
  auto pulls = said<Pull>(bulk.on(Bulk::OfferTaken{them, in.offer()}, start));
  ASSERT_EQ(pulls.size(), 2u);
  EXPECT_EQ(pulls[0].from, 0u);
  EXPECT_EQ(pulls[1].upto, 4 * chunk);
  std::uint64_t asked = 4 * chunk;
  for (std::uint64_t offset = 0; offset < 8 * chunk; offset += chunk) {
    const auto actions = bulk.on(in.chunk_at(offset), start);
    for (const auto& pull : said<Pull>(actions)) {
      EXPECT_EQ(pull.from, asked);
      asked = pull.upto;
    }
    EXPECT_LE(asked, offset + chunk + config.window_bytes);
    if (offset + chunk < 7 * chunk) {
      EXPECT_GT(asked, offset + chunk) << "the window ran dry";
    }
    EXPECT_EQ(all<Bulk::Delivered>(actions).size(), offset == 7 * chunk ? 1u : 0u);
  }
}

TEST(BulkReceiver, TakesNothingThatItDidNotAskFor) {
  Bulk::Config config;
  config.window_bytes = 2 * chunk;
  Bulk bulk = receiver(config);
  const Incoming in{.buffer = buffer_of(4 * chunk)};
  ASSERT_EQ(said<Pull>(bulk.on(Bulk::OfferTaken{them, in.offer()}, start)).back().upto, 2 * chunk);
  bulk.on(in.chunk_at(0), start);                               // asked for: [0, 3 chunks)
  EXPECT_TRUE(bulk.on(in.chunk_at(0), start).empty());          // twice
  EXPECT_TRUE(bulk.on(in.chunk_at(3 * chunk), start).empty());  // beyond
  bulk.on(in.chunk_at(chunk), start);
  bulk.on(in.chunk_at(2 * chunk), start);
  EXPECT_EQ(all<Bulk::Delivered>(bulk.on(in.chunk_at(3 * chunk), start)).size(), 1u);
}

TEST(BulkReceiver, PullsWhatTheSenderSentBeyondItsCredit) {
  Bulk::Config config;
  config.credit_bytes = chunk;
  Bulk bulk = receiver(config);
  const Incoming in{.buffer = buffer_of(3 * chunk), .follows = 3 * chunk};
  const auto actions = bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  ASSERT_EQ(said<Pull>(actions).size(), 1u);
  EXPECT_EQ(said<Pull>(actions)[0].from, chunk);
  EXPECT_EQ(bulk.unpulled_bytes(them), chunk);
}

TEST(BulkReceiver, PullsAgainFromTheLastByteThenGivesUp) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(4 * chunk)};
  bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  bulk.on(in.chunk_at(0), start + 100ms);  // a sample of 100 ms: the deadline is 250 ms
  std::vector<Duration> at;
  TimePoint now = start + 100ms;
  std::vector<Bulk::Action> actions;
  for (int i = 0; i < 3; ++i) {
    now = bulk.next_deadline();
    actions = bulk.on(Bulk::Tick{}, now);
    ASSERT_EQ(said<Pull>(actions).size(), 1u);
    EXPECT_EQ(said<Pull>(actions)[0].from, chunk);
    EXPECT_EQ(said<Pull>(actions)[0].upto, 4 * chunk);
    at.push_back(now - start);
  }
  EXPECT_EQ(at, (std::vector<Duration>{350ms, 725ms, 1287500us}));  // 250 ms, 375 ms, 562.5 ms
  actions = bulk.on(Bulk::Tick{}, bulk.next_deadline());
  ASSERT_EQ(all<Bulk::ReceiveFailed>(actions).size(), 1u);
  EXPECT_EQ(all<Bulk::ReceiveFailed>(actions)[0].why, Bulk::ReceiveFailed::Why::silent);
  ASSERT_EQ(said<Refuse>(actions).size(), 1u);
  EXPECT_EQ(said<Refuse>(actions)[0].code, RefuseCode::full);
  EXPECT_EQ(bulk.receiving_bytes(), 0u);
  EXPECT_EQ(bulk.next_deadline(), never);
}

TEST(BulkReceiver, AGapIsPulledAtOnceButOnlyOnce) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(6 * chunk)};
  bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  bulk.on(in.chunk_at(0), start);
  const auto pulls = said<Pull>(bulk.on(in.chunk_at(2 * chunk), start));  // chunk 1 is lost
  ASSERT_EQ(pulls.size(), 1u);
  EXPECT_EQ(pulls[0].from, chunk);
  EXPECT_TRUE(bulk.on(in.chunk_at(3 * chunk), start).empty());
  for (std::uint64_t i = 1; i < 6; ++i) {
    EXPECT_EQ(all<Bulk::Delivered>(bulk.on(in.chunk_at(i * chunk), start)).size(), i == 5 ? 1u : 0u);
  }
}

TEST(BulkReceiver, ASenderThatDribblesIsGivenUp) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(1 << 20)};
  bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  TimePoint now = start;
  std::uint64_t offset = 0;
  bool failed = false;
  while (!failed && now < start + 1h) {
    now += 1s;
    bulk.on(Bulk::ChunkCame{{in.id, offset, part(in.buffer, offset, 1)}}, now);
    ++offset;
    failed = !all<Bulk::ReceiveFailed>(bulk.on(Bulk::Tick{}, now)).empty();
  }
  EXPECT_TRUE(failed);
  EXPECT_LE(now, start + 120s + 33s);
}

TEST(BulkReceiver, DamagedBytesAreRefusedForGood) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(1000), .follows = 1000};
  Offer damaged = in.offer();
  damaged.hash[3] ^= std::byte{1};
  bulk.on(Bulk::OfferTaken{them, damaged}, start);
  auto actions = bulk.on(in.chunk_at(0), start);
  ASSERT_EQ(all<Bulk::ReceiveFailed>(actions).size(), 1u);
  EXPECT_EQ(all<Bulk::ReceiveFailed>(actions)[0].why, Bulk::ReceiveFailed::Why::bad_checksum);
  ASSERT_EQ(said<Refuse>(actions).size(), 1u);
  EXPECT_EQ(said<Refuse>(actions)[0].code, RefuseCode::malformed);
  actions = bulk.on(Bulk::OfferCame{them, damaged}, start);
  EXPECT_EQ(said<Refuse>(actions).size(), 1u);
  EXPECT_TRUE(all<Bulk::OfferAnnounced>(actions).empty());
}

TEST(BulkReceiver, ARepeatedOfferGetsTheSameAnswerAgain) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(10), .follows = 10};
  const auto again = [&](Duration after) { return bulk.on(Bulk::OfferCame{them, in.offer()}, start + after); };
  EXPECT_EQ(all<Bulk::OfferAnnounced>(again(0s)).size(), 1u);
  bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  EXPECT_TRUE(again(0s).empty());  // its bytes are under way
  bulk.on(in.chunk_at(0), start);
  EXPECT_TRUE(again(0s).empty());  // delivered; the worker has not spoken
  bulk.on(Bulk::Answered{them, in.id, 3s}, start);
  const auto accepted = said<Accepted>(again(1s));
  ASSERT_EQ(accepted.size(), 1u);
  EXPECT_EQ(accepted[0].eta, Duration(2s));
  EXPECT_EQ(said<Accepted>(again(10s))[0].eta, Duration(0));

  const Incoming other{.id = {them, 7, 2}, .buffer = buffer_of(10), .follows = 10};
  bulk.on(Bulk::OfferTaken{them, other.offer()}, start);
  bulk.on(other.chunk_at(0), start);
  EXPECT_EQ(said<Release>(bulk.on(Bulk::Answered{them, other.id, {}}, start)).size(), 1u);
  EXPECT_EQ(said<Release>(bulk.on(Bulk::OfferCame{them, other.offer()}, start)).size(), 1u);
}

TEST(BulkReceiver, WhatIsRememberedIsBoundedPerPeer) {
  Bulk bulk = receiver({.remembered_per_peer = 4});
  bulk.on(Bulk::PeerUp{others}, start);
  const TransferId mine{others, 1, 1};
  bulk.on(Bulk::OfferRefused{others, mine, RefuseCode::done}, start);
  for (std::uint64_t i = 0; i < 100; ++i) bulk.on(Bulk::OfferRefused{them, {them, 1, i}, RefuseCode::done}, start);
  const auto repeated = [&](const TransferId& id) {
    return said<Refuse>(bulk.on(Bulk::OfferCame{id.sender, {id, BackupPart{}, 5, {}, 0}}, start)).size();
  };
  EXPECT_EQ(repeated({them, 1, 95}), 0u);
  EXPECT_EQ(repeated({them, 1, 96}), 1u);
  EXPECT_EQ(repeated(mine), 1u);  // one peer does not push out what another is owed
}

TEST(BulkReceiver, ARefusalReturnsTheCreditAndLateChunksAreDropped) {
  Bulk::Config config;
  config.credit_bytes = chunk;
  Bulk bulk = receiver(config);
  const Incoming in{.buffer = buffer_of(chunk), .follows = chunk};
  bulk.on(in.chunk_at(0), start);
  EXPECT_EQ(bulk.unpulled_bytes(them), chunk);
  EXPECT_EQ(said<Refuse>(bulk.on(Bulk::OfferRefused{them, in.id, RefuseCode::full}, start)).size(), 1u);
  EXPECT_EQ(bulk.unpulled_bytes(them), 0u);
  bulk.on(in.chunk_at(0), start);
  EXPECT_EQ(bulk.receiving_bytes(), 0u);

  // Refused in the middle.
  const Incoming other{.id = {them, 7, 2}, .buffer = buffer_of(3 * chunk), .follows = chunk};
  bulk.on(Bulk::OfferTaken{them, other.offer()}, start);
  bulk.on(other.chunk_at(0), start);
  EXPECT_EQ(said<Refuse>(bulk.on(Bulk::OfferRefused{them, other.id, RefuseCode::stale}, start)).size(), 1u);
  EXPECT_EQ(bulk.unpulled_bytes(them), 0u);
  EXPECT_EQ(bulk.next_deadline(), never);
}

TEST(BulkReceiver, TooManyAtOnceAreRefusedAsFull) {
  Bulk bulk = receiver({.max_incoming = 3, .max_incoming_per_peer = 2});
  const auto full = [&](const NodeId& from, std::uint64_t counter) {
    const Incoming in{.id = {from, 1, counter}, .buffer = buffer_of(10)};
    const auto actions = bulk.on(Bulk::OfferTaken{from, in.offer()}, start);
    const auto failed = all<Bulk::ReceiveFailed>(actions);
    EXPECT_EQ(said<Refuse>(actions).size(), failed.size());
    return !failed.empty() && failed[0].why == Bulk::ReceiveFailed::Why::full;
  };
  EXPECT_FALSE(full(them, 1));
  EXPECT_FALSE(full(them, 2));
  EXPECT_TRUE(full(them, 3));
  EXPECT_FALSE(full(others, 1));
  EXPECT_TRUE(full(others, 2));
}

TEST(BulkReceiver, TheMostUrgentIsPulledFirstAndEqualsTakeTurns) {
  Bulk::Config config;
  config.window_bytes = 2 * chunk;
  Bulk bulk = receiver(config);
  std::map<std::uint64_t, Incoming> transfers;
  const auto take = [&](std::uint64_t counter, About about, std::uint64_t chunks) {
    const Incoming in{.id = {them, 1, counter}, .buffer = buffer_of(chunks * chunk)};
    transfers[counter] = in;
    Offer offer = in.offer();
    offer.about = std::move(about);
    return bulk.on(Bulk::OfferTaken{them, offer}, start);
  };
  std::vector<std::uint64_t> order;
  std::map<std::uint64_t, std::uint64_t> next;
  std::vector<Pull> waiting;
  const auto note = [&](const std::vector<Bulk::Action>& actions) {
    for (const auto& pull : said<Pull>(actions)) {
      order.push_back(pull.transfer.counter);
      waiting.push_back(pull);
    }
  };
  note(take(1, StatePart{}, 4));
  note(take(2, StatePart{}, 4));
  note(take(3, MicrobatchHeader{}, 2));
  while (!waiting.empty()) {
    const Pull pull = waiting.front();
    waiting.erase(waiting.begin());
    ASSERT_EQ(pull.upto - pull.from, chunk);
    note(bulk.on(transfers[pull.transfer.counter].chunk_at(pull.from), start));
  }
  // One is asked for twice before the others are there; then the microbatch, then the states by turns.
  EXPECT_EQ(order, (std::vector<std::uint64_t>{1, 1, 3, 3, 1, 2, 1, 2, 2, 2}));
}

TEST(BulkReceiver, HoweverOneEndsTheNextIsPulled) {
  Bulk::Config config;
  config.window_bytes = 2 * chunk;
  const auto in = [](std::uint64_t counter) { return Incoming{.id = {them, 1, counter}, .buffer = buffer_of(chunk)}; };
  for (const int end : {0, 1, 2}) {
    Bulk bulk = receiver(config);
    bulk.on(Bulk::OfferTaken{them, in(1).offer()}, start);
    bulk.on(Bulk::OfferTaken{them, in(2).offer()}, start + 1ms);
    EXPECT_TRUE(said<Pull>(bulk.on(Bulk::OfferTaken{them, in(3).offer()}, start)).empty());
    std::vector<Pull> pulls;
    if (end == 0) pulls = said<Pull>(bulk.on(in(1).chunk_at(0), start));
    if (end == 1) pulls = said<Pull>(bulk.on(Bulk::OfferRefused{them, in(1).id, RefuseCode::stale}, start));
    while (end == 2 && pulls.empty() && bulk.next_deadline() != never) {  // nothing ever comes
      for (const auto& pull : said<Pull>(bulk.on(Bulk::Tick{}, bulk.next_deadline()))) {
        if (pull.transfer.counter == 3) pulls.push_back(pull);
      }
    }
    ASSERT_EQ(pulls.size(), 1u) << end;
    EXPECT_EQ(pulls[0].transfer.counter, 3u);
  }
}

// ---------------------------------------------------------------- peers and time

TEST(BulkPeers, LevelsStayWithinTheTotalHoweverMany) {
  Bulk::Config config;
  config.credit_bytes = 1 << 20;
  config.total_credit_bytes = 8 << 20;
  Bulk bulk(config, us, 1);
  std::map<NodeId, std::uint64_t> levels;
  const auto note = [&](const std::vector<Bulk::Action>& actions) {
    for (const auto& send : all<Bulk::SendControl>(actions)) levels[send.to] = std::get<Credit>(send.message).bytes;
    std::uint64_t total = 0;
    for (const auto& [peer, level] : levels) total += level;
    EXPECT_LE(total, config.total_credit_bytes);
  };
  for (unsigned char i = 10; i < 110; ++i) note(bulk.on(Bulk::PeerUp{id_of(i)}, start));
  ASSERT_EQ(levels.size(), 100u);
  for (const auto& [peer, level] : levels) EXPECT_EQ(level, config.total_credit_bytes / 128);
  for (unsigned char i = 12; i < 110; ++i) {
    const auto actions = bulk.on(Bulk::PeerDown{id_of(i)}, start);
    levels.erase(id_of(i));
    note(actions);
  }
  for (const auto& [peer, level] : levels) EXPECT_EQ(level, config.credit_bytes);
}

TEST(BulkPeers, ASenderThatDoesNotKnowItsCreditIsToldAgain) {
  Bulk bulk = receiver();
  Incoming in{.buffer = buffer_of(1000), .follows = 0};
  EXPECT_EQ(said<Credit>(bulk.on(Bulk::OfferTaken{them, in.offer()}, start)).size(), 1u);
  in.id.counter = 2;
  in.follows = 1000;
  EXPECT_TRUE(said<Credit>(bulk.on(Bulk::OfferTaken{them, in.offer()}, start)).empty());
  in.id.counter = 3;
  in.follows = 0;  // it may think that its credit is used up
  EXPECT_TRUE(said<Credit>(bulk.on(Bulk::OfferTaken{them, in.offer()}, start)).empty());
}

TEST(BulkPeers, DownEndsEverythingWithThatPeerAndNothingElse) {
  Bulk bulk = receiver();
  bulk.on(Bulk::PeerUp{others}, start);
  bulk.on(Bulk::CreditCame{them, {1000}}, start);
  const Incoming early{.id = {them, 1, 1}, .buffer = buffer_of(10)};
  const Incoming taken{.id = {them, 1, 2}, .buffer = buffer_of(10)};
  const Incoming kept{.id = {others, 1, 1}, .buffer = buffer_of(10)};
  bulk.on(early.chunk_at(0), start);
  bulk.on(Bulk::OfferTaken{them, taken.offer()}, start);
  bulk.on(Bulk::OfferTaken{others, kept.offer()}, start);
  const TransferId sent = offer(bulk, buffer_of(500));
  const auto actions = bulk.on(Bulk::PeerDown{them}, start);
  ASSERT_EQ(all<Bulk::ReceiveFailed>(actions).size(), 1u);
  EXPECT_EQ(all<Bulk::ReceiveFailed>(actions)[0].offer.transfer, taken.id);
  EXPECT_EQ(all<Bulk::ReceiveFailed>(actions)[0].why, Bulk::ReceiveFailed::Why::gone);
  ASSERT_EQ(all<Bulk::SendEnded>(actions).size(), 1u);
  EXPECT_EQ(all<Bulk::SendEnded>(actions)[0].transfer, sent);
  EXPECT_EQ(all<Bulk::SendEnded>(actions)[0].why, Bulk::SendEnded::Why::gone);
  EXPECT_TRUE(all<Bulk::SendControl>(actions).empty());  // nobody talks to the dead
  EXPECT_EQ(bulk.receiving_bytes(), 10u);
  EXPECT_EQ(all<Bulk::Delivered>(bulk.on(kept.chunk_at(0), start)).size(), 1u);
  EXPECT_EQ(bulk.next_deadline(), never);
  // Back with a new boot: the credit that it gave the old one is forgotten.
  bulk.on(Bulk::PeerUp{them}, start);
  std::vector<Bulk::Action> again;
  offer(bulk, buffer_of(500), &again);
  EXPECT_EQ(said<Offer>(again)[0].follows, 0u);
}

TEST(BulkTime, ALoopThatSleptMovesEveryDeadline) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(1000)};
  const Incoming early{.id = {them, 1, 2}, .buffer = buffer_of(10)};
  bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  bulk.on(early.chunk_at(0), start);
  offer(bulk, buffer_of(1000));
  ASSERT_EQ(bulk.next_deadline(), start + 2s);
  bulk.on(Bulk::WokeLate{1h}, start + 1h);
  EXPECT_EQ(bulk.next_deadline(), start + 1h + 2s);
  EXPECT_TRUE(bulk.on(Bulk::Tick{}, start + 1h).empty());
  EXPECT_EQ(bulk.receiving_bytes(), 1010u);
  EXPECT_EQ(bulk.on(Bulk::Tick{}, start + 1h + 2s).size(), 2u);  // a Pull and an Offer again
}

TEST(BulkTime, ManyTransfersThatRunOutTogetherAreOneTimeOut) {
  Bulk bulk({}, us, 1);
  for (int i = 0; i < 20; ++i) offer(bulk, buffer_of(10));
  bulk.on(Bulk::Tick{}, start + 2s);
  EXPECT_EQ(bulk.next_deadline(), start + 2s + 3s);
}

TEST(Bulk, AnEmptyBufferIsDeliveredWithItsOffer) {
  Bulk bulk = receiver();
  const Incoming in{.buffer = buffer_of(0)};
  const auto actions = bulk.on(Bulk::OfferTaken{them, in.offer()}, start);
  ASSERT_EQ(all<Bulk::Delivered>(actions).size(), 1u);
  EXPECT_TRUE(all<Bulk::Delivered>(actions)[0].buffer->empty());
}

}  // namespace
}  // namespace starling::net
