#include "trainer/torch/block_cache.h"

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <cstdint>

#include "trainer/torch/team.h"

namespace starling::trainer {
namespace {

constexpr std::size_t large = 8 * BlockCache::smallest;

TEST(BlockCache, GivesTheSameBlockAgain) {
  BlockCache cache;
  const BlockCache::Block first = cache.take(large);
  ASSERT_NE(first.data, nullptr);
  EXPECT_GE(first.bytes, large);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first.data) % 64, 0U);
  cache.put(first);
  EXPECT_EQ(cache.held_bytes(), first.bytes);
  const BlockCache::Block again = cache.take(large);
  EXPECT_EQ(again.data, first.data);
  EXPECT_EQ(cache.held_bytes(), 0U);
  cache.put(again);
}

TEST(BlockCache, TakesTheSmallestThatFitsAndNoneFarTooLarge) {
  BlockCache cache;
  const BlockCache::Block fits = cache.take(large);
  const BlockCache::Block looser = cache.take(large + large / 8);
  const BlockCache::Block huge = cache.take(4 * large);
  for (const auto& block : {huge, looser, fits}) cache.put(block);
  const BlockCache::Block best = cache.take(large);
  const BlockCache::Block second = cache.take(large);
  const BlockCache::Block third = cache.take(large);
  EXPECT_EQ(best.data, fits.data);
  EXPECT_EQ(second.data, looser.data);
  EXPECT_NE(third.data, huge.data);
  EXPECT_EQ(cache.held_bytes(), huge.bytes);
  for (const auto& block : {best, second, third}) cache.put(block);
}

TEST(BlockCache, LetsGoOfWhatNobodyWants) {
  BlockCache cache;
  cache.put(cache.take(4 * large));
  const std::size_t held = cache.held_bytes();
  for (long request = 0; request < BlockCache::patience; ++request) {
    EXPECT_GE(cache.held_bytes(), held);
    cache.put(cache.take(large));
  }
  EXPECT_LT(cache.held_bytes(), held);
}

TEST(BlockCache, TensorsUseTheCacheOfTheirThread) {
  keep_blocks_of_tensors();
  const auto address = [](const at::Tensor& x) { return x.const_data_ptr(); };
  const void* const first = address(at::zeros({1 << 20}, at::kFloat));
  at::Tensor again = at::zeros({1 << 20}, at::kFloat);
  EXPECT_EQ(address(again), first);
  EXPECT_EQ(again.sum().item<float>(), 0.0F);
  // Freed by another thread: it is that thread's, and gone with it.
  {
    Team team(2);
    team.run([&](int thread) {
      if (thread == 1) again.reset();
    });
  }
  const at::Tensor other = at::ones({1 << 20}, at::kFloat);
  EXPECT_EQ(other.sum().item<float>(), static_cast<float>(1 << 20));
  EXPECT_EQ(at::empty({0}, at::kFloat).numel(), 0);
}

}  // namespace
}  // namespace starling::trainer
