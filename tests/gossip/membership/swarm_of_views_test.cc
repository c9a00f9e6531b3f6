// Whole swarms of views: what they agree on, how fast, and what it takes to disturb them.
#include "tests/gossip/membership/swarm_of_views.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace starling::membership {
namespace {

using namespace std::chrono_literals;

SwarmOfViews::Config config_of(std::uint64_t seed) {
  SwarmOfViews::Config config;
  config.seed = seed;
  return config;
}

SwarmOfViews::Config lossy(std::uint64_t seed) {
  SwarmOfViews::Config config = config_of(seed);
  config.loss = 0.05;
  config.jitter = 200ms;
  return config;
}

bool everybody_sees(SwarmOfViews& s, int peer, PeerState state, const std::set<int>& except = {}) {
  for (int i = 0; i < s.size(); ++i) {
    if (i != peer && !except.contains(i) && s.state(i, peer) != state) return false;
  }
  return true;
}

int times_seen(const SwarmOfViews& s, PeerState state) {
  return static_cast<int>(std::count_if(s.seen().begin(), s.seen().end(), [&](const auto& x) { return x.now == state; }));
}

// A settled swarm of active workers.
void settle(SwarmOfViews& s, int count) {
  s.add_workers(count);
  ASSERT_TRUE(s.run_until([&] { return s.converged(); }, 20s));
  ASSERT_EQ(s.swarm(count - 1).peers.size(), static_cast<std::size_t>(count));
  s.run(5s);
}

TEST(SwarmOfViews, NewcomersAreKnownToAllWithinTwoSeconds) {
  for (const int count : {2, 3, 8, 16, 64}) {
    SwarmOfViews s(config_of(static_cast<std::uint64_t>(count)));
    s.add_workers(count);
    EXPECT_TRUE(s.run_until([&] { return s.converged() && std::ssize(s.swarm(1).peers) == count; }, 2s)) << count;
  }
}

TEST(SwarmOfViews, NewsArriveOnALossyNetworkToo) {
  SwarmOfViews s(lossy(3));
  s.add_workers(32);
  ASSERT_TRUE(s.run_until([&] { return s.converged() && s.swarm(5).peers.size() == 32; }, 20s));
  s.change(7, [](Record& r) { r.stage = 3; }, View::SelfChanged::Kind::routine);
  EXPECT_TRUE(s.run_until(
      [&] {
        for (int i = 0; i < 32; ++i) {
          if (s.swarm(i).find(test_id(7))->record.stage != 3) return false;
        }
        return true;
      },
      3s));
}

TEST(SwarmOfViews, EveryMessageFitsTheWire) {
  SwarmOfViews::Config config = lossy(4);
  config.through_wire = true;
  SwarmOfViews s(config);
  s.add_workers(40);
  s.run(20s);
  s.kill(5);
  s.run(10s);
  EXPECT_TRUE(s.run_until([&] { return s.converged(); }, 10s));
  EXPECT_EQ(s.view(3).rejected_records(), 0U);
}

// Kill to `dead` on every node: at most 8 s at 16 nodes, 10 s at 64, for heartbeats of one second; at 2 nodes too.
TEST(SwarmOfViews, ADeathIsSeenEverywhereInTime) {
  const std::map<int, Duration> limits{{2, 6s}, {8, 7s}, {16, 8s}, {64, 10s}};
  for (const auto& [count, limit] : limits) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      SwarmOfViews s(config_of(seed));
      settle(s, count);
      s.kill(count / 2);
      EXPECT_TRUE(s.run_until([&] { return everybody_sees(s, count / 2, PeerState::dead, {count / 2}); }, limit))
          << count << " nodes, seed " << seed;
      EXPECT_EQ(times_seen(s, PeerState::dead), count - 1) << "nobody else died";
    }
  }
}

TEST(SwarmOfViews, ASuspectIsNotLiveLongBeforeItIsDead) {
  SwarmOfViews s(config_of(9));
  settle(s, 16);
  s.kill(4);
  EXPECT_TRUE(s.run_until(
      [&] {
        for (int i = 0; i < 16; ++i) {
          if (i != 4 && s.swarm(i).is_live(test_id(4))) return false;
        }
        return true;
      },
      4s));
  EXPECT_EQ(times_seen(s, PeerState::dead), 0);
}

TEST(SwarmOfViews, HalfDeadAtOnceIsSeenByTheOtherHalf) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SwarmOfViews s(config_of(seed));
    settle(s, 64);
    std::set<int> killed;
    for (int i = 0; i < 64; i += 2) killed.insert(i);
    for (const int i : killed) s.kill(i);
    EXPECT_TRUE(s.run_until(
        [&] {
          return std::all_of(killed.begin(), killed.end(),
                             [&](int i) { return everybody_sees(s, i, PeerState::dead, killed); });
        },
        16s))
        << "seed " << seed;
    EXPECT_TRUE(s.converged());
    EXPECT_EQ(times_seen(s, PeerState::dead), 32 * 32) << "no survivor was buried";
  }
}

// One hour in which every twentieth packet is lost and delays vary by 200 ms. Suspicions come and are refuted.
TEST(SwarmOfViews, NobodyHealthyDiesOnALossyNetwork) {
  SwarmOfViews s(lossy(11));
  s.add_workers(16);
  s.run(std::chrono::hours(1));
  EXPECT_EQ(times_seen(s, PeerState::dead), 0);
  EXPECT_GT(times_seen(s, PeerState::suspect), 0) << "the network was not bad enough to prove anything";
  for (int i = 0; i < 16; ++i) EXPECT_EQ(s.swarm(i).peers.size(), 16U);
}

// Frames of the pipeline are proof of life: a peer that speaks all the time is neither probed nor believed silent.
TEST(SwarmOfViews, BusyPeersCostNoProbesOfTheirOwn) {
  SwarmOfViews::Config config = config_of(12);
  config.keep_log = true;
  SwarmOfViews s(config);
  settle(s, 8);
  const auto pings_to = [&](int to) {
    return std::count_if(s.log().begin(), s.log().end(), [&](const std::string& line) {
      return line.find(" 0 ping " + std::to_string(to)) != std::string::npos && line.ends_with(" " + std::to_string(to));
    });
  };
  const auto before_busy = pings_to(1);
  const auto before_quiet = pings_to(2);
  for (int n = 0; n < 600; ++n) {
    s.run(100ms);
    s.feed(0, View::HeardFrom{test_id(1)});
  }
  const auto busy = pings_to(1) - before_busy;
  const auto quiet = pings_to(2) - before_quiet;
  EXPECT_LT(busy * 4, quiet);
  EXPECT_GE(quiet, 7) << "60 probes over the 6 or 7 others";
}

TEST(SwarmOfViews, ASleeperIsBuriedAndComesBackWithANewLife) {
  SwarmOfViews s(config_of(13));
  settle(s, 12);
  const auto before = s.swarm(0).find(test_id(5))->record.incarnation;
  s.pause(5);
  s.run(30s);
  ASSERT_TRUE(everybody_sees(s, 5, PeerState::dead));
  const TimePoint woke = s.now();
  s.wake(5);
  EXPECT_EQ(s.count(5, "woke_late"), 1);
  EXPECT_GE(s.count(5, "view_request"), 2) << "the tables of two peers";
  EXPECT_TRUE(s.run_until([&] { return everybody_sees(s, 5, PeerState::active); }, 3s));
  EXPECT_GT(s.swarm(0).find(test_id(5))->record.incarnation, before);
  s.run(20s);
  EXPECT_TRUE(s.converged());
  for (const auto& seen : s.seen()) {
    if (seen.observer == 5 && seen.at >= woke) {
      EXPECT_NE(seen.now, PeerState::suspect) << "the sleeper accused a peer that was awake";
      EXPECT_NE(seen.now, PeerState::dead);
    }
  }
}

// The sleeper's own timers were due long ago; the dead that it does find are found a suspicion period later, not at once.
TEST(SwarmOfViews, WhoWakesLateCondemnsNobodyForOnePeriod) {
  SwarmOfViews s(config_of(14));
  settle(s, 8);
  s.kill(3);
  s.run(1500ms);  // some suspect 3 by now, perhaps
  s.pause(5);
  s.run(2min);
  s.wake(5);
  const TimePoint woke = s.now();
  ASSERT_TRUE(s.run_until([&] { return s.state(5, 3) == PeerState::dead; }, 30s));
  EXPECT_GE(s.now() - woke, 3s);
  EXPECT_TRUE(s.run_until([&] { return s.converged(); }, 10s));
}

TEST(SwarmOfViews, AShortNapIsNoLateWake) {
  SwarmOfViews s(config_of(15));
  settle(s, 4);
  s.pause(2);
  s.run(900ms);
  s.wake(2);
  s.run(5s);
  EXPECT_EQ(s.count(2, "woke_late"), 0);
  EXPECT_EQ(times_seen(s, PeerState::dead), 0);
}

TEST(SwarmOfViews, HalfPausedForAMinuteAllComeBack) {
  SwarmOfViews s(config_of(16));
  settle(s, 32);
  for (int i = 0; i < 16; ++i) s.pause(i);
  s.run(1min);
  for (int i = 0; i < 16; ++i) s.wake(i);
  EXPECT_TRUE(s.run_until([&] { return s.converged(); }, 15s));
  for (int i = 0; i < 32; ++i) EXPECT_EQ(s.swarm(i).live_workers().size(), 32U) << i;
}

TEST(SwarmOfViews, AHigherBootReplacesTheOldSelfAtOnce) {
  SwarmOfViews s(config_of(17));
  settle(s, 16);
  s.kill(6);
  s.run(500ms);  // nobody has noticed
  s.restart(6, 0);
  EXPECT_TRUE(s.run_until(
      [&] {
        for (int i = 0; i < 16; ++i) {
          if (s.swarm(i).find(test_id(6))->record.boot != 2) return false;
        }
        return s.converged();
      },
      3s));
  s.run(20s);
  EXPECT_EQ(times_seen(s, PeerState::dead), 0) << "the silence of the old self was held against the new one";
}

TEST(SwarmOfViews, ARestartedNodeComesBackFromTheDeadAndKnowsAll) {
  SwarmOfViews s(config_of(18));
  settle(s, 16);
  s.kill(6);
  s.run(15s);
  ASSERT_TRUE(everybody_sees(s, 6, PeerState::dead, {6}));
  s.restart(6, 9);
  EXPECT_TRUE(s.run_until([&] { return s.converged() && s.swarm(6).peers.size() == 16; }, 3s));
}

TEST(SwarmOfViews, FlappingEndsInAgreement) {
  SwarmOfViews s(lossy(19));
  settle(s, 12);
  for (int n = 0; n < 10; ++n) {
    s.kill(3);
    s.run(n % 2 == 0 ? 2s : 9s);
    s.restart(3, n % 3);
    s.run(1s);
  }
  EXPECT_TRUE(s.run_until([&] { return s.converged(); }, 20s));
  EXPECT_EQ(s.swarm(1).find(test_id(3))->record.boot, 11U);
}

TEST(SwarmOfViews, WhoLeavesSaysSoAndIsNotSuspected) {
  SwarmOfViews s(config_of(20));
  settle(s, 16);
  s.change(8, [](Record& r) { r.standing = Standing::left; }, View::SelfChanged::Kind::important);
  s.run(50ms);
  s.kill(8);  // it says one word and is gone
  EXPECT_TRUE(s.run_until([&] { return everybody_sees(s, 8, PeerState::left, {8}); }, 3s));
  s.run(20s);
  EXPECT_EQ(times_seen(s, PeerState::suspect), 0);
  EXPECT_EQ(times_seen(s, PeerState::dead), 0);
}

TEST(SwarmOfViews, APartitionHeals) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SwarmOfViews s(config_of(seed));
    settle(s, 24);
    s.partition([](int i) { return i < 9 ? 0 : 1; });
    s.run(1min);
    EXPECT_EQ(s.swarm(0).live_workers().size(), 9U);
    EXPECT_EQ(s.swarm(20).live_workers().size(), 15U);
    s.heal();
    EXPECT_TRUE(s.run_until([&] { return s.converged(); }, 45s)) << seed;
    EXPECT_EQ(s.swarm(0).live_workers().size(), 24U);
  }
}

// Two nodes whose own link is cut but who both reach the others: the helpers' probes keep them alive for each other.
TEST(SwarmOfViews, ALinkThatIsCutKillsNobody) {
  SwarmOfViews::Config config = config_of(21);
  SwarmOfViews s(config);
  settle(s, 8);
  s.cut(1, 2);
  s.run(5min);
  EXPECT_EQ(times_seen(s, PeerState::dead), 0);
  EXPECT_EQ(times_seen(s, PeerState::suspect), 0);
}

TEST(SwarmOfViews, DoneTravelsOnProbesAndInRecords) {
  SwarmOfViews s(config_of(22));
  settle(s, 16);
  s.feed(4, View::DoneCame{test_id(4), {1, 77}});
  EXPECT_TRUE(s.run_until(
      [&] {
        for (int i = 0; i < 16; ++i) {
          if (s.swarm(i).largest_done() != 77) return false;
        }
        return true;
      },
      15s));
  s.kill(4);
  s.run(15s);
  EXPECT_EQ(s.swarm(9).largest_done(), 77) << "kept after death";
}

// What 64 idle nodes cost: each event is a message or a timer. And loads do spread, though less often.
TEST(SwarmOfViews, SixtyFourNodesStayCheap) {
  SwarmOfViews::Config config = config_of(23);
  SwarmOfViews s(config);
  settle(s, 64);
  s.run(10s);
  const auto events = s.events();
  for (int second = 0; second < 60; ++second) {
    for (int i = 0; i < 64; ++i) {
      s.change(i, [&](Record& r) { r.load_seconds = second; }, View::SelfChanged::Kind::routine);
    }
    s.run(1s);
  }
  const double per_node_and_second = static_cast<double>(s.events() - events) / 60.0 / 64.0;
  RecordProperty("events_per_node_and_second", std::to_string(per_node_and_second));
  EXPECT_LT(per_node_and_second, 8.0);  // 1 of them is the change itself
  double oldest = 60.0;
  for (const auto& [id, peer] : s.swarm(0).peers) oldest = std::min(oldest, peer.record.load_seconds);
  EXPECT_GT(oldest, 35.0) << "some load was known that is older than 25 s";
}

TEST(SwarmOfViews, OneSeedGivesOneLog) {
  const auto run = [](std::uint64_t seed) {
    SwarmOfViews::Config config = lossy(seed);
    config.keep_log = true;
    SwarmOfViews s(config);
    s.add_workers(20);
    s.run(10s);
    s.kill(3);
    s.pause(4);
    s.run(20s);
    s.wake(4);
    s.restart(3, 1);
    s.run(20s);
    return s.log();
  };
  const auto first = run(31);
  EXPECT_GT(first.size(), 1000U);
  EXPECT_EQ(first, run(31));
  EXPECT_NE(first, run(32));
}

}  // namespace
}  // namespace starling::membership
