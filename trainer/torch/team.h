// Threads that do one small thing together, again and again: some microseconds of work, then all meet. Torch-free.
//
// An OpenMP runtime would do, but for how it waits: GNU's spins for more than ten milliseconds, so on a machine that has other
// work every meeting costs a time slice. Here a thread spins for as long as a product takes, and then sleeps.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace starling::trainer {

class Team {
 public:
  // REQUIRES: threads >= 1, of which the caller of run() is one.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // f(thread) on each thread, 0 on the caller's; returns when all are done. f must not throw. Always from one thread.
  template <typename F>
  void run(const F& f) {
    job_ = [](const void* work, int thread) { (*static_cast<const F*>(work))(thread); };
    work_ = &f;
    meet();
    f(0);
    meet();
  }

  // Inside of run(): each thread waits for all others, and sees what they wrote before.
  void meet();

 private:
  void work(int thread);

  const int size_;
  void (*job_)(const void* work, int thread) = nullptr;  // null: the team is dissolved
  const void* work_ = nullptr;
  alignas(64) std::atomic<std::int32_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> meetings_{0};
  std::vector<std::thread> others_;
};

}  // namespace starling::trainer
