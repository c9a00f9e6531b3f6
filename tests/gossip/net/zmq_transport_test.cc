// The conformance suite on real sockets, and what only real sockets can do: ports, other runs, dead peers.
#include "gossip/net/zmq_transport.h"

#include <gtest/gtest.h>

#include <chrono>

#include "gossip/base/real_env.h"
#include "gossip/net/address.h"
#include "tests/gossip/net/transport_conformance.h"

namespace starling::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

ZmqTransport::Config local_config() {
  ZmqTransport::Config config;
  config.network.listen = "tcp://127.0.0.1:0";
  config.network.listen_is_default = false;
  config.redial_after_refusal = milliseconds(300);
  return config;
}

class ZmqWorld final : public TransportWorld {
 public:
  explicit ZmqWorld(std::size_t nodes, ZmqTransport::Config config = local_config()) {
    for (std::size_t i = 0; i < nodes; ++i) {
      keys_.push_back(NodeKey::generate());
      auto transport = ZmqTransport::open(config, keys_.back(), lobby_key_, clock_);
      STARLING_CHECK(transport, "a test's transport opens");
      transports_.push_back(std::move(*transport));
    }
  }
  NodeId id(std::size_t node) const override { return keys_[node].id(); }
  ZmqTransport& transport(std::size_t node) override { return *transports_[node]; }
  std::vector<std::vector<TransportEvent>> step() override {
    std::vector<std::vector<TransportEvent>> out;
    for (auto& transport : transports_) out.push_back(transport->poll(milliseconds(5)));
    return out;
  }
  std::size_t queue_bound(Lane) const override { return local_config().queue_frames; }

  const CurveKeyPair& lobby_key() const { return lobby_key_; }
  const Clock& clock() const { return clock_; }

 private:
  RealClock clock_;
  CurveKeyPair lobby_key_ = CurveKeyPair::generate();
  std::vector<NodeKey> keys_;
  std::vector<std::unique_ptr<ZmqTransport>> transports_;
};

INSTANTIATE_TEST_SUITE_P(Zmq, TransportConformance, testing::Values(TransportWorld::Maker([](std::size_t nodes) {
                           return std::make_unique<ZmqWorld>(nodes);
                         })));

TEST(ZmqTransport, TakesThreePortsInARow) {
  ZmqTransport::Config config = local_config();
  config.network.listen = "tcp://127.0.0.1:28211";
  const ZmqWorld world(0);
  const auto transport = ZmqTransport::open(config, NodeKey::generate(), world.lobby_key(), world.clock());
  ASSERT_TRUE(transport) << transport.error().message;
  EXPECT_EQ((*transport)->bound(),
            (Endpoints{"tcp://127.0.0.1:28211", "tcp://127.0.0.1:28212", "tcp://127.0.0.1:28213"}));
}

TEST(ZmqTransport, ATakenPortOfTheUserIsAnErrorAndADefaultOneMovesOn) {
  const ZmqWorld world(0);
  ZmqTransport::Config config = local_config();
  config.network.listen = "tcp://127.0.0.1:28221";
  const auto first = ZmqTransport::open(config, NodeKey::generate(), world.lobby_key(), world.clock());
  ASSERT_TRUE(first) << first.error().message;
  config.network.listen = "tcp://127.0.0.1:28220";  // its second port is taken
  const auto second = ZmqTransport::open(config, NodeKey::generate(), world.lobby_key(), world.clock());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::bad_config);
  EXPECT_NE(second.error().message.find("28221"), std::string::npos) << second.error().message;
  config.network.listen_is_default = true;
  const auto moved = ZmqTransport::open(config, NodeKey::generate(), world.lobby_key(), world.clock());
  ASSERT_TRUE(moved) << moved.error().message;
  EXPECT_NE((*moved)->bound().control, "tcp://127.0.0.1:28220");
}

TEST(ZmqTransport, AnAddressThatThisMachineDoesNotHaveIsAnError) {
  const ZmqWorld world(0);
  ZmqTransport::Config config = local_config();
  config.network.listen = "tcp://192.0.2.55:0";
  const auto transport = ZmqTransport::open(config, NodeKey::generate(), world.lobby_key(), world.clock());
  ASSERT_FALSE(transport);
  EXPECT_EQ(transport.error().code, ErrorCode::bad_config);
}

TEST(ZmqTransport, APeerThatComesBackIsConnectedAgain) {
  ZmqTransport::Config config = local_config();
  config.network.listen = "tcp://127.0.0.1:28241";
  const ZmqWorld world(0);
  const NodeKey key = NodeKey::generate();
  const NodeKey peer_key = NodeKey::generate();
  auto sender = ZmqTransport::open(local_config(), key, world.lobby_key(), world.clock());
  ASSERT_TRUE(sender);
  std::size_t connected = 0;
  for (const std::string life : {"first", "second"}) {
    auto peer = ZmqTransport::open(config, peer_key, world.lobby_key(), world.clock());
    ASSERT_TRUE(peer) << peer.error().message;
    (*peer)->admit(key.id());
    (*sender)->set_endpoints(peer_key.id(), (*peer)->bound());
    std::string got;
    for (int i = 0; i < 600 && got.empty(); ++i) {
      (*sender)->send(peer_key.id(), Lane::control, Bytes(as_bytes(life).begin(), as_bytes(life).end()));
      for (const auto& event : (*sender)->poll(milliseconds(5)))
        connected += std::holds_alternative<PeerConnected>(event);
      for (const auto& event : (*peer)->poll(milliseconds(5))) {
        if (const auto* frame = std::get_if<Received>(&event)) got = as_text(frame->frame);
      }
    }
    EXPECT_EQ(got, life);
    peer->reset();
    for (int i = 0; i < 20; ++i) (*sender)->poll(milliseconds(5));
  }
  EXPECT_EQ(connected, 2u);
}

TEST(ZmqTransport, WakeEndsAPollFromAnyCall) {
  ZmqWorld world(1);
  world.transport(0).wake();
  const TimePoint before = world.clock().now();
  world.transport(0).poll(seconds(20));
  EXPECT_LT(world.clock().now() - before, seconds(10));
}

TEST(ZmqTransport, ASeedOfAnotherRunRefusesTheLobbyKey) {
  ZmqWorld here(1);
  ZmqWorld there(1);
  here.transport(0).request_lobby(there.id(0), there.transport(0).bound().lobby, Bytes(1));
  for (int i = 0; i < 600; ++i) {
    there.step();
    for (auto& event : here.transport(0).poll(milliseconds(5))) {
      const auto* answer = std::get_if<LobbyAnswered>(&event);
      if (answer == nullptr) continue;
      ASSERT_FALSE(answer->frame);
      EXPECT_EQ(answer->frame.error().code, ErrorCode::unauthenticated);
      EXPECT_NE(answer->frame.error().message.find("another run"), std::string::npos);
      EXPECT_GE(there.transport(0).counters().rejected_bad_auth, 1u);
      return;
    }
  }
  FAIL() << "no answer";
}

TEST(ZmqTransport, ASeedThatDoesNotAnswerIsReportedOnce) {
  ZmqTransport::Config config = local_config();
  config.lobby.ask_for = milliseconds(200);
  ZmqWorld world(1, config);
  world.transport(0).request_lobby(NodeKey::generate().id(), "tcp://127.0.0.1:9", Bytes(1));
  world.transport(0).request_lobby(NodeId{}, "tcp://127.0.0.1:9", Bytes(1));         // no key
  world.transport(0).request_lobby(NodeKey::generate().id(), "nonsense", Bytes(1));  // no address
  std::size_t answers = 0;
  for (int i = 0; i < 200; ++i) {
    for (auto& event : world.transport(0).poll(milliseconds(5))) {
      const auto* answer = std::get_if<LobbyAnswered>(&event);
      if (answer == nullptr) continue;
      EXPECT_FALSE(answer->frame);
      ++answers;
    }
  }
  EXPECT_EQ(answers, 3u);
}

TEST(ZmqTransport, BulkConnectionsThatNobodyUsesAreClosedAndComeBack) {
  ZmqTransport::Config config = local_config();
  config.bulk_idle = milliseconds(100);
  ZmqWorld world(2, config);
  world.transport(0).set_endpoints(world.id(1), world.transport(1).bound());
  world.transport(1).admit(world.id(0));
  std::size_t connected = 0;
  for (int round = 0; round < 2; ++round) {
    world.transport(0).send(world.id(1), Lane::bulk, Bytes(10));
    bool got = false;
    for (int i = 0; i < 400 && !got; ++i) {
      auto events = world.step();
      for (auto& event : events[0]) connected += std::holds_alternative<PeerConnected>(event) ? 1 : 0;
      for (auto& event : events[1]) got = got || std::holds_alternative<Received>(event);
    }
    ASSERT_TRUE(got);
    for (int i = 0; i < 40; ++i) world.step();
  }
  EXPECT_EQ(connected, 2u);
}

TEST(ZmqTransport, OnlyNumericTcpAddressesOfPeersAreDialled) {
  ZmqWorld world(2);
  for (const char* bad : {"", "tcp://", "inproc://zeromq.zap.01", "ipc:///tmp/x", "tcp://localhost:29400",
                          "tcp://127.0.0.1:0", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "tcp://eth0;127.0.0.1:1"}) {
    EXPECT_FALSE(is_dialable(bad)) << bad;
    world.transport(0).set_endpoints(world.id(1), {bad, bad, bad});
    world.transport(0).send(world.id(1), Lane::control, Bytes(1));
  }
  EXPECT_EQ(world.transport(0).counters().dropped_unroutable, 9u);
  EXPECT_TRUE(is_dialable("tcp://127.0.0.1:29400"));
  EXPECT_TRUE(is_dialable("tcp://[::1]:29400"));
}

}  // namespace
}  // namespace starling::net
