#include "gossip/base/random.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

namespace starling {
namespace {

// Golden: an independent Python program of splitmix64 (whose first outputs for seed 1234567 are the published
// 6457827717110365317, 3203168211198807973) feeding xoshiro256++ (checked with state 1, 2, 3, 4: 41943041, 58720359).
TEST(Stream, MatchesTheReferenceGenerator) {
  Stream stream(42);
  EXPECT_EQ(stream.next(), 0xd0764d4f4476689fU);
  EXPECT_EQ(stream.next(), 0x519e4174576f3791U);
  EXPECT_EQ(stream.next(), 0xfbe07cfb0c24ed8cU);
  EXPECT_EQ(stream.next(), 0xb37d9f600cd835b8U);
}

TEST(Random, NamedStreamsAreIndependentOfEachOther) {
  const Random random(7);
  Stream routing = random.stream("routing");
  const std::uint64_t first = routing.next();
  Stream other = random.stream("pairing");
  other.next();
  EXPECT_EQ(random.stream("routing").next(), first);
  EXPECT_NE(random.stream("pairing").next(), first);
  EXPECT_NE(Random(8).stream("routing").next(), first);
}

TEST(MixSeed, DependsOnEveryPartAndTheirOrder) {
  const std::uint64_t ab[] = {1, 2};
  const std::uint64_t ba[] = {2, 1};
  const std::uint64_t abc[] = {1, 2, 0};
  std::set<std::uint64_t> seeds = {mix_seed(5, ab), mix_seed(5, ba), mix_seed(5, abc), mix_seed(6, ab)};
  EXPECT_EQ(seeds.size(), 4U);
}

RC_GTEST_PROP(Stream, BelowStaysBelow, (std::uint64_t seed)) {
  const auto bound = *rc::gen::inRange<std::uint64_t>(1, std::numeric_limits<std::uint64_t>::max());
  Stream stream(seed);
  for (int i = 0; i < 20; ++i) RC_ASSERT(stream.below(bound) < bound);
}

TEST(Stream, BelowIsWithoutBias) {
  // 3/4 of 2^64: scaling without rejection gives every third value twice the weight of the others.
  const std::uint64_t bound = 3ULL << 62;
  Stream stream(1);
  const int draws = 30000;
  int multiples_of_three = 0;
  for (int i = 0; i < draws; ++i) multiples_of_three += stream.below(bound) % 3 == 0;
  // Standard deviation of the share: sqrt(1/3 * 2/3 / draws) = 0.0027; five of them.
  EXPECT_NEAR(static_cast<double>(multiples_of_three) / draws, 1.0 / 3.0, 0.0136);
  EXPECT_EQ(stream.below(1), 0U);
  EXPECT_DEATH(stream.below(0), "nothing to draw from");
}

TEST(Stream, UniformAndNormalHaveTheirMoments) {
  Stream stream(3);
  const int draws = 40000;
  double sum = 0;
  double normal_sum = 0;
  double normal_squares = 0;
  for (int i = 0; i < draws; ++i) {
    const double u = stream.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    const double n = stream.normal();
    ASSERT_TRUE(std::isfinite(n));
    normal_sum += n;
    normal_squares += n * n;
  }
  // Five standard deviations of each mean: sqrt(1/12), 1 and sqrt(2), over sqrt(draws) = 200.
  EXPECT_NEAR(sum / draws, 0.5, 0.0073);
  EXPECT_NEAR(normal_sum / draws, 0.0, 0.025);
  EXPECT_NEAR(normal_squares / draws, 1.0, 0.036);
}

RC_GTEST_PROP(Stream, ShuffleKeepsEveryItem, (std::uint64_t seed, std::uint8_t size)) {
  std::vector<int> items(size);
  std::iota(items.begin(), items.end(), 0);
  Stream stream(seed);
  stream.shuffle(items);
  std::sort(items.begin(), items.end());
  for (int i = 0; i < size; ++i) RC_ASSERT(items[static_cast<std::size_t>(i)] == i);
}

TEST(Stream, ShuffleReachesEveryOrder) {
  std::set<std::vector<int>> orders;
  Stream stream(9);
  for (int i = 0; i < 200; ++i) {
    std::vector<int> items = {0, 1, 2};
    stream.shuffle(items);
    orders.insert(items);
  }
  EXPECT_EQ(orders.size(), 6U);
}

}  // namespace
}  // namespace starling
