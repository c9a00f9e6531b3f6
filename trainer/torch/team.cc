#include "trainer/torch/team.h"

#include "gossip/base/error.h"

namespace starling::trainer {
namespace {

constexpr int spins = 400;  // some 20 us

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

Team::Team(int threads) : size_(threads) {
  STARLING_CHECK(threads >= 1, "a team has the thread of its caller");
  for (int thread = 1; thread < threads; ++thread) others_.emplace_back([this, thread] { work(thread); });
}

Team::~Team() {
  job_ = nullptr;
  meet();
  for (std::thread& other : others_) other.join();
}

void Team::work(int thread) {
  while (true) {
    meet();
    if (job_ == nullptr) return;
    job_(work_, thread);
    meet();
  }
}

void Team::meet() {
  const std::uint32_t meeting = meetings_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
    arrived_.store(0, std::memory_order_relaxed);
    meetings_.store(meeting + 1, std::memory_order_release);
    meetings_.notify_all();
    return;
  }
  for (int spin = 0; spin < spins; ++spin) {
    if (meetings_.load(std::memory_order_acquire) != meeting) return;
    pause();
  }
  meetings_.wait(meeting, std::memory_order_acquire);
}

}  // namespace starling::trainer
