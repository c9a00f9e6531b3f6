#include "trainer/torch/optimizer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "gossip/base/random.h"

namespace starling::trainer {
namespace {

struct Arrays {
  std::vector<float> theta, gradient, m, v, next;
};

Arrays random_arrays(std::size_t count, std::uint64_t seed) {
  Stream stream(seed);
  Arrays out;
  for (std::size_t i = 0; i < count; ++i) {
    out.theta.push_back(static_cast<float>(stream.normal()));
    out.gradient.push_back(static_cast<float>(100.0 * stream.normal()));
    out.m.push_back(static_cast<float>(0.1 * stream.normal()));
    out.v.push_back(static_cast<float>(0.1 * stream.uniform()));
    out.next.push_back(0.0F);
  }
  return out;
}

// A handful of roundings on each side, relative to the terms that are added.
void expect_close(const std::vector<float>& fast, const std::vector<float>& slow, float size) {
  for (std::size_t i = 0; i < fast.size(); ++i) ASSERT_NEAR(fast[i], slow[i], 1e-6F * (size + std::abs(slow[i]))) << i;
}

TEST(AdamW, FastAndReferenceAgreeAtEveryLength) {
  for (const std::size_t count : {0u, 1u, 7u, 16u, 31u, 1000u}) {
    Arrays fast = random_arrays(count, 5);
    Arrays slow = fast;
    const AdamW settings = adamw({.learning_rate = 1e-3, .weight_decay = 0.1, .steps = 3, .gradient_scale = 0.01});
    adamw_step(settings, fast.theta, fast.gradient, fast.m, fast.v, fast.next);
    adamw_step_reference(settings, slow.theta, slow.gradient, slow.m, slow.v, slow.next);
    expect_close(fast.next, slow.next, 1.0F);
    expect_close(fast.m, slow.m, 1.0F);
    expect_close(fast.v, slow.v, 1.0F);
    EXPECT_EQ(fast.gradient, std::vector<float>(count, 0.0F));
    EXPECT_EQ(fast.theta, slow.theta);  // the old version stands
  }
}

TEST(AdamW, TheFirstStepIsTheSignOfTheGradient) {
  // m / bias1 = g and sqrt(v / bias2) = |g| after one step from zero.
  Arrays a{.theta = {1.0F, 1.0F}, .gradient = {4.0F, -0.5F}, .m = {0, 0}, .v = {0, 0}, .next = {0, 0}};
  adamw_step(adamw({.learning_rate = 0.01, .eps = 1e-12}), a.theta, a.gradient, a.m, a.v, a.next);
  EXPECT_NEAR(a.next[0], 0.99F, 1e-6);
  EXPECT_NEAR(a.next[1], 1.01F, 1e-6);
}

TEST(AdamW, ThreeStepsByHand) {
  // One weight, gradients 1, 2, -1, lr 0.1, betas 0.9 and 0.99, eps 0, weight decay 0.5; worked out by hand in double:
  //   t  m       v         m / (1 - 0.9^t)  sqrt(v / (1 - 0.99^t))  theta
  //   1  0.1     0.01      1                1                       1 * 0.95 - 0.1               = 0.85
  //   2  0.29    0.0499    1.5263158        1.5835207               0.85 * 0.95 - 0.0963875      = 0.7111125
  //   3  0.161   0.059401  0.5940959        1.4142017               0.7111125 * 0.95 - 0.0420093 = 0.6335476
  std::vector<float> theta{1.0F}, m{0.0F}, v{0.0F}, next{0.0F};
  const float gradients[] = {1.0F, 2.0F, -1.0F};
  const float expected[] = {0.85F, 0.7111125F, 0.6335476F};
  for (int t = 0; t < 3; ++t) {
    std::vector<float> gradient{gradients[t]};
    adamw_step(adamw({.learning_rate = 0.1, .beta2 = 0.99, .eps = 0.0, .weight_decay = 0.5, .steps = t + 1}), theta, gradient, m, v, next);
    EXPECT_NEAR(next[0], expected[t], 2e-6) << t;
    theta = next;
  }
}

RC_GTEST_PROP(SumOfSquares, IsFiniteExactlyWhenAllValuesAre, ()) {
  std::vector<float> values(*rc::gen::inRange<std::size_t>(1, 300));
  for (float& value : values) value = static_cast<float>(*rc::gen::inRange(-1000, 1000));
  double expected = 0.0;
  for (const float value : values) expected += static_cast<double>(value) * value;
  RC_ASSERT(sum_of_squares(values) == expected);  // integers: exact in any order
  const auto at = *rc::gen::inRange<std::size_t>(0, values.size());
  values[at] = std::numeric_limits<float>::max();
  RC_ASSERT(std::isfinite(sum_of_squares(values)));
  values[at] = *rc::gen::element(std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                                 std::numeric_limits<float>::quiet_NaN());
  RC_ASSERT(!std::isfinite(sum_of_squares(values)));
}

TEST(Clipping, LeavesSmallNormsAndShrinksLargeOnes) {
  EXPECT_EQ(clipping(0.0, 1.0), 1.0);
  EXPECT_EQ(clipping(0.5, 1.0), 1.0);
  EXPECT_NEAR(clipping(4.0, 1.0), 0.25, 1e-6);
  EXPECT_NEAR(clipping(4.0, 2.0), 0.5, 1e-6);
}

}  // namespace
}  // namespace starling::trainer
