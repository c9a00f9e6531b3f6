#include "gossip/outer/outer_step.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "gossip/base/random.h"

namespace starling::outer {
namespace {

using Values = std::vector<float>;

Values draw(std::size_t count, double scale, std::uint64_t seed) {
  Stream random(seed);
  Values values(count);
  for (float& value : values) value = static_cast<float>(scale * random.normal());
  return values;
}

struct Replica {
  Values phi;
  Values momentum;
  Values delta;
  Contribution contribution() const { return {phi, delta}; }
};

Replica draw_replica(std::size_t count, std::uint64_t seed) {
  return {draw(count, 1.0, seed), draw(count, 0.1, seed + 1), draw(count, 0.1, seed + 2)};
}

// One parameter, worked out by hand: alpha 0.5, beta 0.75, gamma 0.25; every number is exact in binary.
TEST(OuterStep, FollowsTheEquation) {
  const OuterCoefficients coefficients{0.5F, 0.75F, 0.25F};
  const Values other_phi{6.0F};
  const Values other_delta{3.0F};
  for (auto* step : {&outer_step, &outer_step_reference}) {
    Values phi{2.0F};
    Values momentum{8.0F};
    const Values delta{1.0F};
    const std::vector<Contribution> others{{other_phi, other_delta}};
    (*step)(phi, momentum, delta, others, coefficients);
    EXPECT_EQ(momentum[0], 0.5F * 8.0F + 0.75F * 2.0F - 0.25F * (2.0F - 4.0F));  // 6
    EXPECT_EQ(phi[0], 8.0F);
  }
}

TEST(OuterStep, AloneHasNoGammaTerm) {
  for (auto* step : {&outer_step, &outer_step_reference}) {
    Values phi{2.0F};
    Values momentum{8.0F};
    const Values delta{4.0F};
    (*step)(phi, momentum, delta, {}, {0.5F, 0.75F, 100.0F});
    EXPECT_EQ(momentum[0], 7.0F);
    EXPECT_EQ(phi[0], 9.0F);
  }
}

// Float against double. On its way into the new momentum a value meets at most n - 1 additions, the share, a product, a
// difference, another product and two more additions: n + 5 roundings, each of relative size u = 2^-24, of terms whose
// magnitudes add up to M. Two more cover the second-order terms, the rounding of phi and of the reference's result.
TEST(OuterStep, AgreesWithTheReference) {
  constexpr double u = 0x1p-24;
  const OuterCoefficients coefficients;
  for (const std::size_t count : {0UL, 1UL, 7UL, 1023UL, 1024UL, 1025UL, 5000UL}) {
    for (const std::size_t group : {1UL, 2UL, 3UL, 8UL}) {
      SCOPED_TRACE(std::to_string(count) + " values, group of " + std::to_string(group));
      std::vector<Replica> replicas;
      for (std::size_t i = 0; i < group; ++i) replicas.push_back(draw_replica(count, 100 * i + count));
      std::vector<Contribution> others;
      for (std::size_t i = 1; i < group; ++i) others.push_back(replicas[i].contribution());

      Replica fast = replicas[0];
      Replica slow = replicas[0];
      outer_step(fast.phi, fast.momentum, fast.delta, others, coefficients);
      outer_step_reference(slow.phi, slow.momentum, slow.delta, others, coefficients);
      const double n = static_cast<double>(group);
      for (std::size_t i = 0; i < count; ++i) {
        double phis = 0.0;
        double deltas = 0.0;
        for (const Replica& replica : replicas) {
          phis += std::fabs(replica.phi[i]);
          deltas += std::fabs(replica.delta[i]);
        }
        const double own_phi = std::fabs(replicas[0].phi[i]);
        const double magnitude = coefficients.alpha * std::fabs(replicas[0].momentum[i]) +
                                 coefficients.beta * deltas / n + coefficients.gamma * (own_phi + phis / n);
        const double tolerance = (n + 7.0) * u * magnitude;
        ASSERT_NEAR(fast.momentum[i], slow.momentum[i], tolerance) << "momentum " << i;
        ASSERT_NEAR(fast.phi[i], slow.phi[i], tolerance + 2.0 * u * (own_phi + magnitude)) << "phi " << i;
      }
    }
  }
}

// With all replicas in the group the gamma terms cancel in the mean: the mean of phi moves as DiLoCo's single phi does.
TEST(OuterStep, WholeGroupMovesItsMeanAsDiloco) {
  constexpr std::size_t count = 64;
  constexpr std::size_t group = 4;
  std::vector<Replica> replicas;
  for (std::size_t i = 0; i < group; ++i) replicas.push_back(draw_replica(count, 10 * i));
  const auto mean_of = [&](auto member, const std::vector<Replica>& of) {
    std::vector<double> mean(count, 0.0);
    for (const Replica& replica : of) {
      for (std::size_t i = 0; i < count; ++i) mean[i] += (replica.*member)[i] / static_cast<double>(group);
    }
    return mean;
  };
  const OuterCoefficients coefficients;
  std::vector<Replica> after = replicas;
  for (std::size_t self = 0; self < group; ++self) {
    std::vector<Contribution> others;
    for (std::size_t i = 0; i < group; ++i) {
      if (i != self) others.push_back(replicas[i].contribution());
    }
    outer_step(after[self].phi, after[self].momentum, after[self].delta, others, coefficients);
  }
  const auto phi = mean_of(&Replica::phi, replicas);
  const auto momentum = mean_of(&Replica::momentum, replicas);
  const auto delta = mean_of(&Replica::delta, replicas);
  const auto phi_after = mean_of(&Replica::phi, after);
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_NEAR(phi_after[i], phi[i] + coefficients.alpha * momentum[i] + coefficients.beta * delta[i], 1e-5);
  }
}

// The published condition alpha < gamma < sqrt(2 + alpha^2): pairs that only average come together; outside they do not.
double spread_after_rounds(float gamma) {
  constexpr std::size_t replicas = 8;
  constexpr std::size_t count = 256;
  const OuterCoefficients coefficients{0.5F, 0.7F, gamma};
  std::vector<Replica> swarm;
  for (std::size_t i = 0; i < replicas; ++i) {
    swarm.push_back({draw(count, 1.0, i), Values(count, 0.0F), Values(count, 0.0F)});
  }
  Stream random(7);
  std::vector<std::size_t> order{0, 1, 2, 3, 4, 5, 6, 7};
  for (int round = 0; round < 200; ++round) {
    random.shuffle(order);
    for (std::size_t i = 0; i < replicas; i += 2) {
      Replica& a = swarm[order[i]];
      Replica& b = swarm[order[i + 1]];
      const Replica before = a;
      outer_step(a.phi, a.momentum, a.delta, std::vector{b.contribution()}, coefficients);
      outer_step(b.phi, b.momentum, b.delta, std::vector{before.contribution()}, coefficients);
    }
  }
  return relative_distance(swarm[0].phi, swarm[1].phi);
}

TEST(OuterStep, RandomPairsConvergeInsideTheStableRangeOnly) {
  EXPECT_LT(spread_after_rounds(0.7F), 1e-3);
  EXPECT_GT(spread_after_rounds(2.2F), 1.0);
}

TEST(RelativeDistance, IsTheNormOfTheDifferenceOverTheFirst) {
  EXPECT_DOUBLE_EQ(relative_distance(Values{3.0F, 4.0F}, Values{3.0F, 4.0F}), 0.0);
  EXPECT_DOUBLE_EQ(relative_distance(Values{3.0F, 4.0F}, Values{0.0F, 0.0F}), 1.0);
  EXPECT_DOUBLE_EQ(relative_distance(Values{3.0F, 4.0F}, Values{6.0F, 8.0F}), 1.0);
  EXPECT_DOUBLE_EQ(relative_distance(Values{0.0F}, Values{5.0F}), 0.0);
}

class ScreenTest : public ::testing::Test {
 protected:
  Screen of(const Values& phi, const Values& delta) const { return screen(own_.phi, own_.delta, {phi, delta}); }
  Values scaled(const Values& values, float factor) const {
    Values out = values;
    for (float& value : out) value *= factor;
    return out;
  }
  Replica own_ = draw_replica(500, 1);
};

TEST_F(ScreenTest, LetsAnHonestPartnerIn) {
  const Replica other = draw_replica(500, 50);
  EXPECT_EQ(of(other.phi, other.delta), Screen::good);
  EXPECT_EQ(of(scaled(own_.phi, 3.9F), scaled(own_.delta, 15.9F)), Screen::good);
}

TEST_F(ScreenTest, RefusesOneValueThatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const std::size_t place : {0UL, 250UL, 499UL}) {
      Values phi = own_.phi;
      phi[place] = bad;
      EXPECT_EQ(of(phi, own_.delta), Screen::non_finite);
      Values delta = own_.delta;
      delta[place] = bad;
      EXPECT_EQ(of(own_.phi, delta), Screen::non_finite);
    }
  }
}

TEST_F(ScreenTest, RefusesAbsurdNorms) {
  EXPECT_EQ(of(scaled(own_.phi, 4.1F), own_.delta), Screen::norm);
  EXPECT_EQ(of(scaled(own_.phi, 0.24F), own_.delta), Screen::norm);
  EXPECT_EQ(of(own_.phi, scaled(own_.delta, 16.1F)), Screen::norm);
  Values one_huge = own_.delta;
  one_huge[3] = std::numeric_limits<float>::max();
  EXPECT_EQ(of(own_.phi, one_huge), Screen::norm);
}

// An own delta of nearly zero (a worker that did no step) does not make honest partners look absurd.
TEST_F(ScreenTest, MeasuresDeltaAgainstPhiWhenTheOwnIsTiny) {
  own_.delta = Values(500, 0.0F);
  EXPECT_EQ(of(own_.phi, scaled(own_.phi, 0.015F)), Screen::good);
  EXPECT_EQ(of(own_.phi, scaled(own_.phi, 0.017F)), Screen::norm);
}

}  // namespace
}  // namespace starling::outer
