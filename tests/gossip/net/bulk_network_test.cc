// Several Bulks over a seeded network that loses, doubles, delays and reorders frames of both lanes, in virtual time and
// through the real codec. Whatever happens, each buffer arrives once and whole, or both sides learn that it did not.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>

#include "gossip/base/random.h"
#include "gossip/net/bulk.h"

namespace starling::net {
namespace {

using namespace std::chrono_literals;

struct Network {
  double loss = 0.0;
  double duplicate = 0.0;
  Duration latency = 20ms;
  Duration jitter{};
  enum class Order { kept, lost } order = Order::kept;  // on a lane
};

NodeId id_of(std::size_t node) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(node + 1);
  return id;
}
std::size_t node_of(const NodeId& id) { return std::to_integer<std::size_t>(id.key[0]) - 1; }

// How a transfer ended, on either side.
struct Outcome {
  NodeId to;
  Buffer buffer;
  int delivered = 0;
  int taken = 0;
  int receive_failed = 0;
  int send_ended = 0;
  bool released = false;
  TimePoint offered_at{};
  TimePoint delivered_at{};
  TimePoint over_at{};  // the last of these
};

class World {
 public:
  World(std::size_t nodes, Bulk::Config config, Network network, std::uint64_t seed)
      : config_(config), network_(network), random_(seed) {
    for (std::size_t i = 0; i < nodes; ++i) bulks_.push_back(std::make_unique<Bulk>(config, id_of(i), 1));
    for (std::size_t i = 0; i < nodes; ++i) {
      for (std::size_t j = 0; j < nodes; ++j) {
        if (i != j) feed(i, Bulk::PeerUp{id_of(j)});
      }
    }
  }

  TransferId offer(std::size_t from, std::size_t to, std::size_t size) {
    const TransferId id = bulks_[from]->next_transfer();
    Bytes bytes(size);
    Stream content(id.counter * 1000 + from);
    for (std::size_t i = 0; i < size; i += 64) bytes[i] = static_cast<std::byte>(content.next());
    Outcome& outcome = outcomes[id];
    outcome.to = id_of(to);
    outcome.buffer = std::make_shared<const Bytes>(std::move(bytes));
    outcome.offered_at = now;
    feed(from, Bulk::OfferBuffer{id_of(to), id, BackupPart{}, outcome.buffer, xxh3_128(*outcome.buffer)});
    return id;
  }

  void feed(std::size_t node, const Bulk::Event& event) {
    for (const auto& action : bulks_[node]->on(event, now)) {
      std::visit([&](const auto& a) { carry_out(node, a); }, action);
    }
    for (std::size_t peer = 0; peer < bulks_.size(); ++peer) {
      EXPECT_LE(bulks_[node]->unpulled_bytes(id_of(peer)), config_.credit_bytes);
    }
  }

  // Runs until nobody waits for anything. Every wait owns a timer, so this ends.
  void run() {
    while (run_one()) ASSERT_LT(++steps_, 1'000'000);
  }
  void run_until(TimePoint until) {
    while (next() <= until && run_one()) ASSERT_LT(++steps_, 1'000'000);
    now = until;
  }

  bool refuse_all = false;
  bool cut = false;  // every frame from now on is lost
  TimePoint now{};
  std::map<TransferId, Outcome> outcomes;
  std::map<std::string, int> said;  // messages by kind
  std::string log;

 private:
  struct Frame {
    TimePoint at;
    std::uint64_t sequence;
    std::size_t from;
    std::size_t to;
    Lane lane;
    std::shared_ptr<Bytes> bytes;
    bool operator>(const Frame& other) const { return std::tie(at, sequence) > std::tie(other.at, other.sequence); }
  };

  TimePoint next() const {
    TimePoint at = frames_.empty() ? never : frames_.top().at;
    for (const auto& bulk : bulks_) at = earliest(at, bulk->next_deadline());
    return at;
  }

  bool run_one() {
    const TimePoint at = next();
    if (at == never) return false;
    now = std::max(now, at);
    if (!frames_.empty() && frames_.top().at <= now) {
      const Frame frame = frames_.top();
      frames_.pop();
      deliver(frame);
      return true;
    }
    for (std::size_t i = 0; i < bulks_.size(); ++i) {
      if (bulks_[i]->next_deadline() > now) continue;
      feed(i, Bulk::Tick{});
      EXPECT_GT(bulks_[i]->next_deadline(), now);
    }
    return true;
  }

  void transmit(std::size_t from, std::size_t to, Lane lane, Bytes bytes) {
    const auto shared = std::make_shared<Bytes>(std::move(bytes));
    const int copies = random_.uniform() < network_.duplicate ? 2 : 1;
    for (int i = 0; i < copies; ++i) {
      if (cut || random_.uniform() < network_.loss) continue;
      TimePoint at = now + network_.latency + scale(network_.jitter, random_.uniform());
      TimePoint& last = last_[{from, to, lane}];
      if (network_.order == Network::Order::kept) at = last = std::max(last, at);
      frames_.push({at, ++sequence_, from, to, lane, shared});
    }
  }

  void deliver(const Frame& frame) {
    const NodeId from = id_of(frame.from);
    if (frame.lane == Lane::bulk) {
      const auto chunk = decode_chunk(*frame.bytes, from);
      ASSERT_TRUE(chunk);
      return feed(frame.to, Bulk::ChunkCame{*chunk});
    }
    const auto message = decode(*frame.bytes, from, id_of(frame.to));
    ASSERT_TRUE(message) << message.error().message;
    const auto release = [&](const TransferId& id) {
      outcomes.at(id).released = true;
      outcomes.at(id).over_at = now;
      feed(frame.to, Bulk::ReleaseCame{from, id});
    };
    if (const auto* m = std::get_if<Offer>(&*message)) feed(frame.to, Bulk::OfferCame{from, *m});
    if (const auto* m = std::get_if<Pull>(&*message)) feed(frame.to, Bulk::PullCame{from, *m});
    if (const auto* m = std::get_if<Release>(&*message)) release(m->transfer);
    if (const auto* m = std::get_if<Accepted>(&*message)) release(m->transfer);
    if (const auto* m = std::get_if<Refuse>(&*message)) feed(frame.to, Bulk::RefuseCame{from, *m});
    if (const auto* m = std::get_if<Credit>(&*message)) feed(frame.to, Bulk::CreditCame{from, *m});
  }

  void note(std::size_t node, const char* what, const TransferId& id) {
    log += std::to_string(now.time_since_epoch().count()) + ' ' + std::to_string(node) + ' ' + what + ' ' +
           std::to_string(id.counter) + '\n';
  }

  void carry_out(std::size_t node, const Bulk::SendControl& action) {
    const char* kind = std::visit(
        [](const auto& m) {
          using M = std::decay_t<decltype(m)>;
          if constexpr (std::is_same_v<M, Offer>) return "offer";
          if constexpr (std::is_same_v<M, Pull>) return "pull";
          if constexpr (std::is_same_v<M, Credit>) return "credit";
          return "answer";
        },
        action.message);
    ++said[kind];
    note(node, kind, {});
    transmit(node, node_of(action.to), Lane::control, encode(action.message));
  }
  void carry_out(std::size_t node, const Bulk::SendChunk& action) {
    note(node, "chunk", action.transfer);
    transmit(
        node, node_of(action.to), Lane::bulk,
        encode_chunk(action.transfer, action.offset, ByteView(*action.buffer).subspan(action.offset, action.bytes)));
  }
  void carry_out(std::size_t node, const Bulk::OfferAnnounced& action) {
    if (refuse_all) return feed(node, Bulk::OfferRefused{action.from, action.offer.transfer, RefuseCode::full});
    ++outcomes.at(action.offer.transfer).taken;
    feed(node, Bulk::OfferTaken{action.from, action.offer});
  }
  void carry_out(std::size_t node, const Bulk::Delivered& action) {
    note(node, "delivered", action.offer.transfer);
    Outcome& outcome = outcomes.at(action.offer.transfer);
    ++outcome.delivered;
    outcome.delivered_at = outcome.over_at = now;
    EXPECT_EQ(*action.buffer, *outcome.buffer);
    std::optional<Duration> eta;
    if (action.offer.transfer.counter % 2 == 0) eta = 1s;
    feed(node, Bulk::Answered{action.from, action.offer.transfer, eta});
  }
  void carry_out(std::size_t node, const Bulk::ReceiveFailed& action) {
    note(node, "failed", action.offer.transfer);
    ++outcomes.at(action.offer.transfer).receive_failed;
    outcomes.at(action.offer.transfer).over_at = now;
  }
  void carry_out(std::size_t node, const Bulk::SendEnded& action) {
    note(node, "ended", action.transfer);
    ++outcomes.at(action.transfer).send_ended;
    outcomes.at(action.transfer).over_at = now;
  }

  Bulk::Config config_;
  Network network_;
  Stream random_;
  std::vector<std::unique_ptr<Bulk>> bulks_;
  std::priority_queue<Frame, std::vector<Frame>, std::greater<>> frames_;
  std::map<std::tuple<std::size_t, std::size_t, Lane>, TimePoint> last_;
  std::uint64_t sequence_ = 0;
  int steps_ = 0;
};

Bulk::Config small_windows() {
  Bulk::Config config;
  config.credit_bytes = 300 << 10;
  config.window_bytes = 1 << 20;
  return config;
}

// A busy minute of `nodes` nodes: buffers of all sizes to random peers.
void offer_at_random(World& world, std::size_t nodes, int transfers, std::uint64_t seed) {
  Stream random(seed);
  for (int i = 0; i < transfers; ++i) {
    const std::size_t from = random.below(nodes);
    const std::size_t to = (from + 1 + random.below(nodes - 1)) % nodes;
    static constexpr std::uint64_t sizes[] = {0, 1, 20'000, 250'000, 700'000, 3'000'000};
    world.offer(from, to, random.below(sizes[random.below(6)] + 1));
    world.run_until(world.now + Duration(random.below(200'000'000)));
  }
  world.run();
}

TEST(BulkNetwork, OverACleanNetworkEveryBufferArrivesOnce) {
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    World world(4, small_windows(), {.duplicate = 0.1, .jitter = 60ms}, seed);
    offer_at_random(world, 4, 40, seed);
    for (const auto& [id, outcome] : world.outcomes) {
      EXPECT_EQ(outcome.delivered, 1) << to_string(id);
      EXPECT_TRUE(outcome.released);
      EXPECT_EQ(outcome.send_ended + outcome.receive_failed, 0);
      EXPECT_LT(outcome.delivered_at - outcome.offered_at, 10s);
    }
  }
}

TEST(BulkNetwork, WhateverTheNetworkDoesBothSidesComeToAnEnd) {
  int delivered = 0;
  int all = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Network network{.loss = static_cast<double>(seed % 4) * 0.08,
                          .duplicate = static_cast<double>(seed % 3) * 0.2,
                          .latency = 10ms,
                          .jitter = Duration(static_cast<std::int64_t>(seed % 5) * 50'000'000),
                          .order = seed % 2 == 0 ? Network::Order::kept : Network::Order::lost};
    World world(3, small_windows(), network, seed);
    offer_at_random(world, 3, 25, seed);
    for (const auto& [id, outcome] : world.outcomes) {
      ++all;
      delivered += outcome.delivered;
      EXPECT_LE(outcome.delivered, 1);
      // The receiver: each time it took it, it got it or said that it did not.
      EXPECT_EQ(outcome.taken, outcome.delivered + outcome.receive_failed) << to_string(id) << " seed " << seed;
      // The sender: released, or told once that it is over; released only what arrived.
      EXPECT_EQ(outcome.send_ended, outcome.released ? 0 : 1) << to_string(id) << " seed " << seed;
      EXPECT_LE(outcome.released, outcome.delivered == 1);
      EXPECT_LT(outcome.over_at - outcome.offered_at, 120s + 100s);
    }
  }
  EXPECT_GT(delivered, all * 9 / 10);
}

TEST(BulkNetwork, OneSeedGivesOneLog) {
  const auto log = [](std::uint64_t seed) {
    World world(3, small_windows(), {.loss = 0.1, .duplicate = 0.1, .jitter = 30ms}, seed);
    offer_at_random(world, 3, 20, 5);
    return world.log;
  };
  EXPECT_EQ(log(1), log(1));
  EXPECT_NE(log(1), log(2));
}

TEST(BulkNetwork, ASmallBufferTakesOneWayAndABigOneDoesNotStopAndGo) {
  World world(2, {}, {.latency = 100ms}, 1);
  world.run();  // the credits are known
  const TransferId small = world.offer(0, 1, 500'000);
  world.run();
  EXPECT_EQ(world.outcomes.at(small).delivered_at - world.outcomes.at(small).offered_at, Duration(100ms));
  EXPECT_EQ(world.said["pull"], 0);

  // 40 MB in halves of a 4 MiB window over a round trip of 200 ms: a half may come every 100 ms, not every 200.
  const TransferId big = world.offer(0, 1, 40'000'000);
  world.run();
  const Duration took = world.outcomes.at(big).delivered_at - world.outcomes.at(big).offered_at;
  EXPECT_LE(took, 100ms + 200ms * 11);
  EXPECT_GE(took, 100ms + 200ms * 8);
}

TEST(BulkNetwork, WithoutCreditItTakesThreeWays) {
  Bulk::Config config;
  config.credit_bytes = 0;
  World world(2, config, {.latency = 100ms}, 1);
  const TransferId id = world.offer(0, 1, 500'000);
  world.run();
  EXPECT_EQ(world.outcomes.at(id).delivered_at - world.outcomes.at(id).offered_at, Duration(300ms));
}

TEST(BulkNetwork, ARefusalEndsIt) {
  World world(2, {}, {}, 1);
  world.run();
  world.refuse_all = true;
  const TransferId id = world.offer(0, 1, 500'000);
  world.run();
  EXPECT_EQ(world.outcomes.at(id).send_ended, 1);
  EXPECT_EQ(world.outcomes.at(id).delivered, 0);
  EXPECT_LT(world.now, TimePoint(1s));
  // Its credit is back: the next one needs one way again.
  world.refuse_all = false;
  const TransferId next = world.offer(0, 1, 1 << 20);
  world.run();
  EXPECT_EQ(world.outcomes.at(next).delivered_at - world.outcomes.at(next).offered_at, Duration(20ms));
}

TEST(BulkNetwork, ACutInTheMiddleEndsBothSidesInTime) {
  World world(2, small_windows(), {}, 1);
  world.run();
  const TransferId id = world.offer(0, 1, 3'000'000);
  world.run_until(world.now + 50ms);
  world.cut = true;
  const TimePoint cut_at = world.now;
  world.run();
  const Outcome& outcome = world.outcomes.at(id);
  EXPECT_EQ(outcome.taken, 1);
  EXPECT_EQ(outcome.receive_failed, 1);
  EXPECT_EQ(outcome.send_ended, 1);
  EXPECT_LE(outcome.over_at - cut_at, Duration(120s));
}

TEST(BulkNetwork, ACutThatHealsInTimeCostsNoByteTwiceThatWasThere) {
  World world(2, small_windows(), {}, 1);
  world.run();
  const TransferId id = world.offer(0, 1, 3'000'000);
  world.run_until(world.now + 90ms);
  world.cut = true;
  world.run_until(world.now + 100ms);
  world.cut = false;
  world.run();
  EXPECT_EQ(world.outcomes.at(id).delivered, 1);
  // 3 MB are 12 chunks; what the cut took is at most one window, 5 chunks.
  EXPECT_LE(std::count(world.log.begin(), world.log.end(), '\n'), 100);
  std::size_t chunks = 0;
  for (std::size_t at = world.log.find("chunk"); at != std::string::npos; at = world.log.find("chunk", at + 1))
    ++chunks;
  EXPECT_LE(chunks, 12u + 6u);
}

TEST(BulkNetwork, ACancelledBufferFailsAtTheReceiverAndFreesTheSender) {
  World world(2, small_windows(), {}, 1);
  world.run();
  const TransferId id = world.offer(0, 1, 3'000'000);
  world.run_until(world.now + 50ms);
  world.feed(0, Bulk::Cancel{id});
  world.run();
  EXPECT_EQ(world.outcomes.at(id).delivered, 0);
  EXPECT_EQ(world.outcomes.at(id).receive_failed, 1);
  EXPECT_EQ(world.outcomes.at(id).send_ended, 0);  // the caller knows
  const TransferId next = world.offer(0, 1, 200'000);
  world.run();
  EXPECT_EQ(world.outcomes.at(next).delivered_at - world.outcomes.at(next).offered_at, Duration(20ms));
}

}  // namespace
}  // namespace starling::net
