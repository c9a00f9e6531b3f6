// What every Transport must do, whatever is below it: one suite for the sockets and for the simulated network.
//
// An implementation shows itself as a TransportWorld: some nodes that can reach each other, and a way to let a little
// time pass. A test binary defines one, and instantiates the suite:
//
//   INSTANTIATE_TEST_SUITE_P(Zmq, TransportConformance, testing::Values(TransportWorld::Maker(...)));
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "gossip/net/transport.h"

namespace starling::net {

class TransportWorld {
 public:
  using Maker = std::function<std::unique_ptr<TransportWorld>(std::size_t nodes)>;
  virtual ~TransportWorld() = default;
  virtual NodeId id(std::size_t node) const = 0;
  virtual Transport& transport(std::size_t node) = 0;
  // Lets a little time pass (about 10 ms) and takes the events of all nodes: result[i] are those of node i.
  virtual std::vector<std::vector<TransportEvent>> step() = 0;
  // Frames that may wait for a peer on a lane before the oldest gives way, at most.
  virtual std::size_t queue_bound(Lane lane) const = 0;
};

class TransportConformance : public testing::TestWithParam<TransportWorld::Maker> {
 protected:
  static constexpr int patience = 1500;  // steps until something that must happen has happened
  static constexpr int quiet = 40;       // steps in which something that must not happen would have happened

  void start(std::size_t nodes) {
    world_ = GetParam()(nodes);
    seen_.assign(nodes, {});
  }
  NodeId id(std::size_t node) const { return world_->id(node); }
  Transport& at(std::size_t node) { return world_->transport(node); }
  // Everybody admits everybody and knows where they are.
  void introduce_all() {
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      for (std::size_t j = 0; j < seen_.size(); ++j) {
        if (i != j) introduce(i, j);
      }
    }
  }
  // `node` lets `peer` in and learns where it is.
  void introduce(std::size_t node, std::size_t peer) {
    at(node).admit(id(peer));
    at(node).set_endpoints(id(peer), at(peer).bound());
  }
  void step() {
    auto events = world_->step();
    ASSERT_EQ(events.size(), seen_.size());
    for (std::size_t i = 0; i < events.size(); ++i) {
      for (auto& event : events[i]) seen_[i].push_back(std::move(event));
    }
  }
  bool run_until(const std::function<bool()>& done) {
    for (int i = 0; i < patience && !done(); ++i) step();
    return done();
  }
  void run_quietly() {
    for (int i = 0; i < quiet; ++i) step();
  }
  void send(std::size_t from, std::size_t to, Lane lane, std::string_view text) {
    const ByteView bytes = as_bytes(text);
    at(from).send(id(to), lane, Bytes(bytes.begin(), bytes.end()));
  }
  // The frames that `node` has received on `lane`, with their senders.
  std::vector<std::pair<NodeId, std::string>> received(std::size_t node, Lane lane) const {
    std::vector<std::pair<NodeId, std::string>> out;
    for (const auto& event : seen_[node]) {
      const auto* frame = std::get_if<Received>(&event);
      if (frame != nullptr && frame->lane == lane) out.emplace_back(frame->from, std::string(as_text(frame->frame)));
    }
    return out;
  }
  std::size_t count(std::size_t node, Lane lane) const { return received(node, lane).size(); }
  bool is_connected(std::size_t node, std::size_t peer, Lane lane) const {
    return std::any_of(seen_[node].begin(), seen_[node].end(), [&](const TransportEvent& event) {
      const auto* up = std::get_if<PeerConnected>(&event);
      return up != nullptr && up->peer == world_->id(peer) && up->lane == lane;
    });
  }
  bool is_refused(std::size_t node, std::size_t peer) const {
    return std::any_of(seen_[node].begin(), seen_[node].end(), [&](const TransportEvent& event) {
      const auto* refused = std::get_if<PeerRefused>(&event);
      return refused != nullptr && refused->peer == world_->id(peer);
    });
  }
  template <typename T>
  std::vector<const T*> all(std::size_t node) const {
    std::vector<const T*> out;
    for (const auto& event : seen_[node]) {
      if (const auto* of_kind = std::get_if<T>(&event)) out.push_back(of_kind);
    }
    return out;
  }

  std::unique_ptr<TransportWorld> world_;
  std::vector<std::vector<TransportEvent>> seen_;
};

TEST_P(TransportConformance, AFrameArrivesWholeUnderTheNameOfItsSender) {
  start(3);
  introduce_all();
  for (const Lane lane : {Lane::control, Lane::bulk}) {
    send(0, 2, lane, "from zero");
    send(1, 2, lane, "from one");
    ASSERT_TRUE(run_until([&] { return count(2, lane) == 2; }));
    const auto frames = received(2, lane);
    for (const auto& [from, text] : frames) EXPECT_EQ(text, from == id(0) ? "from zero" : "from one");
    EXPECT_NE(frames[0].first, frames[1].first);
    EXPECT_EQ(count(1, lane), 0u);
  }
}

TEST_P(TransportConformance, FramesOfOneLaneKeepTheirOrder) {
  start(2);
  introduce_all();
  constexpr int frames = 200;
  for (int i = 0; i < frames; ++i) {
    send(0, 1, Lane::control, std::to_string(i));
    if (i % 10 == 9) step();
  }
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) == frames; }));
  const auto got = received(1, Lane::control);
  for (int i = 0; i < frames; ++i) EXPECT_EQ(got[static_cast<std::size_t>(i)].second, std::to_string(i));
}

TEST_P(TransportConformance, FramesOfTheLargestSizeArrive) {
  start(2);
  introduce_all();
  // What the layers above send at most: CURVE's own bytes count against the limit of the socket.
  const std::string control(max_control_frame_bytes - 64, 'c');
  const std::string bulk(max_chunk_payload_bytes + 64, 'b');
  send(0, 1, Lane::control, control);
  send(0, 1, Lane::bulk, bulk);
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) == 1 && count(1, Lane::bulk) == 1; }));
  EXPECT_EQ(received(1, Lane::control)[0].second, control);
  EXPECT_EQ(received(1, Lane::bulk)[0].second, bulk);
}

TEST_P(TransportConformance, AnEmptyFrameArrives) {
  start(2);
  introduce_all();
  send(0, 1, Lane::control, "");
  EXPECT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
}

TEST_P(TransportConformance, AConnectionIsReportedPerLane) {
  start(2);
  introduce_all();
  send(0, 1, Lane::control, "x");
  ASSERT_TRUE(run_until([&] { return is_connected(0, 1, Lane::control); }));
  EXPECT_FALSE(is_connected(0, 1, Lane::bulk));
  send(0, 1, Lane::bulk, "x");
  ASSERT_TRUE(run_until([&] { return is_connected(0, 1, Lane::bulk); }));
  EXPECT_FALSE(is_connected(1, 0, Lane::control));  // it has dialled nobody
}

TEST_P(TransportConformance, FramesSentBeforeTheHandshakeArriveAfterIt) {
  start(2);
  introduce_all();
  for (int i = 0; i < 10; ++i) send(0, 1, Lane::bulk, std::to_string(i));
  ASSERT_TRUE(run_until([&] { return count(1, Lane::bulk) == 10; }));
  EXPECT_EQ(received(1, Lane::bulk)[9].second, "9");
}

TEST_P(TransportConformance, AFrameToAPeerWithoutEndpointsIsDroppedAndCounted) {
  start(2);
  at(1).admit(id(0));
  send(0, 1, Lane::control, "nowhere");
  EXPECT_EQ(at(0).counters().dropped_unroutable, 1u);
  introduce(0, 1);
  run_quietly();
  EXPECT_EQ(count(1, Lane::control), 0u);
}

TEST_P(TransportConformance, WhoIsAdmittedLateGetsIn) {
  start(2);
  at(0).set_endpoints(id(1), at(1).bound());
  send(0, 1, Lane::control, "early");
  run_quietly();
  EXPECT_EQ(count(1, Lane::control), 0u);
  EXPECT_FALSE(is_connected(0, 1, Lane::control));
  at(1).admit(id(0));
  EXPECT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
  EXPECT_TRUE(is_connected(0, 1, Lane::control));
}

TEST_P(TransportConformance, WhoIsRefusedIsTold) {
  start(2);
  at(0).set_endpoints(id(1), at(1).bound());
  send(0, 1, Lane::control, "unknown");
  EXPECT_TRUE(run_until([&] { return is_refused(0, 1); }));
  EXPECT_GE(at(1).counters().rejected_bad_auth, 1u);
}

TEST_P(TransportConformance, FramesOfARevokedMemberAreDroppedOnAStandingConnection) {
  start(2);
  introduce_all();
  send(0, 1, Lane::control, "welcome");
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
  at(1).revoke(id(0));
  const auto before = at(1).counters().rejected_bad_auth;
  for (int i = 0; i < quiet; ++i) {
    send(0, 1, Lane::control, "gone");
    step();
  }
  EXPECT_EQ(count(1, Lane::control), 1u);
  EXPECT_GT(at(1).counters().rejected_bad_auth, before);
}

TEST_P(TransportConformance, WhoWasRevokedFromTheStartIsToldAndNeverHeard) {
  start(2);
  introduce_all();
  at(1).revoke(id(0));
  send(0, 1, Lane::control, "x");
  ASSERT_TRUE(run_until([&] { return is_refused(0, 1); }));
  EXPECT_FALSE(is_connected(0, 1, Lane::control));
  EXPECT_EQ(count(1, Lane::control), 0u);
}

TEST_P(TransportConformance, WhoIsAdmittedAgainIsHeardAgain) {
  start(2);
  introduce_all();
  at(1).revoke(id(0));
  send(0, 1, Lane::control, "x");
  ASSERT_TRUE(run_until([&] { return is_refused(0, 1); }));
  at(1).admit(id(0));
  const bool heard = run_until([&] {
    send(0, 1, Lane::control, "again");
    return count(1, Lane::control) > 0;
  });
  EXPECT_TRUE(heard);
}

TEST_P(TransportConformance, ForgettingAPeerDropsWhatWaitsAndStopsSending) {
  start(2);
  introduce_all();
  send(0, 1, Lane::control, "waits");  // not out yet: no time has passed
  at(0).forget(id(1));
  send(0, 1, Lane::control, "nowhere");
  run_quietly();
  EXPECT_EQ(count(1, Lane::control), 0u);
  EXPECT_GE(at(0).counters().dropped_unroutable, 1u);
  introduce(0, 1);
  send(0, 1, Lane::control, "again");
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
  EXPECT_EQ(received(1, Lane::control)[0].second, "again");
}

TEST_P(TransportConformance, ForgettingAPeerDoesNotShutItOut) {
  start(2);
  introduce_all();
  at(1).forget(id(0));
  send(0, 1, Lane::control, "still a member");
  EXPECT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
}

TEST_P(TransportConformance, AFullQueueDropsTheOldestAndCounts) {
  start(2);
  at(0).set_endpoints(id(1), at(1).bound());  // not admitted there: everything waits
  const std::size_t frames = world_->queue_bound(Lane::control) + 10;
  for (std::size_t i = 0; i < frames; ++i) send(0, 1, Lane::control, std::to_string(i));
  EXPECT_GE(at(0).counters().dropped_full, 10u);
  at(1).admit(id(0));
  ASSERT_TRUE(run_until([&] {
    const auto got = received(1, Lane::control);
    return !got.empty() && got.back().second == std::to_string(frames - 1);
  }));
  EXPECT_LE(count(1, Lane::control), world_->queue_bound(Lane::control));
  EXPECT_GE(std::stoul(received(1, Lane::control).front().second), 10u);
}

TEST_P(TransportConformance, AMovedPeerIsReachedAtItsNewAddress) {
  start(3);
  introduce_all();
  send(0, 1, Lane::control, "here");
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) == 1; }));
  // Whoever sits at the new address must hold the key: node 2 does not.
  at(0).set_endpoints(id(1), at(2).bound());
  send(0, 1, Lane::control, "for one only");
  run_quietly();
  EXPECT_EQ(count(2, Lane::control), 0u);
  EXPECT_EQ(count(1, Lane::control), 1u);
  at(0).set_endpoints(id(1), at(1).bound());
  send(0, 1, Lane::control, "back");
  ASSERT_TRUE(run_until([&] { return count(1, Lane::control) >= 2; }));
  EXPECT_EQ(received(1, Lane::control).back().second, "back");
}

TEST_P(TransportConformance, AStrangersQuestionIsAnsweredAtTheLobby) {
  start(2);
  const ByteView question = as_bytes("may I?");
  at(0).request_lobby(id(1), at(1).bound().lobby, Bytes(question.begin(), question.end()));
  ASSERT_TRUE(run_until([&] { return all<LobbyRequested>(1).size() == 1; }));
  EXPECT_EQ(as_text(all<LobbyRequested>(1)[0]->frame), "may I?");
  at(1).answer_lobby(all<LobbyRequested>(1)[0]->request, Bytes(max_lobby_answer_bytes - 64, std::byte{7}));
  ASSERT_TRUE(run_until([&] { return all<LobbyAnswered>(0).size() == 1; }));
  const LobbyAnswered& answer = *all<LobbyAnswered>(0)[0];
  EXPECT_EQ(answer.seed, id(1));
  ASSERT_TRUE(answer.frame) << answer.frame.error().message;
  EXPECT_EQ(*answer.frame, Bytes(max_lobby_answer_bytes - 64, std::byte{7}));
  // A second answer to the same question goes nowhere.
  at(1).answer_lobby(all<LobbyRequested>(1)[0]->request, Bytes(1));
  run_quietly();
  EXPECT_EQ(all<LobbyAnswered>(0).size(), 1u);
  EXPECT_EQ(count(1, Lane::control), 0u);
}

TEST_P(TransportConformance, SeveralStrangersGetTheirOwnAnswers) {
  start(4);
  for (const std::size_t node : {1, 2, 3}) {
    at(node).request_lobby(id(0), at(0).bound().lobby, Bytes(1, static_cast<std::byte>(node)));
  }
  ASSERT_TRUE(run_until([&] { return all<LobbyRequested>(0).size() == 3; }));
  for (const LobbyRequested* request : all<LobbyRequested>(0)) at(0).answer_lobby(request->request, request->frame);
  for (const std::size_t node : {1, 2, 3}) {
    ASSERT_TRUE(run_until([&] { return all<LobbyAnswered>(node).size() == 1; }));
    ASSERT_TRUE(all<LobbyAnswered>(node)[0]->frame);
    EXPECT_EQ(*all<LobbyAnswered>(node)[0]->frame, Bytes(1, static_cast<std::byte>(node)));
  }
}

}  // namespace starling::net
