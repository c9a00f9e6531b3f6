// Who is to close the first step. News of an originator may take longer than a whole step of another one.
#include <gtest/gtest.h>

#include <algorithm>
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

}  // namespace
}  // namespace starling::pipeline
