// Many Exchanges together, in virtual time, on links that lose and reorder.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/gossip/outer/exchange_net.h"

namespace starling::outer {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using SoloCause = Exchange::SoloCause;

struct Tally {
  std::size_t averaged = 0;
  std::size_t odd = 0;
  std::size_t other_solo = 0;
  Duration longest{};
};

Tally tally(const std::vector<RoundResult>& results, TimePoint from = {}) {
  Tally t;
  for (const RoundResult& r : results) {
    if (r.ended < from) continue;
    if (r.how.averaged)
      ++t.averaged;
    else if (r.how.cause == SoloCause::odd_one_out)
      ++t.odd;
    else
      ++t.other_solo;
    t.longest = std::max(t.longest, r.finished - r.ended);
  }
  return t;
}

TEST(ExchangeSwarm, HealthyEvenSwarmNeverGoesSolo) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    for (const Duration tau : {Duration(milliseconds(20)), Duration(milliseconds(500)), Duration(seconds(3))}) {
      for (const double skew_in_tau : {0.0, 1.0, 4.0}) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << " tau " << starling::seconds(tau) << " skew "
                                        << skew_in_tau);
        NetOptions options;
        options.seed = seed;
        options.nodes = 16;
        options.stages = 2;
        options.tau = tau;
        options.work = 10 * tau;
        options.skew = scale(tau, skew_in_tau);
        ExchangeNet net(options);
        net.run();
        const Tally t = tally(net.results());
        EXPECT_EQ(t.averaged, 16U * 20U);
        EXPECT_EQ(net.one_sided(), 0U);
      }
    }
  }
}

}  // namespace
}  // namespace starling::outer
