// Named random streams: the same (seed, name) gives the same numbers on every machine, and drawing from one stream
// never shifts another. No decider owns any other source of chance.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "gossip/base/error.h"

namespace starling {

// xoshiro256++ seeded through splitmix64. Source: Blackman and Vigna, "Scrambled linear pseudorandom number
// generators", 2021. Not for secrets: keys come from libsodium.
class Stream {
 public:
  explicit Stream(std::uint64_t seed);
  std::uint64_t next();
  // Uniform in [0, bound). REQUIRES: bound > 0. Without modulo bias (Lemire 2019).
  std::uint64_t below(std::uint64_t bound);
  // Uniform in [0, 1), 53 bits.
  double uniform();
  // Standard normal (Box-Muller, both values used).
  double normal();
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

 private:
  std::uint64_t state_[4];
  double spare_ = 0.0;
  bool has_spare_ = false;
};

// A 64-bit seed from a seed and any number of integers: the one way in which seeds are derived here.
std::uint64_t mix_seed(std::uint64_t seed, std::span<const std::uint64_t> parts);
std::uint64_t mix_seed(std::uint64_t seed, std::string_view name);

class Random {
 public:
  explicit Random(std::uint64_t seed) : seed_(seed) {}
  std::uint64_t seed() const { return seed_; }
  Stream stream(std::string_view name) const { return Stream(mix_seed(seed_, name)); }

 private:
  std::uint64_t seed_;
};

}  // namespace starling
