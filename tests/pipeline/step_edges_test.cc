// The first step, which waits for originators whose news take longer than a whole step of another one; and the end of
// the last one, when others still have work for this worker.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <variant>
#include <vector>

#include "pipeline/stage_step.h"

namespace starling::pipeline {
namespace {

NodeId node(int number) {
  NodeId id;
  id.key[31] = static_cast<std::byte>(number);
  return id;
}

void add_worker(membership::Swarm& swarm, int number, Stage stage, Step done) {
  membership::Peer& peer = swarm.peers[node(number)];
  peer.state = membership::PeerState::active;
  peer.record.id = node(number);
  peer.record.role = membership::Role::worker;
  peer.record.stage = stage;
  peer.done = done;
}

class FirstStep : public testing::Test {
 protected:
  // A middle worker of a run that never skips, of two originators and two middle workers.
  StageStep clock_{
      {.self = node(3), .stage = 1, .deadlines = StageStep::Deadlines::off, .last_step = 9, .least_workers = 4},
      TimePoint{}};
  membership::Swarm swarm_;

  bool closes(const StageStep::Event& event) {
    const auto actions = clock_.on(event, swarm_, TimePoint{});
    return std::ranges::any_of(actions, [](const auto& a) { return std::holds_alternative<StageStep::CloseStep>(a); });
  }
};

TEST_F(FirstStep, WaitsForAnOriginatorThatIsNotKnownYet) {
  add_worker(swarm_, 1, 0, 1);
  add_worker(swarm_, 3, 1, -1);
  add_worker(swarm_, 4, 1, -1);
  EXPECT_FALSE(closes(StageStep::Adopted{.step = 1, .tau = {}, .stage = 1, .kept_bytes = 1}));
  EXPECT_FALSE(closes(StageStep::SwarmChanged{}));  // the only originator that it knows has closed step 1
  add_worker(swarm_, 2, 0, 0);
  EXPECT_FALSE(closes(StageStep::SwarmChanged{}));
  swarm_.peers[node(2)].done = 1;
  EXPECT_TRUE(closes(StageStep::SwarmChanged{}));
  EXPECT_EQ(clock_.step(), 2);
}

TEST_F(FirstStep, WhoComesLaterDoesNotWaitForThoseWhoAreGone) {
  add_worker(swarm_, 1, 0, 5);
  add_worker(swarm_, 3, 1, -1);
  EXPECT_TRUE(closes(StageStep::Adopted{.step = 5, .tau = {}, .stage = 1, .kept_bytes = 1}));
}

TEST_F(FirstStep, ADeathAfterTheStartChangesNothing) {
  for (const int number : {1, 2}) add_worker(swarm_, number, 0, 0);
  for (const int number : {3, 4}) add_worker(swarm_, number, 1, -1);
  EXPECT_FALSE(closes(StageStep::Adopted{.step = 1, .tau = {}, .stage = 1, .kept_bytes = 1}));
  swarm_.peers.erase(node(4));
  for (const int number : {1, 2}) swarm_.peers[node(number)].done = 1;
  EXPECT_TRUE(closes(StageStep::SwarmChanged{}));
}

class LastStep : public FirstStep {
 protected:
  LastStep() {
    for (const int number : {1, 2}) add_worker(swarm_, number, 0, 8);
    for (const int number : {3, 4}) add_worker(swarm_, number, 1, -1);
    clock_.on(StageStep::Adopted{.step = 9, .tau = {}, .stage = 1, .kept_bytes = 0}, swarm_, TimePoint{});
  }
  // A microbatch of the first originator whose bytes are here.
  MicrobatchId arrive(Purpose purpose, Step step) {
    MicrobatchHeader header;
    header.id = {node(1), 1, step, ++index_};
    header.purpose = purpose;
    header.stage = 1;
    header.give_up_age = std::chrono::hours(1);
    const TransferId transfer{node(1), 1, index_};
    clock_.on(StageStep::Offered{node(1), transfer, header}, swarm_, TimePoint{});
    clock_.on(StageStep::Arrived{node(1), transfer, header}, swarm_, TimePoint{});
    EXPECT_TRUE(clock_.keeps(header.id));
    return header.id;
  }
  std::uint32_t index_ = 0;
};

TEST_F(LastStep, EvaluationGoesOnAfterIt) {
  for (const int number : {1, 2}) swarm_.peers[node(number)].done = 9;
  ASSERT_TRUE(closes(StageStep::SwarmChanged{}));
  const MicrobatchId window = arrive(Purpose::eval, 9);  // while the last exchange runs
  const MicrobatchId late = arrive(Purpose::train, 10);
  clock_.on(StageStep::RoundFinished{}, swarm_, TimePoint{});
  ASSERT_TRUE(clock_.ended());
  EXPECT_FALSE(clock_.keeps(late));
  const auto next = clock_.next_work();
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->header.id, window);
  const MicrobatchId another = arrive(Purpose::eval, 9);
  EXPECT_EQ(clock_.next_work()->header.id, another);
}

}  // namespace
}  // namespace starling::pipeline
