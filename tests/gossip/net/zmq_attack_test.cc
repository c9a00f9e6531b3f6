// Strangers and rogue members against the real sockets. What stands behind the transport is a decoder that counts: each
// attack must leave it at what it was, and a member's frame (the positive control in every test) must raise it by one.
#include <gtest/gtest.h>
#include <zmq.h>

#include <chrono>
#include <optional>

#include "gossip/base/random.h"
#include "gossip/base/real_env.h"
#include "gossip/net/zmq_transport.h"
#include "tests/gossip/net/raw_peer.h"

namespace starling::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ZmqAttack : public testing::Test {
 protected:
  ZmqAttack() { open_victim(); }

  static ZmqTransport::Config local_config() {
    ZmqTransport::Config config;
    config.network.listen = "tcp://127.0.0.1:0";
    config.network.listen_is_default = false;
    return config;
  }
  void open_victim(const ZmqTransport::Config& config = local_config()) {
    victim_.reset();
    auto transport = ZmqTransport::open(config, victim_key_, lobby_key_, clock_);
    STARLING_CHECK(transport, "the victim opens");
    victim_ = std::move(*transport);
    victim_->admit(member_key_.id());
    victim_curve_ = victim_key_.curve().public_key();
  }
  // Every frame that gets through is decoded, and only counted.
  void pump() {
    for (const auto& event : victim_->poll(milliseconds(2))) {
      if (const auto* frame = std::get_if<Received>(&event)) {
        ++decoded_;
        last_from_ = frame->from;
      }
      if (const auto* request = std::get_if<LobbyRequested>(&event)) {
        ++lobby_decoded_;
        victim_->answer_lobby(request->request, Bytes(1));
      }
    }
  }
  void pump_for(Duration time) {
    for (const TimePoint end = clock_.now() + time; clock_.now() < end;) pump();
  }
  RawTcp::Pump pumping() {
    return [this] { pump(); };
  }
  RawCurveClient client(const std::string& endpoint, const CurveKeyPair& key,
                        std::map<std::string, std::string> metadata = {}) {
    return RawCurveClient(endpoint, key, victim_curve_, pumping(), std::move(metadata));
  }
  std::vector<std::string> doors() const {
    return {victim_->bound().control, victim_->bound().bulk, victim_->bound().lobby};
  }
  // A libzmq DEALER with the given keys, or with none at all.
  zmq::socket_t dealer(const std::string& endpoint, const CurveKeyPair* key) {
    zmq::socket_t socket(context_, zmq::socket_type::dealer);
    socket.set(zmq::sockopt::linger, 0);
    if (key != nullptr) {
      const auto set = [&](int option, ByteView bytes) {
        STARLING_CHECK(::zmq_setsockopt(socket.handle(), option, bytes.data(), bytes.size()) == 0, "keys are 32 bytes");
      };
      set(ZMQ_CURVE_SERVERKEY, victim_curve_.key);
      set(ZMQ_CURVE_PUBLICKEY, key->public_key().key);
      set(ZMQ_CURVE_SECRETKEY, key->secret().reveal());
    }
    socket.connect(endpoint);
    return socket;
  }
  // The positive control: an attack proves nothing if a good frame would not have been counted either.
  void expect_a_member_still_gets_through() {
    const std::size_t before = decoded_;
    auto member = client(victim_->bound().control, member_key_.curve());
    ASSERT_TRUE(member.shake_hands());
    ASSERT_TRUE(member.send(as_bytes("good")));
    for (int i = 0; i < 500 && decoded_ == before; ++i) pump();
    EXPECT_EQ(decoded_, before + 1);
    EXPECT_EQ(last_from_, member_key_.id());
  }

  RealClock clock_;
  NodeKey victim_key_ = NodeKey::generate();
  NodeKey member_key_ = NodeKey::generate();
  CurveKeyPair lobby_key_ = CurveKeyPair::generate();
  CurveKey victim_curve_;
  std::unique_ptr<ZmqTransport> victim_;
  zmq::context_t context_;
  std::size_t decoded_ = 0;
  std::size_t lobby_decoded_ = 0;
  NodeId last_from_;
};

TEST_F(ZmqAttack, TheHandMadeMemberIsAGoodOne) {
  expect_a_member_still_gets_through();
  auto stranger = client(victim_->bound().lobby, lobby_key_);
  ASSERT_TRUE(stranger.shake_hands());
  ASSERT_TRUE(stranger.send(as_bytes("may I?")));
  for (int i = 0; i < 500 && lobby_decoded_ == 0; ++i) pump();
  EXPECT_EQ(lobby_decoded_, 1u);
}

TEST_F(ZmqAttack, RandomBytesReachNoDecoder) {
  Stream random(1);
  for (const std::string& door : doors()) {
    for (const std::size_t size : {1, 10, 64, 1000, 100'000}) {
      Bytes noise(size);
      for (std::byte& b : noise) b = static_cast<std::byte>(random.next());
      RawTcp peer(door, pumping());
      peer.send(noise);
      pump_for(milliseconds(10));
    }
  }
  EXPECT_EQ(decoded_ + lobby_decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, AClientWithoutEncryptionReachesNoDecoder) {
  std::vector<zmq::socket_t> sockets;
  for (const std::string& door : doors()) {
    sockets.push_back(dealer(door, nullptr));
    sockets.back().send(zmq::str_buffer("plain"), zmq::send_flags::dontwait);
  }
  pump_for(milliseconds(300));
  EXPECT_EQ(decoded_ + lobby_decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, GreetingsOfOldProtocolsReachNoDecoder) {
  const std::string zmtp1("\1\0\6\0hello", 9);  // anonymous identity, one message
  const std::string zmtp2("\xff\0\0\0\0\0\0\0\1\x7f\1\5\0\0\0\5hello", 21);
  for (const std::string& door : doors()) {
    for (const std::string& greeting : {zmtp1, zmtp2}) {
      RawTcp peer(door, pumping());
      peer.send(as_bytes(greeting));
      pump_for(milliseconds(50));
    }
  }
  EXPECT_EQ(decoded_ + lobby_decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, AnUnknownKeyReachesNoDecoder) {
  const CurveKeyPair unknown = NodeKey::generate().curve();
  std::vector<zmq::socket_t> sockets;
  for (const std::string& door : doors()) {
    sockets.push_back(dealer(door, &unknown));
    sockets.back().send(zmq::str_buffer("let me in"), zmq::send_flags::dontwait);
    auto by_hand = client(door, unknown);
    EXPECT_FALSE(by_hand.shake_hands());
  }
  pump_for(milliseconds(100));
  EXPECT_EQ(decoded_ + lobby_decoded_, 0u);
  EXPECT_GE(victim_->counters().rejected_bad_auth, 6u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, TheLobbyKeyOpensTheLobbyOnly) {
  for (const std::string& door : {victim_->bound().control, victim_->bound().bulk}) {
    auto stranger = client(door, lobby_key_);
    EXPECT_FALSE(stranger.shake_hands());
  }
  EXPECT_EQ(decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, AMemberKeyDoesNotOpenTheLobby) {
  auto member = client(victim_->bound().lobby, member_key_.curve());
  EXPECT_FALSE(member.shake_hands());
  EXPECT_EQ(lobby_decoded_, 0u);
}

TEST_F(ZmqAttack, AMemberOfAnotherRunReachesNoDecoder) {
  // A whole node of another run, admitted by its own people, that has our address.
  const NodeKey key = NodeKey::generate();
  const CurveKeyPair other_lobby = CurveKeyPair::generate();
  const auto other = ZmqTransport::open(local_config(), key, other_lobby, clock_);
  ASSERT_TRUE(other);
  (*other)->set_endpoints(victim_key_.id(), victim_->bound());
  (*other)->admit(victim_key_.id());
  bool refused = false;
  for (const TimePoint end = clock_.now() + seconds(5); clock_.now() < end && !refused;) {
    (*other)->send(victim_key_.id(), Lane::control, Bytes(10));
    for (const auto& event : (*other)->poll(milliseconds(2)))
      refused = refused || std::holds_alternative<PeerRefused>(event);
    pump();
  }
  EXPECT_TRUE(refused);
  EXPECT_EQ(decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, AMemberCannotSpeakUnderAnotherName) {
  const NodeId somebody = NodeKey::generate().id();
  victim_->admit(somebody);
  auto liar = client(victim_->bound().control, member_key_.curve(),
                     {{"User-Id", somebody.hex()}, {"Identity", somebody.hex()}});
  ASSERT_TRUE(liar.shake_hands());
  ASSERT_TRUE(liar.send(as_bytes("I am somebody")));
  for (int i = 0; i < 500 && decoded_ == 0; ++i) pump();
  EXPECT_EQ(decoded_, 1u);
  EXPECT_EQ(last_from_, member_key_.id());
}

TEST_F(ZmqAttack, FramesBeyondTheLimitAreNeverDelivered) {
  const auto attack = [&](const std::string& door, const CurveKeyPair& key, std::size_t bytes) {
    auto rogue = client(door, key);
    ASSERT_TRUE(rogue.shake_hands());
    rogue.send(Bytes(bytes));
    for (int i = 0; i < 500 && !rogue.tcp().is_closed(); ++i) pump();
    EXPECT_TRUE(rogue.tcp().is_closed());
  };
  attack(victim_->bound().control, member_key_.curve(), max_control_frame_bytes + 1);
  attack(victim_->bound().bulk, member_key_.curve(), max_bulk_frame_bytes + 1);
  attack(victim_->bound().lobby, lobby_key_, max_lobby_request_bytes + 1);
  EXPECT_EQ(decoded_ + lobby_decoded_, 0u);
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, AMessageOfSeveralFramesIsDroppedAndCounted) {
  using More = RawCurveClient::More;
  auto rogue = client(victim_->bound().control, member_key_.curve());
  auto stranger = client(victim_->bound().lobby, lobby_key_);
  for (RawCurveClient* peer : {&rogue, &stranger}) {
    ASSERT_TRUE(peer->shake_hands());
    ASSERT_TRUE(peer->send(as_bytes("one"), More::more));
    ASSERT_TRUE(peer->send(as_bytes("two"), More::more));
    ASSERT_TRUE(peer->send(as_bytes("three")));
    ASSERT_TRUE(peer->send(as_bytes("four")));  // alone: a good message on the same connection
  }
  for (int i = 0; i < 500 && decoded_ + lobby_decoded_ < 2; ++i) pump();
  EXPECT_EQ(decoded_, 1u);
  EXPECT_EQ(lobby_decoded_, 1u);
  EXPECT_EQ(victim_->counters().rejected_oversize, 2u);
}

TEST_F(ZmqAttack, ConnectionsThatSayNothingAreClosed) {
  RawTcp silent(victim_->bound().control, pumping());
  std::vector<std::unique_ptr<RawTcp>> crowd;
  for (int i = 0; i < 100; ++i) crowd.push_back(std::make_unique<RawTcp>(victim_->bound().lobby, pumping()));
  pump_for(milliseconds(2600));
  EXPECT_TRUE(silent.is_closed());
  for (const auto& peer : crowd) EXPECT_TRUE(peer->is_closed());
  expect_a_member_still_gets_through();
}

TEST_F(ZmqAttack, EndlessMultipartAtTheLobbyIsBoundedCountedAndSurvived) {
  const std::string lobby = victim_->bound().lobby;
  const std::uint64_t before = resident_bytes();
  std::uint64_t most = before;
  const Bytes frame(max_lobby_request_bytes - 64, std::byte{'x'});
  const TimePoint end = clock_.now() + seconds(120);
  while (victim_->counters().lobby_resets < 3 && clock_.now() < end) {
    auto attacker = client(lobby, lobby_key_);
    ASSERT_TRUE(attacker.shake_hands());
    for (bool alive = true; alive && clock_.now() < end;) {
      for (int i = 0; i < 64 && alive; ++i) alive = attacker.send(frame, RawCurveClient::More::more);
      pump();
      most = std::max(most, resident_bytes());
      alive = alive && !attacker.tcp().is_closed();
    }
  }
  EXPECT_EQ(victim_->counters().lobby_resets, 3u);
  EXPECT_EQ(lobby_decoded_, 0u);
  // Each time 64 MiB were filled, and given back: what was ever held is one filling, what arrives between two readings,
  // and what the allocator keeps.
  EXPECT_LT(most - before, std::uint64_t{128} << 20);
  expect_a_member_still_gets_through();
  // The door is open again at the same place.
  auto newcomer = client(lobby, lobby_key_);
  ASSERT_TRUE(newcomer.shake_hands());
  ASSERT_TRUE(newcomer.send(as_bytes("may I?")));
  for (int i = 0; i < 500 && lobby_decoded_ == 0; ++i) pump();
  EXPECT_EQ(lobby_decoded_, 1u);
}

TEST_F(ZmqAttack, MemoryThatOthersAccountForIsNoAttack) {
  constexpr std::uint64_t mib = 1 << 20;
  std::uint64_t resident = 1000 * mib;
  std::uint64_t accounted = 300 * mib;
  ZmqTransport::Config config = local_config();
  config.lobby.resident_bytes = [&] { return resident; };
  config.lobby.accounted_bytes = [&] { return accounted; };
  open_victim(config);
  auto stranger = client(victim_->bound().lobby, lobby_key_);
  ASSERT_TRUE(stranger.shake_hands());
  pump_for(milliseconds(200));
  resident += 500 * mib;
  accounted += 450 * mib;
  pump_for(milliseconds(200));
  EXPECT_EQ(victim_->counters().lobby_resets, 0u);
  resident += 20 * mib;  // 70 in all that nobody knows of
  for (const TimePoint end = clock_.now() + seconds(5); clock_.now() < end && victim_->counters().lobby_resets == 0;) pump();
  EXPECT_EQ(victim_->counters().lobby_resets, 1u);
}

TEST_F(ZmqAttack, AFloodOfRequestsAtTheLobbyIsCutToARate) {
  auto rude = client(victim_->bound().lobby, lobby_key_);
  ASSERT_TRUE(rude.shake_hands());
  const TimePoint start = clock_.now();
  constexpr std::size_t requests = 2000;
  for (std::size_t i = 0; i < requests; ++i) ASSERT_TRUE(rude.send(as_bytes("me me me")));
  const auto served = [&] { return lobby_decoded_ + victim_->counters().dropped_full; };
  for (const TimePoint end = start + seconds(20); clock_.now() < end && served() < requests;) pump();
  EXPECT_EQ(served(), requests);
  // A burst of 64, then 32 a second.
  EXPECT_LE(static_cast<double>(lobby_decoded_), 64 + 32 * starling::seconds(clock_.now() - start) + 1);
  EXPECT_GE(lobby_decoded_, 64u);
  expect_a_member_still_gets_through();
}

// The gatekeeper itself: while nobody answers for it, not even a good key gets in.
TEST_F(ZmqAttack, NobodyGetsInWhileTheGatekeeperIsDead) {
  const CurveKeyPair good = member_key_.curve();
  for (const bool alive : {false, true}) {
    zmq::context_t context;
    std::optional<ZapHandler> zap;
    if (alive) {
      auto handler = ZapHandler::open(context, [&](std::string_view, const CurveKey& key) {
        return key == good.public_key() ? ZapHandler::Verdict{ZapHandler::Status::let_in, "good"}
                                        : ZapHandler::Verdict{};
      });
      ASSERT_TRUE(handler);
      zap = std::move(*handler);
    }
    const CurveKeyPair server = victim_key_.curve();
    auto router = make_router(context, {server, member_domain, max_control_frame_bytes, 16, 0});
    ASSERT_TRUE(router) << router.error().message;
    ASSERT_TRUE(bind(*router, "tcp://127.0.0.1:0"));
    std::size_t decoded = 0;
    const auto serve = [&] {
      if (zap) zap->serve();
      zmq::message_t routing_id;
      zmq::message_t frame;
      if (receive_now(*router, routing_id) && receive_now(*router, frame)) ++decoded;
    };
    RawCurveClient peer(bound_endpoint(*router), good, server.public_key(), serve);
    EXPECT_EQ(peer.shake_hands(), alive);
    if (alive) {
      ASSERT_TRUE(peer.send(as_bytes("good")));
      for (const TimePoint end = clock_.now() + seconds(2); clock_.now() < end && decoded == 0;) serve();
    }
    EXPECT_EQ(decoded, alive ? 1u : 0u);
  }
}

}  // namespace
}  // namespace starling::net
