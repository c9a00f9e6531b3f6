#include "trainer/torch/block_cache.h"

#include <c10/core/CPUAllocator.h>

#include <cstdlib>
#include <cstring>
#include <new>

namespace starling::trainer {
namespace {

constexpr std::size_t alignment = 64;

// The cache of this thread. `gone`: the thread ends, and what it frees from now on goes to malloc.
thread_local bool gone = false;
struct OfThread {
  BlockCache cache;
  ~OfThread() { gone = true; }
};
thread_local OfThread of_thread;

// A block begins with its size.
class Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &free_block, cpu};
    BlockCache::Block block{nullptr, bytes + alignment};
    if (block.bytes >= BlockCache::smallest && !gone) {
      block = of_thread.cache.take(block.bytes);
    } else {
      block.data = std::aligned_alloc(alignment, (block.bytes + alignment - 1) / alignment * alignment);
    }
    if (block.data == nullptr) throw std::bad_alloc();
    std::memcpy(block.data, &block.bytes, sizeof block.bytes);
    return {static_cast<std::byte*>(block.data) + alignment, block.data, &free_block, cpu};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

 private:
  static void free_block(void* data) {
    if (data == nullptr) return;
    BlockCache::Block block{data, 0};
    std::memcpy(&block.bytes, data, sizeof block.bytes);
    if (block.bytes >= BlockCache::smallest && !gone) {
      of_thread.cache.put(block);
    } else {
      std::free(data);
    }
  }
};

}  // namespace

BlockCache::~BlockCache() {
  for (const Free& free : free_) std::free(free.block.data);
}

BlockCache::Block BlockCache::take(std::size_t bytes) {
  ++requests_;
  std::erase_if(free_, [this](const Free& free) {
    if (requests_ - free.since < patience) return false;
    std::free(free.block.data);
    return true;
  });
  auto best = free_.end();
  for (auto free = free_.begin(); free != free_.end(); ++free) {
    if (free->block.bytes < bytes || free->block.bytes > bytes + bytes / 4) continue;
    if (best == free_.end() || free->block.bytes < best->block.bytes) best = free;
  }
  if (best != free_.end()) {
    const Block block = best->block;
    free_.erase(best);
    return block;
  }
  const std::size_t whole = (bytes + smallest - 1) / smallest * smallest;
  return {std::aligned_alloc(alignment, whole), whole};
}

void BlockCache::put(Block block) { free_.push_back({block, requests_}); }

std::size_t BlockCache::held_bytes() const {
  std::size_t sum = 0;
  for (const Free& free : free_) sum += free.block.bytes;
  return sum;
}

void keep_blocks_of_tensors() {
  static Allocator* const ours = [] {
    auto* const made = new Allocator;  // LibTorch keeps it for as long as the process lives
    c10::SetCPUAllocator(made, 1);
    return made;
  }();
  static_cast<void>(ours);
}

}  // namespace starling::trainer
