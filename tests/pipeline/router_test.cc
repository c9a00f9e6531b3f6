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
  swarm.peers[id_of(11)].record.load_seconds = 2.0;
  swarm.peers[id_of(11)].record.microbatch_seconds = 0.3;
  swarm.peers[id_of(12)].record.load_seconds = 1.0;
  swarm.peers[id_of(12)].record.microbatch_seconds = 0.3;
  Router router = router_of(1, Routing::adaptive, 2);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(router.choose(1, swarm, {}, at(0s)), id_of(12));
}

TEST(Router, OfManyCandidatesTheBestIsNotAlwaysChosen) {
  Swarm swarm = swarm_of(2, 5);
  for (int i = 1; i <= 4; ++i) swarm.peers[id_of(10 + i)].record.load_seconds = 3.0;
  Router router = router_of(1, Routing::adaptive, 2);
  int idle = 0;
  for (int i = 0; i < 1000; ++i) idle += router.choose(1, swarm, {}, at(0s)) == id_of(15) ? 1 : 0;
  // Two of five: the idle one is among them with probability 2 / 5, and then it wins. Five standard deviations: 78.
  EXPECT_NEAR(idle, 400, 78);
}

TEST(Router, ExpectedTimeIsLoadAndOwnSendsLessTheTimeSince) {
  Swarm swarm = swarm_of(2, 1);
  membership::Peer& peer = swarm.peers[id_of(11)];
  peer.record.load_seconds = 2.0;
  peer.record.microbatch_seconds = 0.6;
  peer.record_at = at(10s);
  Router router = router_of(1, Routing::adaptive, 2);
  const auto expected = [&](Duration when) { return seconds(router.expected(id_of(11), swarm, at(when))); };
  constexpr double rounding = 1e-8;  // a duration is whole nanoseconds
  EXPECT_NEAR(expected(10s), 2.2, rounding) << "2 s queued, a forward of 0.2 s";
  EXPECT_NEAR(expected(11s), 1.2, rounding) << "a second later";
  router.sent(id_of(11), swarm);
  EXPECT_NEAR(expected(11s), 1.8, rounding) << "and 0.6 s that we sent";
  EXPECT_NEAR(expected(30s), 0.2, rounding) << "a queue is never negative";
  router.answered(id_of(11), 800ms);
  EXPECT_NEAR(expected(30s), 0.3, rounding) << "an eighth of 0.8 s for the link";
  swarm.peers[id_of(11)].record_at = at(12s);
  EXPECT_NEAR(expected(12s), 2.3, rounding) << "a new report holds what we sent";
}

TEST(Router, StrangersAreNeverExpected) {
  const Swarm swarm = swarm_of(2, 1);
  Router router = router_of(1, Routing::adaptive, 2);
  EXPECT_EQ(router.expected(id_of(99), swarm, at(1s)), Duration::max());
  router.sent(id_of(99), swarm);  // nothing to learn of it
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
