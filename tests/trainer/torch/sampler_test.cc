#include "trainer/torch/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace starling::trainer {
namespace {

std::vector<std::int32_t> draws(const SamplingConfig& config, const std::vector<float>& logits, int count) {
  Sampler sampler(config);
  std::vector<std::int32_t> out;
  for (int i = 0; i < count; ++i) out.push_back(sampler.next(logits).value());
  return out;
}

std::map<std::int32_t, double> shares(const SamplingConfig& config, const std::vector<float>& logits) {
  constexpr int count = 20'000;
  std::map<std::int32_t, double> out;
  for (const std::int32_t id : draws(config, logits, count)) out[id] += 1.0 / count;
  return out;
}

const std::vector<float> some_logits = {0.5F, 2.0F, -1.0F, 2.0F, 1.0F, -3.0F};

TEST(Sampler, TemperatureZeroTakesTheLikeliestAndTheFirstOfEquals) {
  for (const std::int32_t id : draws({.temperature = 0.0}, some_logits, 5)) EXPECT_EQ(id, 1);
}

TEST(Sampler, SameSeedSameTokensOtherSeedOthers) {
  for (const double top_p : {1.0, 0.9}) {
    for (const std::int64_t top_k : {0, 4}) {
      const SamplingConfig config{.temperature = 1.3, .top_k = top_k, .top_p = top_p, .seed = 5};
      SamplingConfig other = config;
      other.seed = 6;
      EXPECT_EQ(draws(config, some_logits, 200), draws(config, some_logits, 200));
      EXPECT_NE(draws(config, some_logits, 200), draws(other, some_logits, 200));
    }
  }
}

TEST(Sampler, SharesAreTheSoftmaxAtItsTemperature) {
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0.0;
    for (const float logit : some_logits) total += std::exp(static_cast<double>(logit) / temperature);
    auto found = shares({.temperature = temperature, .seed = 1}, some_logits);
    for (std::size_t id = 0; id < some_logits.size(); ++id) {
      const double expected = std::exp(static_cast<double>(some_logits[id]) / temperature) / total;
      // Four standard deviations of a share of 20,000 draws.
      EXPECT_NEAR(found[static_cast<std::int32_t>(id)], expected, 4.0 * std::sqrt(expected / 20'000.0) + 1e-9) << id;
    }
  }
}

TEST(Sampler, TopKKeepsTheLargestAndTheFirstOfEquals) {
  const auto one = shares({.temperature = 1.0, .top_k = 1}, some_logits);
  EXPECT_EQ(one.size(), 1U);
  EXPECT_TRUE(one.contains(1));
  auto three = shares({.temperature = 1.0, .top_k = 3}, some_logits);
  EXPECT_EQ(three.size(), 3U);
  const double total = 2.0 * std::exp(2.0) + std::exp(1.0);
  EXPECT_NEAR(three[1], std::exp(2.0) / total, 0.015);
  EXPECT_NEAR(three[3], std::exp(2.0) / total, 0.015);
  EXPECT_NEAR(three[4], std::exp(1.0) / total, 0.015);
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 100}, some_logits).size(), some_logits.size());
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.5, 0.3, 0.2.
  const std::vector<float> logits = {std::log(0.2F), std::log(0.5F), std::log(0.3F)};
  const auto kept = [&](double top_p) { return shares({.temperature = 1.0, .top_p = top_p}, logits); };
  EXPECT_EQ(kept(0.01).size(), 1U);
  EXPECT_TRUE(kept(0.49).contains(1));
  EXPECT_EQ(kept(0.49).size(), 1U);
  auto two = kept(0.51);
  EXPECT_EQ(two.size(), 2U);
  EXPECT_NEAR(two[1], 0.625, 0.015);
  EXPECT_NEAR(two[2], 0.375, 0.015);
  EXPECT_EQ(kept(0.79).size(), 2U);
  EXPECT_EQ(kept(0.81).size(), 3U);
}

TEST(Sampler, TopPLooksAtWhatTopKHasLeft) {
  // 0.4, 0.3, 0.2, 0.1; the first two are 4/7 and 3/7 of what top_k leaves, so 0.6 needs both and 0.5 one.
  const std::vector<float> logits = {std::log(0.4F), std::log(0.3F), std::log(0.2F), std::log(0.1F)};
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 2, .top_p = 0.5}, logits).size(), 1U);
  EXPECT_EQ(shares({.temperature = 1.0, .top_k = 2, .top_p = 0.6}, logits).size(), 2U);
}

TEST(Sampler, LogitsFarApartAndSmallTemperaturesStayFinite) {
  const std::vector<float> logits = {-1e30F, 1e30F, 0.0F};
  for (const std::int32_t id : draws({.temperature = 1e-6}, logits, 10)) EXPECT_EQ(id, 1);
  for (const std::int32_t id : draws({.temperature = 1e6, .top_k = 2, .top_p = 0.9}, logits, 10)) EXPECT_EQ(id, 1);
}

TEST(Sampler, RefusesLogitsThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Sampler sampler({.temperature = 0.0});
    const auto made = sampler.next(std::vector<float>{1.0F, bad, 0.0F});
    ASSERT_FALSE(made.has_value());
    EXPECT_EQ(made.error().code, ErrorCode::bad_input);
    EXPECT_NE(made.error().message.find("token 1"), std::string::npos);
  }
}

TEST(SamplingConfig, NamesWhatIsWrong) {
  EXPECT_TRUE(SamplingConfig{}.validate().empty());
  EXPECT_EQ(SamplingConfig({.temperature = -1.0, .top_k = -1, .top_p = 0.0}).validate().size(), 3U);
  EXPECT_EQ(SamplingConfig({.temperature = std::numeric_limits<double>::quiet_NaN()}).validate().size(), 1U);
  EXPECT_EQ(SamplingConfig({.top_p = 1.1}).validate().size(), 1U);
}

}  // namespace
}  // namespace starling::trainer
