// Many Exchanges together, in virtual time, on links that lose and reorder.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/gossip/outer/exchange_net.h"

namespace starling::outer {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using SoloCause = Exchange::SoloCause;

struct Tally {
  std::size_t averaged = 0;
  std::size_t left_over = 0;  // the odd one out, or the only replica
  std::size_t solo = 0;       // for any other reason
  Duration longest{};
};

Tally tally(const std::vector<RoundResult>& results, TimePoint from = {}, TimePoint until = never) {
  Tally t;
  for (const RoundResult& r : results) {
    if (r.ended < from || r.ended >= until) continue;
    const bool left_over = r.how.cause == SoloCause::odd_one_out || r.how.cause == SoloCause::alone;
    ++(r.how.averaged ? t.averaged : left_over ? t.left_over : t.solo);
    t.longest = std::max(t.longest, r.finished - r.ended);
  }
  return t;
}

NetOptions options_for(std::uint64_t seed, std::size_t nodes, std::size_t stages) {
  NetOptions options;
  options.seed = seed;
  options.nodes = nodes;
  options.stages = stages;
  return options;
}

TEST(ExchangeSwarm, HealthyEvenSwarmNeverGoesSolo) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    for (const Duration tau : {Duration(milliseconds(20)), Duration(milliseconds(500)), Duration(seconds(3))}) {
      for (const double skew_in_tau : {0.0, 1.0, 4.0}) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << ", tau " << starling::seconds(tau) << " s, skew "
                                        << skew_in_tau << " tau");
        NetOptions options = options_for(seed, 16, 2);
        options.tau = tau;
        options.work = 10 * tau;
        options.skew = scale(tau, skew_in_tau);
        ExchangeNet net(options);
        net.run();
        EXPECT_EQ(tally(net.results()).averaged, 16U * 20U);
        EXPECT_EQ(net.one_sided(), 0U);
      }
    }
  }
}

TEST(ExchangeSwarm, LostAndRepeatedMessagesCostNoExchange) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 16, 2);
    options.skew = seconds(1);
    options.loss = 0.1;
    options.duplication = 0.1;
    ExchangeNet net(options);
    net.run();
    EXPECT_EQ(tally(net.results()).averaged, 16U * 20U);
    EXPECT_EQ(net.one_sided(), 0U);
  }
}

TEST(ExchangeSwarm, OneIsLeftOverInAnOddSwarmAndDoesNotWait) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 7, 1);
    options.skew = milliseconds(200);
    ExchangeNet net(options);
    net.run();
    const Tally t = tally(net.results());
    EXPECT_EQ(t.left_over, 20U);
    EXPECT_EQ(t.averaged, 6U * 20U);
    for (const RoundResult& r : net.results()) {
      EXPECT_TRUE(r.how.averaged || r.finished - r.ended <= options.compute_max);
    }
  }
}

TEST(ExchangeSwarm, AloneEndsAtOnce) {
  ExchangeNet net(options_for(1, 1, 1));
  net.run();
  for (const RoundResult& r : net.results()) EXPECT_EQ(r.how.cause, SoloCause::alone);
  EXPECT_EQ(net.results().size(), 20U);
  EXPECT_EQ(net.messages(), 0U);
}

double averaged_share(const Tally& t) {
  return static_cast<double>(t.averaged) / static_cast<double>(t.averaged + t.solo);
}

// Half of the nodes die at once, and views differ for up to 13 s. Asked for: from 30 s after, 80 % of the rounds of those
// who were not left over are averaged. With equal views again it is all of them; in between the second half of the wait
// brings those together whose partners are dead, and nobody waits longer than the rules allow.
TEST(ExchangeSwarm, AveragesAgainAfterHalfHaveDied) {
  for (const std::size_t nodes : {16UL, 32UL, 64UL}) {
    for (std::uint64_t seed = 1; seed <= 4; ++seed) {
      SCOPED_TRACE(testing::Message() << nodes << " nodes, seed " << seed);
      NetOptions options = options_for(seed, nodes, 4);
      options.work = seconds(3);
      options.skew = seconds(1);
      options.loss = 0.02;
      ExchangeNet net(options);
      std::vector<std::size_t> victims(nodes);
      std::iota(victims.begin(), victims.end(), 0U);
      Stream(seed).shuffle(victims);
      victims.resize(nodes / 2);
      const Duration when = seconds(17) + milliseconds(700) * seed;  // in work, at the end of a round, in exchanges
      const TimePoint death = net.now() + when;
      net.at(when, [&] { std::for_each(victims.begin(), victims.end(), [&](std::size_t node) { net.kill(node); }); });
      net.run();

      const Tally before = tally(net.results(), {}, death - seconds(5));
      EXPECT_EQ(before.solo, 0U);
      const Tally between = tally(net.results(), death, death + seconds(30));
      const Tally after = tally(net.results(), death + seconds(30));
      ASSERT_GE(after.averaged + after.left_over, nodes);
      EXPECT_GE(averaged_share(between), 0.8);
      EXPECT_GE(averaged_share(after), 0.98);
      // A partner that dies when it is agreed: its silence, and what is left of the wait.
      EXPECT_LE(between.longest, seconds(5));
      EXPECT_LE(after.longest, seconds(2));
    }
  }
}

TEST(ExchangeSwarm, FarApartNodesAverageToo) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 12, 1);
    options.skew = milliseconds(500);
    options.latency_max = milliseconds(300);
    options.loss = 0.05;
    options.travel_max = seconds(5);
    options.compute_max = seconds(1);
    ExchangeNet net(options);
    net.run();
    EXPECT_EQ(tally(net.results()).averaged, 12U * 20U);
  }
}

// Whatever is lost, every round ends in time (the net checks once per round, never twice the same id, the right parts).
TEST(ExchangeSwarm, TerribleLinksCostExchangesNotTime) {
  std::size_t averaged = 0;
  std::size_t one_sided = 0;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 12, 1);
    options.skew = seconds(2);
    options.loss = 0.5;
    options.duplication = 0.1;
    options.part_failure = 0.1;
    ExchangeNet net(options);
    net.run();
    EXPECT_EQ(net.results().size(), 12U * 20U);
    const Tally t = tally(net.results());
    averaged += t.averaged;
    one_sided += net.one_sided();
    EXPECT_LE(t.longest, seconds(15));
  }
  EXPECT_GE(averaged, 5U * 12U * 20U / 2U);
  EXPECT_LE(one_sided, averaged / 20U);
}

// The link between two halves is cut for a while: rounds go on in each half, and no wait hangs.
TEST(ExchangeSwarm, PartitionOnlyCostsPairsAcrossIt) {
  NetOptions options = options_for(3, 12, 1);
  options.skew = milliseconds(500);
  ExchangeNet net(options);
  const TimePoint begin = net.now() + seconds(20);
  const TimePoint end = net.now() + seconds(60);
  net.cut = [&](std::size_t from, std::size_t to) {
    return net.now() >= begin && net.now() < end && from % 2 != to % 2;
  };
  net.run();
  EXPECT_EQ(tally(net.results()).averaged + tally(net.results()).solo, 12U * 20U);
  EXPECT_GE(averaged_share(tally(net.results(), begin, end)), 0.5);
  EXPECT_EQ(tally(net.results(), end + seconds(5)).solo, 0U);
}

TEST(ExchangeSwarm, CancelledRoundsEndWithoutAWordAndDoNotStopOthers) {
  NetOptions options = options_for(4, 8, 1);
  options.skew = seconds(1);
  ExchangeNet net(options);
  // Whoever is cancelled has lost the round: nothing ends it, so it takes part no more.
  for (std::size_t node = 0; node < 4; ++node) {
    net.at(milliseconds(5'200 + 150 * static_cast<int>(node)), [&, node] {
      net.cancel(node);
      net.kill(node);
    });
  }
  net.run();
  const Tally t = tally(net.results());
  EXPECT_EQ(t.averaged + t.solo + t.left_over, net.results().size());
  EXPECT_GE(t.averaged, 4U * 17U);
}

TEST(ExchangeSwarm, SameSeedSameActions) {
  for (const Algorithm algorithm : {Algorithm::noloco, Algorithm::diloco}) {
    const auto run = [&](std::uint64_t seed) {
      NetOptions options = options_for(seed, 16, 2);
      options.exchange.outer.algorithm = algorithm;
      options.skew = seconds(2);
      options.loss = 0.1;
      options.duplication = 0.1;
      options.part_failure = 0.05;
      ExchangeNet net(options);
      net.at(seconds(12), [&] { net.kill(3); });
      net.run();
      return net.log();
    };
    const std::string first = run(7);
    EXPECT_GT(first.size(), 10'000U);
    EXPECT_EQ(first, run(7));
    EXPECT_NE(first, run(8));
  }
}

// Three whose views differ so that each has another partner: one pair comes about, the third is told and goes on.
TEST(ExchangeSwarm, CircleOfProposalsEndsInOnePair) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 3, 1);
    options.rounds = 1;
    ExchangeNet net(options);
    for (std::size_t node = 0; node < 3; ++node) net.believe(node, (node + 2) % 3, membership::PeerState::suspect);
    net.run();
    const Tally t = tally(net.results());
    EXPECT_EQ(t.averaged, 2U);
    EXPECT_EQ(net.one_sided(), 0U);
    EXPECT_LE(t.longest, seconds(4));
  }
}

// Of two nodes' messages any one is lost, or comes twice: they average all the same, once.
TEST(ExchangeSwarm, AnySingleMessageMayBeLostOrRepeated) {
  for (const ExchangeNet::Fate blow : {ExchangeNet::Fate::lose, ExchangeNet::Fate::twice}) {
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      std::size_t messages = 1;
      for (std::size_t victim = 0; victim < messages; ++victim) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << ", message " << victim);
        NetOptions options = options_for(seed, 2, 1);
        options.rounds = 1;
        options.skew = milliseconds(300);
        ExchangeNet net(options);
        net.fate = [&](std::size_t index, const net::Message&) {
          return index == victim ? blow : ExchangeNet::Fate::deliver;
        };
        net.run();
        messages = net.messages();
        EXPECT_EQ(tally(net.results()).averaged, 2U);
        EXPECT_LE(tally(net.results()).longest, seconds(2));
      }
      EXPECT_GE(messages, 4U);
    }
  }
}

TEST(ExchangeSwarm, DilocoAveragesEverybodyWithEverybody) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    NetOptions options = options_for(seed, 8, 2);
    options.exchange.outer.algorithm = Algorithm::diloco;
    options.skew = seconds(2);  // 4 tau
    ExchangeNet net(options);
    std::size_t parts = 0;
    net.watch = [&](const Exchange::Action& action, std::size_t) {
      if (const auto* average = std::get_if<Exchange::Average>(&action)) parts += average->others.size();
    };
    net.run();
    EXPECT_EQ(tally(net.results()).averaged, 8U * 20U);
    EXPECT_EQ(parts, 8U * 20U * 3U);
  }
}

TEST(ExchangeSwarm, DilocoGoesOnWithoutTheDead) {
  NetOptions options = options_for(2, 16, 2);
  options.exchange.outer.algorithm = Algorithm::diloco;
  options.skew = seconds(1);
  options.part_failure = 0.02;
  ExchangeNet net(options);
  const TimePoint death = net.now() + seconds(17);
  net.at(seconds(17), [&] {
    for (std::size_t node = 0; node < 8; ++node) net.kill(node);
  });
  net.run();
  for (std::size_t node = 8; node < 16; ++node) EXPECT_FALSE(net.is_dead(node));
  EXPECT_EQ(tally(net.results()).solo, 0U);
  EXPECT_LE(tally(net.results()).longest, seconds(12));
  EXPECT_LE(tally(net.results(), death + seconds(30)).longest, seconds(7));
}

TEST(ExchangeSwarm, NoneOnlyCountsRounds) {
  NetOptions options = options_for(1, 8, 2);
  options.exchange.outer.algorithm = Algorithm::none;
  ExchangeNet net(options);
  net.watch = [](const Exchange::Action& action, std::size_t) {
    EXPECT_TRUE(std::holds_alternative<Exchange::RoundFinished>(action));
  };
  net.run();
  EXPECT_EQ(net.results().size(), 8U * 20U);
  EXPECT_EQ(tally(net.results()).longest, Duration{});
}

}  // namespace
}  // namespace starling::outer
