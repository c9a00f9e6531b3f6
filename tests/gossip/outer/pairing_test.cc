#include "gossip/outer/pairing.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "gossip/base/random.h"

namespace starling::outer {
namespace {

std::vector<NodeId> draw_ids(std::size_t count, std::uint64_t seed) {
  Stream random(seed);
  std::vector<NodeId> ids(count);
  for (NodeId& id : ids) {
    for (std::byte& b : id.key) b = static_cast<std::byte>(random.next());
  }
  return ids;
}

RC_GTEST_PROP(Pairing, EveryPeerIsInExactlyOnePair, (std::uint64_t seed)) {
  const auto count = *rc::gen::inRange<std::size_t>(1, 40);
  const auto round = *rc::gen::inRange<Round>(1, 100'000);
  const auto live = draw_ids(count, seed);
  std::map<NodeId, std::optional<NodeId>> partner;
  for (const NodeId& self : live) partner[self] = pair_up(seed, round, self, live).partner;
  std::size_t odd = 0;
  for (const auto& [self, other] : partner) {
    if (!other) {
      ++odd;
      continue;
    }
    RC_ASSERT(*other != self);
    RC_ASSERT(partner.at(*other) == self);
  }
  RC_ASSERT(odd == count % 2);
}

RC_GTEST_PROP(Pairing, OrderOfTheViewDoesNotMatter, (std::uint64_t seed)) {
  auto live = draw_ids(*rc::gen::inRange<std::size_t>(1, 40), seed);
  const NodeId self = live.front();
  const Pairing before = pair_up(seed, 3, self, live);
  Stream random(seed + 1);
  random.shuffle(live);
  const Pairing after = pair_up(seed, 3, self, live);
  RC_ASSERT(before.partner == after.partner);
  RC_ASSERT(before.candidates == after.candidates);
}

RC_GTEST_PROP(Pairing, CandidatesAreAllOthersThePartnerFirst, (std::uint64_t seed)) {
  const auto live = draw_ids(*rc::gen::inRange<std::size_t>(1, 40), seed);
  const NodeId self = live.back();
  const Pairing pairing = pair_up(seed, 9, self, live);
  const std::set<NodeId> met(pairing.candidates.begin(), pairing.candidates.end());
  RC_ASSERT(met.size() == pairing.candidates.size());
  RC_ASSERT(met.size() == live.size() - 1);
  RC_ASSERT(!met.contains(self));
  if (pairing.partner) RC_ASSERT(pairing.candidates.front() == *pairing.partner);
  const auto rest = pairing.candidates.begin() + (pairing.partner ? 1 : 0);
  RC_ASSERT(std::is_sorted(rest, pairing.candidates.end(), [&](const NodeId& a, const NodeId& b) {
    return edge_rank(seed, 9, self, a) < edge_rank(seed, 9, self, b);
  }));
}

RC_GTEST_PROP(Pairing, RanksOfEdgesAreSymmetric, (std::uint64_t seed, Round round)) {
  const auto ids = draw_ids(2, seed);
  RC_ASSERT(edge_rank(seed, round, ids[0], ids[1]) == edge_rank(seed, round, ids[1], ids[0]));
}

TEST(Pairing, RoundsAndSeedsMixPartners) {
  const auto live = draw_ids(16, 5);
  std::set<NodeId> over_rounds;
  for (Round round = 1; round <= 200; ++round) {
    if (const auto partner = pair_up(1, round, live[0], live).partner) over_rounds.insert(*partner);
  }
  EXPECT_EQ(over_rounds.size(), 15U);
  std::set<NodeId> over_seeds;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    if (const auto partner = pair_up(seed, 1, live[0], live).partner) over_seeds.insert(*partner);
  }
  EXPECT_EQ(over_seeds.size(), 15U);
}

// Each of 15 others about equally often: 3000 rounds, so 200 each, give or take five standard deviations of 14.
TEST(Pairing, PartnersAreUniform) {
  const auto live = draw_ids(16, 6);
  std::map<NodeId, int> met;
  for (Round round = 1; round <= 3000; ++round) ++met[*pair_up(42, round, live[0], live).partner];
  for (const auto& [id, times] : met) EXPECT_NEAR(times, 200, 70);
}

// All nodes of a run must agree on the order, whatever machine and version computed it.
TEST(Pairing, OrderIsPinned) {
  const auto live = draw_ids(4, 1);
  EXPECT_EQ(pair_up(7, 1, live[0], live).candidates.size(), 3U);
  EXPECT_EQ(edge_rank(7, 1, live[0], live[1]), 13408186092569714913U);
  EXPECT_EQ(pair_up(7, 1, live[0], live).partner, live[2]);
}

}  // namespace
}  // namespace starling::outer
