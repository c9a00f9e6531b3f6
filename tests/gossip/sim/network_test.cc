// The simulated network: the suite that all transports pass, and what only it can do.
#include "gossip/sim/network.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/gossip/net/transport_conformance.h"

namespace starling::sim {
namespace {

using namespace std::chrono_literals;
using net::Lane;

NodeId id_of(std::size_t node) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(node + 1);
  return id;
}

class SimTransports final : public net::TransportWorld {
 public:
  explicit SimTransports(std::size_t nodes, SimNetwork::Config config = {}, std::uint64_t seed = 1)
      : network(scheduler, config, Stream(seed)), events_(nodes) {
    for (std::size_t i = 0; i < nodes; ++i) {
      transports_.push_back(&network.add(id_of(i), receive(i)));
    }
  }
  NodeId id(std::size_t node) const override { return id_of(node); }
  net::Transport& transport(std::size_t node) override { return *transports_[node]; }
  std::vector<std::vector<net::TransportEvent>> step() override {
    scheduler.run_until(scheduler.now() + 10ms);
    return std::exchange(events_, std::vector<std::vector<net::TransportEvent>>(events_.size()));
  }
  std::size_t queue_bound(Lane) const override { return SimNetwork::Config().queue_frames; }

  SimNetwork::Receive receive(std::size_t node) {
    return [this, node](net::TransportEvent event) { events_[node].push_back(std::move(event)); };
  }
  void introduce_all() {
    for (std::size_t i = 0; i < transports_.size(); ++i) introduce(i);
  }
  void introduce(std::size_t node) {
    for (std::size_t j = 0; j < transports_.size(); ++j) {
      if (j == node) continue;
      transports_[node]->admit(id_of(j));
      transports_[node]->set_endpoints(id_of(j), transports_[j]->bound());
    }
  }
  void send(std::size_t from, std::size_t to, Lane lane, std::size_t size, unsigned char mark = 0) {
    transports_[from]->send(id_of(to), lane, Bytes(size, static_cast<std::byte>(mark)));
  }
  // What happened to `node` and was not looked at yet.
  std::vector<net::TransportEvent> take(std::size_t node) { return std::exchange(events_[node], {}); }
  // Lets time pass; result: the first bytes of the frames that `node` received meanwhile.
  std::vector<int> marks(std::size_t node, Duration meanwhile) {
    scheduler.run_until(scheduler.now() + meanwhile);
    std::vector<int> out;
    for (const auto& event : take(node)) {
      const auto* frame = std::get_if<net::Received>(&event);
      if (frame != nullptr) out.push_back(frame->frame.empty() ? -1 : std::to_integer<int>(frame->frame[0]));
    }
    return out;
  }

  Scheduler scheduler;
  SimNetwork network;

 private:
  std::vector<net::Transport*> transports_;
  std::vector<std::vector<net::TransportEvent>> events_;
};

}  // namespace
}  // namespace starling::sim

namespace starling::net {
INSTANTIATE_TEST_SUITE_P(Sim, TransportConformance, testing::Values(TransportWorld::Maker([](std::size_t nodes) {
                           return std::make_unique<sim::SimTransports>(nodes);
                         })));
}  // namespace starling::net

namespace starling::sim {
namespace {

using Marks = std::vector<int>;

TEST(SimNetwork, AConnectionTakesThreeRoundTripsAndAFrameOneWay) {
  SimTransports world(2, {.link = {.latency = 10ms}, .bytes_per_second = 1e12});
  world.introduce_all();
  world.send(0, 1, Lane::control, 1, 1);
  EXPECT_EQ(world.marks(1, 69ms), Marks{});
  EXPECT_EQ(world.marks(1, 2ms), Marks{1});
  world.send(0, 1, Lane::control, 1, 2);
  EXPECT_EQ(world.marks(1, 9ms), Marks{});
  EXPECT_EQ(world.marks(1, 2ms), Marks{2});
}

TEST(SimNetwork, BulkFramesQueueForBothLinesAndControlFramesDoNot) {
  // 100 kB take 100 ms on the way up and 100 ms on the way down.
  SimTransports world(3, {.link = {.latency = 1ms}, .bytes_per_second = 1e6});
  world.introduce_all();
  for (const std::size_t from : {0, 1}) {
    world.send(from, 2, Lane::control, 1);
    world.send(from, 2, Lane::bulk, 1);
  }
  world.marks(2, 1s);
  world.send(0, 2, Lane::bulk, 100'000, 1);
  world.send(0, 2, Lane::bulk, 100'000, 2);
  world.send(1, 2, Lane::bulk, 100'000, 3);
  world.send(0, 2, Lane::control, 1, 4);
  EXPECT_EQ(world.marks(2, 10ms), Marks{4});
  EXPECT_EQ(world.marks(2, 195ms), Marks{1});  // up 100, down 100
  EXPECT_EQ(world.marks(2, 100ms), Marks{3});  // up beside it, down behind it
  EXPECT_EQ(world.marks(2, 100ms), Marks{2});
}

TEST(SimNetwork, AFasterLineIsFaster) {
  SimTransports world(2, {.link = {.latency = 1ms}, .bytes_per_second = 1e6});
  world.network.set_bandwidth(id_of(0), 1e9);
  world.network.set_bandwidth(id_of(1), 1e9);
  world.introduce_all();
  world.send(0, 1, Lane::bulk, 100'000, 1);
  EXPECT_EQ(world.marks(1, 10ms), Marks{1});
}

TEST(SimNetwork, JitterKeepsTheOrderOnALane) {
  SimTransports world(2, {.link = {.latency = 5ms, .jitter = 50ms}});
  world.introduce_all();
  Marks sent;
  Marks got;
  for (int i = 0; i < 200; ++i) {
    world.send(0, 1, Lane::control, 1, static_cast<unsigned char>(i));
    sent.push_back(i);
    for (const int mark : world.marks(1, 1ms)) got.push_back(mark);
  }
  for (const int mark : world.marks(1, 1s)) got.push_back(mark);
  EXPECT_EQ(got, sent);
}

TEST(SimNetwork, FramesAreLostAndDoubledAsOftenAsAsked) {
  SimTransports world(2, {.link = {.latency = 1ms, .loss = 0.25, .duplicate = 0.0}}, 3);
  world.introduce_all();
  for (int i = 0; i < 4000; ++i) world.send(0, 1, Lane::control, 1);
  EXPECT_NEAR(static_cast<double>(world.marks(1, 10s).size()), 3000.0, 150.0);

  world.network.set_default_link({.latency = 1ms, .loss = 0.0, .duplicate = 0.25});
  for (int i = 0; i < 4000; ++i) world.send(0, 1, Lane::control, 1);
  EXPECT_NEAR(static_cast<double>(world.marks(1, 10s).size()), 5000.0, 150.0);
  for (int i = 0; i < 1000; ++i) world.send(0, 1, Lane::bulk, 1);
  EXPECT_EQ(world.marks(1, 10s).size(), 1000u);  // on bulk nothing is sent twice
}

TEST(SimNetwork, ALinkHasItsOwnLatencyEachWay) {
  SimTransports world(2, {.link = {.latency = 1ms}});
  world.network.set_link(id_of(0), id_of(1), {.latency = 300ms});
  world.introduce_all();
  world.send(0, 1, Lane::control, 1);
  world.send(1, 0, Lane::control, 1);
  world.marks(0, 5s);
  world.marks(1, 5s);
  world.send(0, 1, Lane::control, 1, 7);
  world.send(1, 0, Lane::control, 1, 8);
  EXPECT_EQ(world.marks(0, 2ms), Marks{8});
  EXPECT_EQ(world.marks(1, 290ms), Marks{});
  EXPECT_EQ(world.marks(1, 20ms), Marks{7});
}

TEST(SimNetwork, ACrashLosesWhatIsUnderWayAndARestartIsFoundAgain) {
  SimTransports world(2);
  world.introduce_all();
  world.send(0, 1, Lane::control, 1, 1);
  EXPECT_EQ(world.marks(1, 1s), Marks{1});
  world.send(0, 1, Lane::control, 1, 2);
  world.network.crash(id_of(1));
  EXPECT_EQ(world.marks(1, 3s), Marks{});
  world.send(0, 1, Lane::control, 1, 3);
  world.network.restart(id_of(1), world.receive(1));
  EXPECT_EQ(world.marks(1, 5s), Marks{});  // a new process knows nobody
  world.introduce(1);
  EXPECT_EQ(world.marks(1, 5s), Marks{3});  // what waited; what was under way is gone
  // The dialler heard of the new connection.
  int connections = 0;
  for (const auto& event : world.take(0)) connections += std::holds_alternative<net::PeerConnected>(event) ? 1 : 0;
  EXPECT_EQ(connections, 2);
}

TEST(SimNetwork, ACrashedNodeHearsAndSaysNothing) {
  SimTransports world(2);
  world.introduce_all();
  world.network.crash(id_of(0));
  world.send(0, 1, Lane::control, 1, 1);
  EXPECT_EQ(world.marks(1, 10s), Marks{});
  EXPECT_TRUE(world.take(0).empty());
}

TEST(SimNetwork, APausedNodeGetsAllInOrderWhenItWakes) {
  SimTransports world(2);
  world.introduce_all();
  world.send(0, 1, Lane::control, 1, 0);
  world.marks(1, 1s);
  world.network.pause(id_of(1));
  for (unsigned char i = 1; i <= 3; ++i) world.send(0, 1, Lane::control, 1, i);
  EXPECT_EQ(world.marks(1, 60s), Marks{});
  world.network.resume(id_of(1));
  world.send(0, 1, Lane::control, 1, 4);
  EXPECT_EQ(world.marks(1, 1s), (Marks{1, 2, 3, 4}));
}

TEST(SimNetwork, TheInboxOfAPausedNodeIsBounded) {
  SimTransports world(2, {.inbox_bytes = 2500});
  world.introduce_all();
  world.send(0, 1, Lane::control, 1, 0);
  world.marks(1, 1s);
  world.network.pause(id_of(1));
  for (unsigned char i = 1; i <= 5; ++i) world.send(0, 1, Lane::control, 1000, i);
  world.marks(1, 1s);
  world.network.resume(id_of(1));
  EXPECT_EQ(world.marks(1, 1s), (Marks{1, 2}));
}

TEST(SimNetwork, NobodyConnectsToAPausedNode) {
  SimTransports world(2);
  world.introduce_all();
  world.network.pause(id_of(1));
  world.send(0, 1, Lane::control, 1, 1);
  world.marks(1, 10s);
  for (const auto& event : world.take(0)) EXPECT_FALSE(std::holds_alternative<net::PeerConnected>(event));
  world.network.resume(id_of(1));
  EXPECT_EQ(world.marks(1, 5s), Marks{1});
}

TEST(SimNetwork, GroupsDoNotReachEachOtherUntilTheyAreOne) {
  SimTransports world(3);
  world.introduce_all();
  for (const std::size_t to : {1, 2}) world.send(0, to, Lane::control, 1, 1);
  world.marks(1, 1s);
  world.marks(2, 1s);
  world.send(0, 1, Lane::control, 1, 2);
  world.network.set_group(id_of(1), 1);  // cut off with a frame under way
  world.send(0, 1, Lane::control, 1, 3);
  world.send(0, 2, Lane::control, 1, 4);
  EXPECT_EQ(world.marks(1, 20s), Marks{});
  EXPECT_EQ(world.marks(2, 1s), Marks{4});
  world.network.set_group(id_of(1), 0);
  EXPECT_EQ(world.marks(1, 5s), Marks{3});
}

TEST(SimNetwork, ALobbyThatDoesNotAnswerIsUnreachable) {
  SimTransports world(2);
  const auto asks = [&](const std::string& address, const NodeId& seed) {
    world.transport(0).request_lobby(seed, address, Bytes(1));
    world.scheduler.run_until(world.scheduler.now() + 30s);
    int answers = 0;
    for (const auto& event : world.take(0)) {
      const auto* answer = std::get_if<net::LobbyAnswered>(&event);
      if (answer == nullptr) continue;
      ++answers;
      EXPECT_EQ(answer->seed, seed);
      EXPECT_EQ(answer->frame.error().code, ErrorCode::unreachable);
    }
    return answers;
  };
  EXPECT_EQ(asks(world.transport(1).bound().lobby, id_of(1)), 1);    // nobody takes the request up
  EXPECT_EQ(asks(world.transport(1).bound().lobby, id_of(9)), 1);    // another key sits there
  EXPECT_EQ(asks(world.transport(1).bound().control, id_of(1)), 1);  // not a lobby
  EXPECT_EQ(asks("tcp://nowhere:1", id_of(1)), 1);
  world.network.crash(id_of(1));
  EXPECT_EQ(asks(world.transport(1).bound().lobby, id_of(1)), 1);
}

TEST(SimNetwork, OneSeedGivesOneHistory) {
  const auto history = [](std::uint64_t seed) {
    SimTransports world(8, {.link = {.latency = 2ms, .jitter = 20ms, .loss = 0.1, .duplicate = 0.1}}, seed);
    world.introduce_all();
    Stream random(99);
    std::string out;
    for (int i = 0; i < 500; ++i) {
      const std::size_t from = random.below(8);
      const std::size_t to = (from + 1 + random.below(7)) % 8;
      world.send(from, to, random.below(3) == 0 ? Lane::bulk : Lane::control, 100, static_cast<unsigned char>(i));
      if (i == 200) world.network.crash(id_of(3));
      const auto events = world.step();
      for (std::size_t node = 0; node < 8; ++node) {
        for (const auto& event : events[node]) {
          if (const auto* frame = std::get_if<net::Received>(&event)) {
            out += std::to_string(i) + ' ' + std::to_string(node) + frame->from.brief() + to_hex(frame->frame) + '\n';
          }
        }
      }
    }
    return out;
  };
  const std::string one = history(1);
  EXPECT_GT(one.size(), 10'000u);
  EXPECT_EQ(one, history(1));
  EXPECT_NE(one, history(2));
}

}  // namespace
}  // namespace starling::sim
