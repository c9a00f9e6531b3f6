#include "gossip/sim/faults.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace starling::sim {
namespace {

using namespace std::chrono_literals;

TEST(Faults, HalfMeansHalfDifferentNodesAtOneTime) {
  for (const std::size_t n : {0u, 1u, 2u, 9u, 64u}) {
    const FaultPlan plan = half_killed_at_once(5, n, TimePoint(3s));
    std::set<std::size_t> nodes;
    for (const Fault& fault : plan) {
      EXPECT_EQ(fault.at, TimePoint(3s));
      EXPECT_EQ(fault.kind, Fault::Kind::crash);
      EXPECT_LT(fault.node, n);
      nodes.insert(fault.node);
    }
    EXPECT_EQ(nodes.size(), n / 2);
    EXPECT_EQ(plan.size(), n / 2);
  }
}

TEST(Faults, TheSeedAloneDecides) {
  EXPECT_EQ(half_killed_at_once(1, 64, TimePoint(1s)), half_killed_at_once(1, 64, TimePoint(1s)));
  EXPECT_NE(half_killed_at_once(1, 64, TimePoint(1s)), half_killed_at_once(2, 64, TimePoint(1s)));
  Churn settings{.from = TimePoint(1s), .until = TimePoint(500s)};
  EXPECT_EQ(churn(1, 16, settings), churn(1, 16, settings));
  EXPECT_NE(churn(1, 16, settings), churn(2, 16, settings));
}

TEST(Faults, ThePausedWakeOrNot) {
  const FaultPlan wakes = half_paused(3, 10, TimePoint(1s), 20s);
  ASSERT_EQ(wakes.size(), 10u);
  std::set<std::size_t> paused;
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(wakes[i].kind, Fault::Kind::pause);
    paused.insert(wakes[i].node);
  }
  for (std::size_t i = 5; i < 10; ++i) {
    EXPECT_EQ(wakes[i].kind, Fault::Kind::resume);
    EXPECT_EQ(wakes[i].at, TimePoint(21s));
    EXPECT_EQ(paused.erase(wakes[i].node), 1u);
  }
  EXPECT_EQ(half_paused(3, 10, TimePoint(1s), Duration::zero()).size(), 5u);
}

TEST(Faults, ChurnIsOrderedAndEveryFaultEndsAndFewAreAwayAtOnce) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Churn settings{
        .from = TimePoint(10s), .until = TimePoint(300s), .mean_between = 1s, .mean_away = 15s, .most_away = 0.25};
    const FaultPlan plan = churn(seed, 12, settings);
    EXPECT_GT(plan.size(), 20u);
    std::map<std::size_t, Fault::Kind> away;
    TimePoint last{};
    for (const Fault& fault : plan) {
      EXPECT_GE(fault.at, last);
      EXPECT_GE(fault.at, settings.from);
      last = fault.at;
      const auto it = away.find(fault.node);
      if (it == away.end()) {
        EXPECT_LT(fault.at, settings.until);
        away[fault.node] = fault.kind;
        EXPECT_LE(away.size(), 3u) << to_string(plan);
        continue;
      }
      const std::map<Fault::Kind, Fault::Kind> end_of{{Fault::Kind::crash, Fault::Kind::restart},
                                                      {Fault::Kind::pause, Fault::Kind::resume},
                                                      {Fault::Kind::cut, Fault::Kind::heal}};
      EXPECT_EQ(fault.kind, end_of.at(it->second)) << to_string(plan);
      away.erase(it);
    }
    EXPECT_TRUE(away.empty()) << to_string(plan);
  }
}

TEST(Faults, APlanPrintsALinePerFault) {
  EXPECT_EQ(to_string({{TimePoint(12500ms), Fault::Kind::crash, 7}}), "12.500 s: crash 7\n");
}

}  // namespace
}  // namespace starling::sim
