// Which replica does a microbatch visit next: permutation, two random choices, and whom to avoid.
#include "pipeline/router.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using membership::PeerState;
using membership::Swarm;

// Stage s holds the workers 10 s + 1 .. 10 s + replicas; originators are 1 .. replicas.
Swarm swarm_of(Stage stages, int replicas) {
  Swarm swarm;
  swarm.self = id_of(1);
  for (Stage stage = 0; stage < stages; ++stage) {
    for (int i = 1; i <= replicas; ++i) add_worker(swarm, 10 * static_cast<int>(stage) + i, stage);
  }
  return swarm;
}

Router router_of(int self, Routing routing, std::int64_t stages = 4, std::uint64_t seed = 5) {
  return Router({.self = id_of(self), .routing = routing, .seed = seed, .stages = stages}, Stream(9));
}

TEST(Router, APermutationGivesEachReplicaOneOfTheMicrobatchesOfEachIndex) {
  const Swarm swarm = swarm_of(4, 3);
  for (std::uint32_t index = 0; index < 20; ++index) {
    std::map<Stage, std::set<NodeId>> visited;
    for (int originator = 1; originator <= 3; ++originator) {
      Router router = router_of(originator, Routing::permutation);
      // The id of the originator does not enter the permutation, its place among the originators does.
      for (const Hop& hop : router.plan(microbatch(originator, 7, index), swarm, at(1s))) visited[hop.stage].insert(hop.peer);
    }
    for (Stage stage = 1; stage < 4; ++stage) EXPECT_EQ(visited[stage].size(), 3U) << "index " << index;
  }
}

TEST(Router, APermutationDependsOnSeedStepIndexAndStage) {
  const Swarm swarm = swarm_of(4, 8);
  const auto path = [&](std::uint64_t seed, Step step, std::uint32_t index) {
    Router router = router_of(1, Routing::permutation, 4, seed);
    return router.plan(microbatch(1, step, index), swarm, at(1s));
  };
  const auto plan = path(5, 7, 0);
  EXPECT_EQ(plan, path(5, 7, 0));
  EXPECT_NE(plan, path(6, 7, 0));
  EXPECT_NE(plan, path(5, 8, 0));
  EXPECT_NE(plan, path(5, 7, 1));
  std::set<std::byte> places;
  for (std::uint32_t index = 0; index < 40; ++index) {
    for (const Hop& hop : path(5, 7, index)) places.insert(std::byte(static_cast<int>(hop.peer.key[0]) % 10));
  }
  EXPECT_EQ(places.size(), 8U) << "every place is somebody's";
}

TEST(Router, WithMoreOriginatorsThanReplicasPlacesWrapAround) {
  Swarm swarm;
  for (int i = 1; i <= 5; ++i) add_worker(swarm, i, 0);
  add_worker(swarm, 11, 1);
  add_worker(swarm, 12, 1);
  std::map<NodeId, int> count;
  for (int originator = 1; originator <= 5; ++originator) {
    Router router = router_of(originator, Routing::permutation, 2);
    const auto plan = router.plan(microbatch(originator, 1, 0), swarm, at(1s));
    ASSERT_EQ(plan.size(), 1U);
    ++count[plan[0].peer];
  }
  EXPECT_EQ(std::abs(count[id_of(11)] - count[id_of(12)]), 1) << "five over two: three and two";
}

TEST(Router, APermutedHopThatTimedOutIsReplacedByAdaptivesChoice) {
  Swarm swarm = swarm_of(2, 2);
  Router router = router_of(1, Routing::permutation, 2);
  const NodeId planned = router.plan(microbatch(1, 1, 0), swarm, at(1s))[0].peer;
  router.timed_out(planned, swarm, at(1s));
  EXPECT_NE(router.plan(microbatch(1, 1, 0), swarm, at(1s))[0].peer, planned);
  router.answered(planned, 10ms);
  EXPECT_EQ(router.plan(microbatch(1, 1, 0), swarm, at(1s))[0].peer, planned) << "it has answered: no longer avoided";
}

TEST(Router, StagesWithoutALiveReplicaAreLeftOut) {
  Swarm swarm = swarm_of(4, 2);
  set_state(swarm, 21, PeerState::dead);
  set_state(swarm, 22, PeerState::suspect);
  for (const Routing routing : {Routing::permutation, Routing::adaptive}) {
    Router router = router_of(1, routing);
    const auto plan = router.plan(microbatch(1, 1, 0), swarm, at(1s));
    ASSERT_EQ(plan.size(), 2U);
    EXPECT_EQ(plan[0].stage, 1);
    EXPECT_EQ(plan[1].stage, 3);
  }
}

TEST(Router, OfTwoCandidatesTheOneThatIsDoneEarlierIsChosen) {
  Swarm swarm = swarm_of(2, 2);
  swarm.peers[id_of(11)].record.microbatch_seconds = 0.4;
  swarm.peers[id_of(12)].record.microbatch_seconds = 0.3;
  Router router = router_of(1, Routing::adaptive, 2);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {}, at(0s)), id_of(12));
  router.opened(microbatch(1, 1, 0), {{1, id_of(12)}});
  for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {}, at(0s)), id_of(11)) << "0.4 s against 2 x 0.3 s";
}

TEST(Router, OfManyCandidatesTheBestIsNotAlwaysChosen) {
  const Swarm swarm = swarm_of(2, 5);
  Router router = router_of(1, Routing::adaptive, 2);
  for (int i = 1; i <= 4; ++i) router.opened(microbatch(1, 1, i), {{1, id_of(10 + i)}});
  int idle = 0;
  for (int i = 0; i < 1000; ++i) idle += router.choose(1, swarm, {}, at(0s)) == id_of(15) ? 1 : 0;
  // Two of five: the idle one is among them with probability 2 / 5, and then it wins. Five standard deviations: 78.
  EXPECT_NEAR(idle, 400, 78);
}

TEST(Router, ExpectedTimeIsWhatIsOpenThereAndTheLink) {
  Swarm swarm = swarm_of(2, 1);
  swarm.peers[id_of(11)].record.microbatch_seconds = 0.6;
  Router router = router_of(1, Routing::adaptive, 2);
  const auto expected = [&] { return seconds(router.expected(id_of(11), swarm)); };
  constexpr double rounding = 1e-8;  // a duration is whole nanoseconds
  EXPECT_NEAR(expected(), 0.6, rounding) << "its own turn";
  router.opened(microbatch(1, 1, 0), {{1, id_of(11)}});
  router.opened(microbatch(1, 1, 1), {{1, id_of(11)}});
  EXPECT_NEAR(expected(), 1.8, rounding) << "after two of ours";
  router.answered(id_of(11), 800ms);
  EXPECT_NEAR(expected(), 1.9, rounding) << "an eighth of 0.8 s for the link";
  router.ended(microbatch(1, 1, 0));
  router.ended(microbatch(1, 1, 0));
  EXPECT_NEAR(expected(), 1.3, rounding) << "an end counts once";
}

TEST(Router, WhatNeverEndedCountsForEightSteps) {
  Swarm swarm = swarm_of(2, 1);
  swarm.peers[id_of(11)].record.microbatch_seconds = 0.6;
  Router router = router_of(1, Routing::adaptive, 2);
  router.opened(microbatch(1, 1, 0), {{1, id_of(11)}});
  EXPECT_EQ(router.way_of(microbatch(1, 1, 0)).size(), 1U);
  router.opened(microbatch(1, 8, 0), {{1, id_of(11)}});
  EXPECT_NEAR(seconds(router.expected(id_of(11), swarm)), 1.8, 1e-8);
  router.opened(microbatch(1, 9, 0), {});
  EXPECT_NEAR(seconds(router.expected(id_of(11), swarm)), 1.2, 1e-8);
  EXPECT_TRUE(router.way_of(microbatch(1, 1, 0)).empty());
}

TEST(Router, StrangersAreNeverExpected) {
  const Swarm swarm = swarm_of(2, 1);
  Router router = router_of(1, Routing::adaptive, 2);
  EXPECT_EQ(router.expected(id_of(99), swarm), Duration::max());
  router.timed_out(id_of(99), swarm, at(1s));
}

TEST(Router, WhoTimedOutIsAvoidedForTwentyForwardsOrASecond) {
  for (const auto& [forward_and_backward, away] : {std::pair(0.6, 4s), std::pair(0.003, 1s)}) {
    Swarm swarm = swarm_of(2, 2);
    for (const int i : {11, 12}) swarm.peers[id_of(i)].record.microbatch_seconds = forward_and_backward;
    Router router = router_of(1, Routing::adaptive, 2);
    router.timed_out(id_of(11), swarm, at(10s));
    for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {}, at(10s + away - 10ms)), id_of(12));
    std::set<NodeId> chosen;
    for (int i = 0; i < 50; ++i) chosen.insert(*router.choose(1, swarm, {}, at(10s + away + 1ms)));
    EXPECT_EQ(chosen.size(), 2U);
  }
}

TEST(Router, AnAvoidedPeerIsBetterThanNobody) {
  const Swarm swarm = swarm_of(2, 1);
  Router router = router_of(1, Routing::adaptive, 2);
  router.timed_out(id_of(11), swarm, at(10s));
  EXPECT_EQ(router.choose(1, swarm, {}, at(10s)), id_of(11));
}

TEST(Router, WhoHasFailedToTakeItIsNotAskedAgain) {
  const Swarm swarm = swarm_of(2, 2);
  Router router = router_of(1, Routing::adaptive, 2);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {id_of(11)}, at(1s)), id_of(12));
  EXPECT_EQ(router.choose(1, swarm, {id_of(11), id_of(12)}, at(1s)), std::nullopt);
}

TEST(Router, NobodySendsToItself) {
  const Swarm swarm = swarm_of(2, 2);
  Router router = router_of(11, Routing::adaptive, 2);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {}, at(1s)), id_of(12));
}

TEST(Router, ForgottenPeersStartAnew) {
  const Swarm swarm = swarm_of(2, 2);
  Router router = router_of(1, Routing::adaptive, 2);
  router.timed_out(id_of(11), swarm, at(10s));
  router.forget(id_of(11));
  std::set<NodeId> chosen;
  for (int i = 0; i < 50; ++i) chosen.insert(*router.choose(1, swarm, {}, at(10s)));
  EXPECT_EQ(chosen.size(), 2U);
}

TEST(Router, TheBestAlternativeIsJudgedByTheQueueHereAndTheReportThere) {
  Swarm swarm = swarm_of(2, 3);
  for (int i = 1; i <= 3; ++i) swarm.peers[id_of(10 + i)].record.microbatch_seconds = 0.5;
  swarm.peers[id_of(12)].record.load_seconds = 9.0;
  swarm.peers[id_of(13)].record.load_seconds = 4.0;
  Router router = router_of(11, Routing::adaptive, 2);
  EXPECT_EQ(router.best_alternative(1, swarm, 2), 4500ms) << "its report says more than our two would be";
  EXPECT_EQ(router.best_alternative(1, swarm, 10), 5500ms) << "ten as here";
  set_state(swarm, 12, PeerState::dead);
  set_state(swarm, 13, PeerState::dead);
  EXPECT_EQ(router.best_alternative(1, swarm, 2), std::nullopt);
}

}  // namespace
}  // namespace starling::pipeline
