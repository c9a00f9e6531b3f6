// Memory of tensors on a CPU, used again instead of given back.
//
// A microbatch asks for the sizes that the one before it asked for. malloc maps every large block anew and gives it back at
// once, and the system clears each page again: a fifth of a step with bf16 products. This cache keeps what was freed and
// hands out the smallest block that fits with at most a quarter to spare. What nobody wanted for `patience` requests goes
// back to malloc, so it holds no more than was in use at once lately.
#pragma once

#include <cstddef>
#include <vector>

namespace starling::trainer {

// One thread.
class BlockCache {
 public:
  static constexpr std::size_t smallest = std::size_t{64} << 10;  // malloc keeps what is smaller itself
  static constexpr long patience = 4096;                          // requests; a microbatch makes some hundred

  BlockCache() = default;
  BlockCache(const BlockCache&) = delete;
  BlockCache& operator=(const BlockCache&) = delete;
  ~BlockCache();

  struct Block {
    void* data = nullptr;  // aligned to 64; null: there is no memory
    std::size_t bytes = 0;
  };
  // At least `bytes`.
  Block take(std::size_t bytes);
  // REQUIRES: `block` came from take(), of this cache or another.
  void put(Block block);

  std::size_t held_bytes() const;

 private:
  struct Free {
    Block block;
    long since;  // request
  };
  std::vector<Free> free_;  // some hundred at most: a look at each costs nothing beside what a block is for
  long requests_ = 0;
};

// From now on the tensors on a CPU of this process lie in blocks of the cache of the thread that makes them, and return to
// that of the thread that frees them. Any thread, any number of times.
void keep_blocks_of_tensors();

}  // namespace starling::trainer
