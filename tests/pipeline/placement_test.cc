// Who keeps copies of a stage, and who takes a lost one over.
#include "pipeline/placement.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {
namespace {

using namespace std::chrono_literals;
using membership::PeerState;
using membership::Swarm;
using MayMove = Placement::MayMove;

// Stage s holds the workers 10 s + 1 .. 10 s + replicas.
Swarm swarm_of(std::vector<int> replicas) {
  Swarm swarm;
  for (Stage stage = 0; stage < static_cast<Stage>(replicas.size()); ++stage) {
    for (int i = 1; i <= replicas[static_cast<std::size_t>(stage)]; ++i) add_worker(swarm, 10 * static_cast<int>(stage) + i, stage);
  }
  return swarm;
}

TEST(BackupPlan, OneReplicaSendsToTwoWorkersOfOtherStages) {
  const Swarm swarm = swarm_of({2, 3, 2});
  std::set<NodeId> senders, holders;
  for (Round round = 1; round <= 40; ++round) {
    const BackupPlan plan = plan_backup(7, round, 1, swarm);
    EXPECT_EQ(swarm.find(plan.sender)->record.stage, 1);
    ASSERT_EQ(plan.holders.size(), 2U);
    for (const NodeId& holder : plan.holders) EXPECT_NE(swarm.find(holder)->record.stage, 1);
    EXPECT_NE(plan.holders[0], plan.holders[1]);
    senders.insert(plan.sender);
    holders.insert(plan.holders.begin(), plan.holders.end());
  }
  EXPECT_EQ(senders.size(), 3U) << "the load goes round";
  EXPECT_EQ(holders.size(), 4U);
}

TEST(BackupPlan, HoldersAreOnTwoHostsWhereThereAreTwo) {
  Swarm swarm = swarm_of({4, 1});
  for (int i = 1; i <= 4; ++i) swarm.peers[id_of(i)].record.host = i == 4 ? 2 : 1;
  for (Round round = 1; round <= 40; ++round) {
    const BackupPlan plan = plan_backup(7, round, 1, swarm);
    ASSERT_EQ(plan.holders.size(), 2U);
    EXPECT_TRUE(plan.holders[0] == id_of(4) || plan.holders[1] == id_of(4)) << "round " << round;
  }
  swarm.peers[id_of(4)].record.host = 1;
  EXPECT_EQ(plan_backup(7, 1, 1, swarm).holders.size(), 2U) << "two of one host are better than one";
}

TEST(BackupPlan, WithOneStageItsReplicasKeepCopies) {
  const BackupPlan plan = plan_backup(7, 1, 0, swarm_of({4}));
  ASSERT_EQ(plan.holders.size(), 2U);
  for (const NodeId& holder : plan.holders) EXPECT_NE(holder, plan.sender);
  EXPECT_TRUE(plan_backup(7, 1, 0, swarm_of({1})).holders.empty());
}

TEST(BackupPlan, NobodySendsForAStageThatNobodyHolds) {
  Swarm swarm = swarm_of({2, 1});
  set_state(swarm, 11, PeerState::dead);
  EXPECT_TRUE(plan_backup(7, 1, 1, swarm).sender.is_null());
}

TEST(BackupHolders, AreTheLiveOnesNewestCopyFirst) {
  Swarm swarm = swarm_of({4});
  swarm.peers[id_of(1)].record.backups = {{1, 20}, {2, 90}};
  swarm.peers[id_of(2)].record.backups = {{1, 40}, {1, 30}};
  swarm.peers[id_of(3)].record.backups = {{1, 20}};
  swarm.peers[id_of(4)].record.backups = {{1, 80}};
  set_state(swarm, 4, PeerState::dead);
  EXPECT_EQ(backup_holders(swarm, 1), (std::vector{id_of(2), id_of(1), id_of(3)}));
  EXPECT_TRUE(backup_holders(swarm, 3).empty());
}

// Several workers that decide on one swarm. `step` runs one of them.
struct Bench {
  explicit Bench(Swarm swarm_, std::int64_t stages_) : swarm(std::move(swarm_)), stages(stages_) {}
  Placement& of(int number) {
    auto it = deciders.find(number);
    if (it == deciders.end()) {
      it = deciders.emplace(number, Placement({.self = id_of(number), .seed = 3, .stages = stages})).first;
    }
    return it->second;
  }
  std::vector<Placement::Action> on(int number, const Placement::Event& event = Placement::Look{}, MayMove may = MayMove::yes) {
    return of(number).on(event, swarm, swarm.find(id_of(number))->record.stage, may, now);
  }
  // Who would claim at this time, of these.
  std::vector<int> claimers(const std::vector<int>& numbers) {
    std::vector<int> out;
    for (const int number : numbers) {
      if (has<Placement::Load>(on(number))) out.push_back(number);
    }
    return out;
  }

  Swarm swarm;
  std::int64_t stages;
  TimePoint now = at(100s);
  std::map<int, Placement> deciders;
};

TEST(Placement, AStageIsTakenAfterFiveSecondsByOneWorkerOfTheBestCoveredStage) {
  Bench b(swarm_of({2, 3, 1}), 3);
  const std::vector<int> all{1, 2, 11, 12, 13};
  set_state(b.swarm, 21, PeerState::dead);
  EXPECT_TRUE(b.claimers(all).empty());
  b.now += 4999ms;
  EXPECT_TRUE(b.claimers(all).empty());
  b.now += 1ms;
  const auto first_ones = b.claimers(all);
  ASSERT_EQ(first_ones.size(), 1U) << "candidates come one after the other";
  EXPECT_GT(first_ones[0], 10) << "of stage 1, which has three";
  b.now += 2s;
  EXPECT_EQ(b.claimers(all).size(), 1U) << "nobody heard of the claim: the next one, two seconds later";
}

TEST(Placement, EveryCandidateOwnsATimer) {
  Bench b(swarm_of({2, 3, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  std::set<Duration> waits;
  for (const int number : {11, 12, 13}) {
    b.on(number);
    waits.insert(b.of(number).next_deadline() - b.now);
  }
  EXPECT_EQ(waits, (std::set<Duration>{5s, 7s, 9s}));
  b.on(1);
  EXPECT_EQ(b.of(1).next_deadline(), never) << "it is no candidate";
}

TEST(Placement, AClaimThatIsKnownKeepsTheOthersBack) {
  Bench b(swarm_of({2, 3, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12, 13});
  b.now += 5s;
  const auto first_ones = b.claimers({11, 12, 13});
  ASSERT_EQ(first_ones.size(), 1U);
  EXPECT_EQ(b.of(first_ones[0]).claimed(), 2);
  b.swarm.peers[id_of(first_ones[0])].record.claim = 2;
  b.now += 1h;
  for (const int number : {11, 12, 13}) {
    if (number == first_ones[0]) continue;
    EXPECT_TRUE(b.on(number).empty());
  }
}

TEST(Placement, OfTwoClaimsTheSmallerHashWins) {
  Bench b(swarm_of({2, 3, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12, 13});
  b.now += 9s;  // all three are due: neither hears of the other
  EXPECT_EQ(b.claimers({11, 12, 13}).size(), 3U);
  for (const int number : {11, 12, 13}) b.swarm.peers[id_of(number)].record.claim = 2;
  int winners = 0;
  for (const int number : {11, 12, 13}) {
    const auto actions = b.on(number);
    if (actions.empty()) {
      ++winners;
      continue;
    }
    EXPECT_TRUE(has<Placement::CancelLoad>(actions));
    EXPECT_EQ(first<Placement::Claim>(actions)->stage, no_stage);
    EXPECT_EQ(b.of(number).claimed(), std::nullopt);
  }
  EXPECT_EQ(winners, 1);
}

TEST(Placement, AStageThatComesBackEndsTheClaim) {
  Bench b(swarm_of({2, 3, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12, 13});
  b.now += 5s;
  const int claimer = b.claimers({11, 12, 13}).at(0);
  set_state(b.swarm, 21, PeerState::active);
  EXPECT_TRUE(has<Placement::CancelLoad>(b.on(claimer)));
}

TEST(Placement, SuspectPausedOrJoiningReplicasStillHoldTheirStage) {
  for (const PeerState state : {PeerState::suspect, PeerState::paused, PeerState::joining}) {
    Bench b(swarm_of({2, 3, 1}), 3);
    set_state(b.swarm, 21, state);
    b.claimers({11, 12, 13});
    b.now += 1h;
    EXPECT_TRUE(b.claimers({11, 12, 13}).empty()) << membership::to_string(state);
  }
}

TEST(Placement, TheFiveSecondsCountFromTheLastLoss) {
  Bench b(swarm_of({2, 3, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12, 13});
  b.now += 4s;
  set_state(b.swarm, 21, PeerState::active);
  b.claimers({11, 12, 13});
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12, 13});
  b.now += 4s;
  EXPECT_TRUE(b.claimers({11, 12, 13}).empty());
}

TEST(Placement, NoMiddleStageGivesItsLastReplicaForAnother) {
  Bench b(swarm_of({1, 1, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({1, 11});
  b.now += 1h;
  EXPECT_TRUE(b.claimers({1, 11}).empty());
}

TEST(Placement, ForStageZeroAMiddleStageMayGiveItsLast) {
  Bench b(swarm_of({1, 1, 1}), 3);
  set_state(b.swarm, 1, PeerState::dead);
  b.claimers({11, 21});
  b.now += 1h;
  EXPECT_EQ(b.claimers({11, 21}).size(), 1U);
}

TEST(Placement, StageZeroNeedsAWorkerWithData) {
  Bench b(swarm_of({1, 3}), 2);
  set_state(b.swarm, 1, PeerState::dead);
  b.swarm.peers[id_of(11)].record.has_data = false;
  b.swarm.peers[id_of(13)].record.has_data = false;
  b.claimers({11, 12, 13});
  b.now += 5s;
  EXPECT_EQ(b.claimers({11, 12, 13}), std::vector{12}) << "alone, so first";
}

TEST(Placement, NobodyWithDataNobodyTakesStageZero) {
  Bench b(swarm_of({1, 2}), 2);
  set_state(b.swarm, 1, PeerState::dead);
  for (const int i : {11, 12}) b.swarm.peers[id_of(i)].record.has_data = false;
  b.claimers({11, 12});
  b.now += 1h;
  EXPECT_TRUE(b.claimers({11, 12}).empty());
}

TEST(Placement, WhoMayNotMoveDoesNotClaim) {
  Bench b(swarm_of({2, 2, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.on(11, Placement::Look{}, MayMove::no);
  b.now += 1h;
  EXPECT_TRUE(b.on(11, Placement::Look{}, MayMove::no).empty());
  EXPECT_TRUE(b.on(12, Placement::Look{}, MayMove::no).empty());
}

TEST(Placement, ALoadThatSucceedsOrFailsEndsTheClaim) {
  for (const bool good : {true, false}) {
    Bench b(swarm_of({1, 2, 1}), 3);
    set_state(b.swarm, 21, PeerState::dead);
    b.claimers({11, 12});
    b.now += 5s;
    const int claimer = b.claimers({11, 12}).at(0);
    const auto actions = good ? b.on(claimer, Placement::Loaded{2}) : b.on(claimer, Placement::LoadFailed{2});
    EXPECT_EQ(first<Placement::Claim>(actions)->stage, no_stage);
    EXPECT_EQ(b.of(claimer).claimed(), std::nullopt);
    b.now += 4s;
    EXPECT_TRUE(b.on(claimer).empty()) << "and the five seconds begin anew";
  }
}

TEST(Placement, WhoWakesLateCountsFromItsWake) {
  Bench b(swarm_of({1, 2, 1}), 3);
  set_state(b.swarm, 21, PeerState::dead);
  b.claimers({11, 12});
  b.now += 1h;
  EXPECT_TRUE(b.on(11, Placement::WokeLate{}).empty());
  EXPECT_TRUE(b.on(12, Placement::WokeLate{}).empty());
}

}  // namespace
}  // namespace starling::pipeline
