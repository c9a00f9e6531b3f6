#include "gossip/membership/detector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {
namespace {

using namespace std::chrono_literals;

struct Bench {
  explicit Bench(int peers) : detector({test_id(0)}, Stream(7), now) {
    for (int i = 1; i <= peers; ++i) detector.watch(test_id(i));
  }
  // Time passes until `end`; what the detector asked for on the way.
  std::vector<Detector::Action> run(Duration duration) {
    std::vector<Detector::Action> out;
    const TimePoint end = now + duration;
    for (;;) {
      const TimePoint at = std::max(now, detector.next_deadline());
      if (at > end) break;
      now = at;
      for (auto& action : detector.advance(now)) out.push_back(action);
    }
    now = end;
    return out;
  }
  // Until the first action of kind T.
  template <typename T>
  std::optional<T> next(Duration limit = 1min) {
    const TimePoint end = now + limit;
    while (true) {
      const TimePoint at = std::max(now, detector.next_deadline());
      if (at > end) return std::nullopt;
      now = at;
      std::optional<T> found;
      for (auto& action : detector.advance(now)) {
        if (auto* wanted = std::get_if<T>(&action); wanted != nullptr && !found) found = *wanted;
      }
      if (found) return found;
    }
  }
  TimePoint now{1000s};
  Detector detector;
};

template <typename T>
int count_of(const std::vector<Detector::Action>& actions) {
  return static_cast<int>(std::count_if(actions.begin(), actions.end(),
                                        [](const auto& action) { return std::holds_alternative<T>(action); }));
}

TEST(Detector, ProbesEverybodyOnceARound) {
  Bench b(10);
  std::map<NodeId, int> probed;
  for (int n = 0; n < 10; ++n) {
    const auto probe = b.next<Detector::Probe>();
    ASSERT_TRUE(probe);
    b.detector.acked(probe->to, probe->sequence, probe->to, b.now + 1ms);
    ++probed[probe->to];
  }
  EXPECT_EQ(probed.size(), 10U);
}

TEST(Detector, AsksHelpersThenAccuses) {
  Bench b(6);
  const auto probe = b.next<Detector::Probe>();
  ASSERT_TRUE(probe);
  const TimePoint sent = b.now;
  const auto help = b.next<Detector::AskHelp>();
  ASSERT_TRUE(help);
  EXPECT_EQ(help->target, probe->to);
  EXPECT_NE(help->helper, probe->to);
  EXPECT_EQ(b.now - sent, 500ms) << "half of the interval, as nothing is known of this peer";
  const auto accused = b.next<Detector::Accuse>();
  ASSERT_TRUE(accused);
  EXPECT_EQ(accused->peer, probe->to);
  EXPECT_EQ(b.now - sent, 1s);
}

TEST(Detector, AHelpersAnswerSavesTheTarget) {
  Bench b(6);
  const auto help = b.next<Detector::AskHelp>();
  ASSERT_TRUE(help);
  EXPECT_FALSE(b.detector.acked(help->helper, help->sequence, help->target, b.now));
  for (const auto& action : b.run(700ms)) {
    if (const auto* accused = std::get_if<Detector::Accuse>(&action)) { EXPECT_NE(accused->peer, help->target); }
  }
}

TEST(Detector, OnlyWhoWasAskedCanAnswer) {
  Bench b(6);
  const auto help = b.next<Detector::AskHelp>();
  ASSERT_TRUE(help);
  b.detector.acked(test_id(99), help->sequence, help->target, b.now);
  b.detector.acked(help->target, help->sequence, test_id(99), b.now);
  const auto accused = b.next<Detector::Accuse>();
  ASSERT_TRUE(accused);
  EXPECT_EQ(accused->peer, help->target);
}

TEST(Detector, AnyFrameDuringTheProbeIsAnAnswer) {
  Bench b(6);
  const auto probe = b.next<Detector::Probe>();
  ASSERT_TRUE(probe);
  b.now += 300ms;
  b.detector.heard(probe->to, b.now);
  for (const auto& action : b.run(800ms)) {
    if (const auto* accused = std::get_if<Detector::Accuse>(&action)) { EXPECT_NE(accused->peer, probe->to); }
  }
}

// Late answers are samples too: else the deadline would learn from the fast ones alone.
TEST(Detector, ALateAnswerStillTellsTheRoundTrip) {
  Bench b(5);
  const auto probe = b.next<Detector::Probe>();
  ASSERT_TRUE(probe);
  const TimePoint sent = b.now;
  ASSERT_TRUE(b.next<Detector::Accuse>());
  const auto took = b.detector.acked(probe->to, probe->sequence, probe->to, b.now + 100ms);
  ASSERT_TRUE(took);
  EXPECT_EQ(*took, b.now + 100ms - sent);
  EXPECT_FALSE(b.detector.acked(probe->to, probe->sequence, probe->to, b.now + 200ms)) << "one sample each";
}

// Who hears nobody at all doubts itself and slows down; who hears a helper knows that the target is the trouble.
TEST(Detector, SilenceOfAllIsHeldAgainstOneself) {
  Bench deaf(6);
  deaf.run(4s);
  EXPECT_GE(deaf.detector.health(), 2);
  deaf.run(5min);
  EXPECT_EQ(deaf.detector.health(), 8) << "bounded";

  Bench helped(6);
  for (int n = 0; n < 4; ++n) {
    const auto help = helped.next<Detector::AskHelp>();
    ASSERT_TRUE(help);
    helped.detector.acked(help->helper, help->sequence, help->helper, helped.now);  // "I am asking"
  }
  EXPECT_EQ(helped.detector.health(), 0);
}

TEST(Detector, SuccessHeals) {
  Bench b(3);
  b.detector.doubt_self();
  b.detector.doubt_self();
  ASSERT_EQ(b.detector.health(), 2);
  for (int n = 0; n < 2; ++n) {
    const auto probe = b.next<Detector::Probe>();
    b.detector.acked(probe->to, probe->sequence, probe->to, b.now);
  }
  EXPECT_EQ(b.detector.health(), 0);
}

// Lifeguard's formula: min = 3 log10(max(10, n)) s, max = 3 min, four accusers reach min.
TEST(Detector, ConfirmationsShrinkTheTimeout) {
  Bench b(99);
  EXPECT_NEAR(seconds(b.detector.suspicion_least()), 6.0, 1e-9);
  EXPECT_NEAR(seconds(b.detector.suspicion_timeout(1)), 18.0, 1e-6);
  EXPECT_NEAR(seconds(b.detector.suspicion_timeout(2)), 12.0, 1e-6);
  EXPECT_NEAR(seconds(b.detector.suspicion_timeout(3)), 18.0 - 12.0 * std::log(3.0) / std::log(4.0), 1e-6);
  EXPECT_NEAR(seconds(b.detector.suspicion_timeout(4)), 6.0, 1e-6);
  EXPECT_NEAR(seconds(b.detector.suspicion_timeout(9)), 6.0, 1e-6);
  Bench pair(1);
  EXPECT_NEAR(seconds(pair.detector.suspicion_timeout(1)), 3.0, 1e-6) << "nobody else could confirm";
  Bench three(2);
  EXPECT_NEAR(seconds(three.detector.suspicion_timeout(2)), 3.0, 1e-6) << "the only other one has";
}

TEST(Detector, TheVerdictFollowsTheTimeout) {
  Bench b(9);
  b.detector.accused(test_id(4), 1, b.now);
  const TimePoint since = b.now;
  ASSERT_TRUE(b.next<Detector::Believe>(100ms)) << "nothing was ever heard of it";
  b.now += 1s;
  b.detector.accused(test_id(4), 4, b.now);
  const auto dead = b.next<Detector::Condemn>();
  ASSERT_TRUE(dead);
  EXPECT_EQ(dead->peer, test_id(4));
  EXPECT_EQ(b.now - since, b.detector.suspicion_least());
}

// A liar's word against our own ears.
TEST(Detector, WhoIsHeardIsNeitherBelievedSilentNorCondemned) {
  Bench b(9);
  for (int n = 0; n < 300; ++n) {
    b.detector.heard(test_id(4), b.now);
    b.detector.accused(test_id(4), 4, b.now);
    for (const auto& action : b.run(100ms)) {
      if (const auto* belief = std::get_if<Detector::Believe>(&action)) { EXPECT_NE(belief->peer, test_id(4)); }
      if (const auto* dead = std::get_if<Detector::Condemn>(&action)) { EXPECT_NE(dead->peer, test_id(4)); }
    }
  }
  const TimePoint last = b.now - 100ms;
  ASSERT_TRUE(b.next<Detector::Believe>());
  EXPECT_EQ(b.now - last, 1s);
  ASSERT_TRUE(b.next<Detector::Condemn>());
  EXPECT_EQ(b.now - last, b.detector.suspicion_least());
}

TEST(Detector, ANewLifeEndsTheDoubt) {
  Bench b(9);
  b.detector.accused(test_id(4), 4, b.now);
  b.detector.cleared(test_id(4));
  const auto actions = b.run(900ms);
  EXPECT_EQ(count_of<Detector::Believe>(actions), 0);
}

TEST(Detector, ALateWakerAccusesAndCondemnsNobodyForOnePeriod) {
  Bench b(9);
  b.detector.accused(test_id(4), 4, b.now);
  b.run(2s);
  b.now += 1min;
  b.detector.woke_late(1min, b.now);
  const Duration period = b.detector.suspicion_least();
  const auto quiet = b.run(period - 1ms);
  EXPECT_EQ(count_of<Detector::Accuse>(quiet), 0);
  EXPECT_EQ(count_of<Detector::Condemn>(quiet), 0);
  const auto later = b.run(20s);
  EXPECT_GT(count_of<Detector::Accuse>(later), 0);
  EXPECT_GT(count_of<Detector::Condemn>(later), 0);
}

TEST(Detector, SomeOfThoseWhoHearOfAnAccusationLookForThemselves) {
  int looked = 0;
  for (int node = 0; node < 200; ++node) {
    Detector detector({test_id(0)}, Stream(static_cast<std::uint64_t>(node)), TimePoint{1000s});
    for (int i = 1; i < 64; ++i) detector.watch(test_id(i));
    detector.accused(test_id(9), 1, TimePoint{1000s});
    for (const auto& action : detector.advance(TimePoint{1000s})) {
      const auto* probe = std::get_if<Detector::Probe>(&action);
      if (probe != nullptr && probe->to == test_id(9)) ++looked;
    }
  }
  EXPECT_NEAR(looked, 200.0 * 6.0 / 64.0, 12.0);
}

TEST(Detector, PicksAreDifferentAndNotAccused) {
  Bench b(12);
  b.detector.accused(test_id(1), 1, b.now);
  for (int n = 0; n < 100; ++n) {
    const auto picked = b.detector.pick(3, test_id(2));
    EXPECT_EQ(picked.size(), 3U);
    EXPECT_EQ(std::set<NodeId>(picked.begin(), picked.end()).size(), picked.size());
    EXPECT_EQ(std::count(picked.begin(), picked.end(), test_id(1)), 0);
    EXPECT_EQ(std::count(picked.begin(), picked.end(), test_id(2)), 0);
  }
  Bench alone(0);
  EXPECT_TRUE(alone.detector.pick(3, test_id(0)).empty());
}

TEST(Detector, ForgetsWhoIsNotWatched) {
  Bench b(3);
  for (int i = 1; i <= 3; ++i) b.detector.unwatch(test_id(i));
  EXPECT_EQ(b.detector.size(), 1U);
  EXPECT_TRUE(b.run(1min).empty());
}

}  // namespace
}  // namespace starling::membership
