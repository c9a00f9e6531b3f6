#include "gossip/membership/admission.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>

#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {
namespace {

using namespace std::chrono_literals;
using Actions = std::vector<Admission::Action>;

template <typename T>
std::vector<T> only(const Actions& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* found = std::get_if<T>(&action)) out.push_back(*found);
  }
  return out;
}

struct Bench {
  explicit Bench(Admission::Config config = {}) : admission(config) {
    swarm.self = test_id(0);
    Record observer = test_record(0, Standing::active, no_stage);
    observer.role = Role::observer;
    observer.name = "observer";
    swarm.peers[test_id(0)] = {observer, PeerState::active, {}, -1, {}};
  }
  void member(int i, Stage stage, PeerState state = PeerState::active, Slot slot = no_slot) {
    Record record = test_record(i, Standing::active, stage);
    record.slot = slot;
    swarm.peers[test_id(i)] = {record, state, {}, -1, {}};
  }
  Actions on(const Admission::Event& event) { return admission.on(event, swarm, now); }
  Admission::Wish wish(int i, bool has_data = true) {
    return {test_id(i), "volunteer", Role::worker, has_data, std::nullopt, false};
  }
  // What a newcomer is given.
  Admission::Grant ask(std::uint64_t request, const Admission::Wish& w) {
    const auto issues = only<Admission::Issue>(on(Admission::Requested{request, w}));
    EXPECT_EQ(issues.size(), 1U);
    return issues.empty() ? Admission::Grant{} : issues[0].grant;
  }
  Actions issue(std::uint64_t request) { return on(Admission::Issued{request, Bytes(212), Bytes(300)}); }

  TimePoint now{1000s};
  Swarm swarm;
  Admission admission;
};

TEST(Admission, EightJoinersAtOnceAreSpreadOverTheStages) {
  Bench b;
  std::map<Stage, int> given;
  std::set<Slot> slots;
  std::set<std::string> names;
  for (int i = 1; i <= 8; ++i) {
    const auto grant = b.ask(static_cast<std::uint64_t>(i), b.wish(i));
    ++given[grant.stage];
    names.insert(grant.wish.name);
    if (grant.stage == 0) {
      slots.insert(grant.slot);
    } else {
      EXPECT_EQ(grant.slot, no_slot);
    }
  }
  EXPECT_EQ(given, (std::map<Stage, int>{{0, 2}, {1, 2}, {2, 2}, {3, 2}}));
  EXPECT_EQ(slots, (std::set<Slot>{0, 1}));
  EXPECT_EQ(names.size(), 8U);
  EXPECT_TRUE(names.contains("volunteer"));
  EXPECT_TRUE(names.contains("volunteer-8"));
}

TEST(Admission, WhoIsSeenLaterIsToldOfTheLastNewcomers) {
  Bench b;
  b.ask(1, b.wish(1));
  b.ask(2, b.wish(2));
  b.issue(1);
  b.member(9, 1);
  const auto told = only<Admission::Introduce>(b.on(Admission::MemberSeen{test_id(9)}));
  ASSERT_EQ(told.size(), 1U) << "of the first; the second has no certificate yet";
  EXPECT_EQ(told[0].to, test_id(9));
  EXPECT_EQ(told[0].message, (net::Introduce{Bytes(212), Bytes(300)}));
  EXPECT_TRUE(only<Admission::Introduce>(b.on(Admission::MemberSeen{test_id(1)})).empty()) << "nobody is told of itself";
  EXPECT_TRUE(only<Admission::Introduce>(b.on(Admission::MemberSeen{test_id(0)})).empty());
  b.now += 31s;
  EXPECT_TRUE(only<Admission::Introduce>(b.on(Admission::MemberSeen{test_id(9)})).empty()) << "by now gossip has told it";
}

// A newcomer that has said its stage itself is in the view and must not be counted a second time.
TEST(Admission, CountsItsOwnAdmissionsUntilTheViewDoes) {
  Bench b({.stages = 2});
  EXPECT_EQ(b.ask(1, b.wish(1)).stage, 0);
  b.member(1, 0, PeerState::joining, 0);
  EXPECT_EQ(b.ask(2, b.wish(2)).stage, 1);
  EXPECT_EQ(b.ask(3, b.wish(3)).stage, 0);
  b.now += 31s;  // 2 and 3 never came
  EXPECT_EQ(b.ask(4, b.wish(4)).stage, 1);
  EXPECT_EQ(b.ask(5, b.wish(5)).slot, 1) << "slot 0 is held, slot 1 was given to one that never came";
}

TEST(Admission, TheEmptiestStageFirstAndTiesToTheLowest) {
  Bench b;
  b.member(1, 0);
  b.member(2, 1);
  b.member(3, 1);
  b.member(4, 2);
  EXPECT_EQ(b.ask(1, b.wish(11)).stage, 3) << "uncovered";
  EXPECT_EQ(b.ask(2, b.wish(12)).stage, 0);
  EXPECT_EQ(b.ask(3, b.wish(13)).stage, 2);
  EXPECT_EQ(b.ask(4, b.wish(14)).stage, 3);
  EXPECT_EQ(b.ask(5, b.wish(15)).stage, 0);
}

TEST(Admission, StageZeroNeedsData) {
  Bench b;
  b.member(1, 1);
  b.member(2, 2);
  b.member(3, 3);
  EXPECT_EQ(b.ask(1, b.wish(11, false)).stage, 1);
  EXPECT_EQ(b.ask(2, b.wish(12, true)).stage, 0) << "uncovered, and no other stage is missed more";
  Bench one({.stages = 1});
  const auto refused = only<Admission::Refuse>(one.on(Admission::Requested{1, one.wish(1, false)}));
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_EQ(refused[0].reason, Admission::Refuse::Reason::no_place);
}

TEST(Admission, TheDeadTheSuspectAndTheMovingDoNotHoldAStage) {
  Bench b({.stages = 3});
  b.member(1, 0);
  b.member(2, 1, PeerState::dead);
  b.member(3, 1, PeerState::suspect);
  b.member(4, 2);
  EXPECT_EQ(b.ask(1, b.wish(11)).stage, 1);
  b.swarm.peers[test_id(4)].record.claim = 0;
  EXPECT_EQ(b.ask(2, b.wish(12)).stage, 2) << "its only replica is on its way to stage 0";
}

TEST(Admission, SlotsAreTheLowestFreeOnes) {
  Bench b({.stages = 1});
  b.member(1, 0, PeerState::active, 0);
  b.member(2, 0, PeerState::suspect, 1);
  b.member(3, 0, PeerState::dead, 2);
  b.member(4, 0, PeerState::paused, 3);
  b.member(5, 0, PeerState::left, 4);
  EXPECT_EQ(b.ask(1, b.wish(11)).slot, 2);
  EXPECT_EQ(b.ask(2, b.wish(12)).slot, 4);
  EXPECT_EQ(b.ask(3, b.wish(13)).slot, 5);
}

TEST(Admission, AnObserverHoldsNothing) {
  Bench b;
  auto wish = b.wish(9);
  wish.role = Role::observer;
  const auto grant = b.ask(1, wish);
  EXPECT_EQ(grant.stage, no_stage);
  EXPECT_EQ(grant.slot, no_slot);
}

TEST(Admission, NamesAreUniqueAndFit) {
  Swarm swarm;
  const std::string longest(32, 'x');
  for (int i = 1; i <= 9; ++i) {
    Record record = test_record(i);
    record.name = i == 1 ? longest : longest.substr(0, 30) + "-" + std::to_string(i);
    swarm.peers[test_id(i)] = {record, i == 3 ? PeerState::dead : PeerState::active, {}, -1, {}};
  }
  EXPECT_EQ(unique_name(swarm, test_id(50), {}, "fresh"), "fresh");
  EXPECT_EQ(unique_name(swarm, test_id(50), {"fresh", "fresh-2"}, "fresh"), "fresh-3");
  EXPECT_EQ(unique_name(swarm, test_id(50), {}, longest), longest.substr(0, 29) + "-10");
  EXPECT_EQ(unique_name(swarm, test_id(1), {}, longest), longest) << "its own old name is free to it";
}

TEST(Admission, AMemberThatReturnsKeepsItsStageUnlessAnotherIsUncovered) {
  Bench b({.stages = 3});
  for (int i = 1; i <= 6; ++i) b.member(i, i % 3);
  auto wish = b.wish(6);  // stage 0 in its old life, which the view still holds as active
  wish.keep_stage = 2;
  EXPECT_EQ(b.ask(1, wish).stage, 2);
  b.swarm.peers.erase(test_id(1));
  b.swarm.peers.erase(test_id(4));
  auto other = b.wish(5);
  other.keep_stage = 2;
  EXPECT_EQ(b.ask(2, other).stage, 1) << "nobody else holds stage 1";
  auto nonsense = b.wish(20);
  nonsense.keep_stage = 77;
  EXPECT_LT(b.ask(3, nonsense).stage, 3);
  auto blind = b.wish(21, false);
  blind.keep_stage = 0;
  EXPECT_NE(b.ask(4, blind).stage, 0) << "it kept weights, not data";
}

TEST(Admission, ACertifiedNameIsNotChanged) {
  Bench b;
  b.member(1, 1);
  auto wish = b.wish(2);
  wish.name = "w1";
  wish.certified = true;
  EXPECT_EQ(b.ask(1, wish).wish.name, "w1");
  wish.id = test_id(3);
  wish.certified = false;
  EXPECT_EQ(b.ask(2, wish).wish.name, "w1-2");
}

TEST(Admission, AnswersWhenAllActiveOnesHaveAcked) {
  Bench b;
  b.member(1, 1);
  b.member(2, 2);
  b.member(3, 3, PeerState::suspect);
  b.member(4, 3, PeerState::dead);
  b.member(5, 3, PeerState::joining);
  b.ask(7, b.wish(11));
  const auto introductions = only<Admission::Introduce>(b.issue(7));
  std::set<NodeId> told;
  for (const auto& introduction : introductions) told.insert(introduction.to);
  EXPECT_EQ(told, (std::set<NodeId>{test_id(1), test_id(2), test_id(3), test_id(5)})) << "not itself, not the dead";
  EXPECT_TRUE(b.on(Admission::AckCame{test_id(1), test_id(11)}).empty());
  EXPECT_TRUE(b.on(Admission::AckCame{test_id(2), test_id(99)}).empty()) << "about somebody else";
  const auto answers = only<Admission::Answer>(b.on(Admission::AckCame{test_id(2), test_id(11)}));
  ASSERT_EQ(answers.size(), 1U);
  EXPECT_EQ(answers[0].request, 7U);
  EXPECT_EQ(answers[0].certificate.size(), 212U);
  EXPECT_EQ(answers[0].grant.wish.id, test_id(11));
  EXPECT_EQ(b.admission.next_deadline(), never);
}

TEST(Admission, AnswersAfterTwoSecondsWithoutAcks) {
  Bench b;
  b.member(1, 1);
  b.ask(7, b.wish(11));
  b.issue(7);
  EXPECT_EQ(b.admission.next_deadline(), b.now + 2s);
  b.now += 1999ms;
  EXPECT_TRUE(b.on(Admission::Tick{}).empty());
  b.now += 1ms;
  EXPECT_EQ(only<Admission::Answer>(b.on(Admission::Tick{})).size(), 1U);
  EXPECT_TRUE(b.on(Admission::Tick{}).empty());
}

TEST(Admission, ADeathEndsTheWaitForItsAck) {
  Bench b;
  b.member(1, 1);
  b.ask(7, b.wish(11));
  b.issue(7);
  b.swarm.peers[test_id(1)].state = PeerState::dead;
  EXPECT_EQ(only<Admission::Answer>(b.on(Admission::Tick{})).size(), 1U);
}

TEST(Admission, TheFirstMemberOfAllIsAnsweredAtOnce) {
  Bench b;
  b.ask(7, b.wish(11));
  EXPECT_EQ(only<Admission::Answer>(b.issue(7)).size(), 1U);
}

TEST(Admission, WhoAsksAgainGetsTheSame) {
  Bench b;
  b.member(1, 1);
  const auto first = b.ask(1, b.wish(11));
  b.ask(2, b.wish(12));
  const auto again = b.ask(3, b.wish(11));
  EXPECT_EQ(again.stage, first.stage);
  EXPECT_EQ(again.slot, first.slot);
  EXPECT_EQ(again.wish.name, first.wish.name);
  b.issue(1);
  b.issue(3);
  const auto answers = only<Admission::Answer>(b.on(Admission::AckCame{test_id(1), test_id(11)}));
  EXPECT_EQ(answers.size(), 2U) << "one ack speaks for both";
}

TEST(Admission, ACertificateThatNeverCameIsARefusal) {
  Bench b;
  b.ask(1, b.wish(11));
  b.now += 2s;
  EXPECT_EQ(only<Admission::Refuse>(b.on(Admission::Tick{})).size(), 1U);
  EXPECT_TRUE(b.issue(1).empty()) << "too late, and unknown";
}

TEST(Admission, PendingRequestsAreBounded) {
  Bench b({.max_pending = 4});
  for (int i = 1; i <= 4; ++i) b.ask(static_cast<std::uint64_t>(i), b.wish(i));
  const auto refused = only<Admission::Refuse>(b.on(Admission::Requested{5, b.wish(5)}));
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_EQ(refused[0].reason, Admission::Refuse::Reason::busy);
  b.now += 2s;
  b.on(Admission::Tick{});
  b.ask(6, b.wish(6));
  // Names and slots handed out lately are bounded too.
  for (std::uint64_t request = 10; request < 60; ++request) {
    b.on(Admission::Requested{request, b.wish(static_cast<int>(request))});
    b.issue(request);
  }
  EXPECT_FALSE(only<Admission::Refuse>(b.on(Admission::Requested{70, b.wish(70)})).empty());
  b.now += 31s;
  b.ask(71, b.wish(71));
}

// However many join, whether the view has seen them yet or not: no stage gets more than its share, no slot two holders.
RC_GTEST_PROP(Admission, StagesStayBalanced, (int joins)) {
  joins = 1 + std::abs(joins % 60);
  Bench b({.stages = 5});
  for (int i = 1; i <= joins; ++i) {
    const auto request = static_cast<std::uint64_t>(i);
    const auto issued = only<Admission::Issue>(b.on(Admission::Requested{request, b.wish(i)}));
    RC_ASSERT(issued.size() == 1U);
    b.issue(request);
    if (*rc::gen::arbitrary<bool>()) b.member(i, issued[0].grant.stage, PeerState::joining, issued[0].grant.slot);
    b.now += 100ms;
    b.on(Admission::Tick{});
  }
  std::map<Stage, int> held;
  std::map<Slot, int> slots;
  Swarm& swarm = b.swarm;
  for (const auto& [id, peer] : swarm.peers) {
    if (peer.record.role == Role::worker) ++held[peer.record.stage];
    if (peer.record.slot != no_slot) ++slots[peer.record.slot];
  }
  for (const auto& [slot, holders] : slots) RC_ASSERT(holders == 1);
  for (const auto& [stage, count] : held) RC_ASSERT(count <= joins / 5 + 1);
}

}  // namespace
}  // namespace starling::membership
