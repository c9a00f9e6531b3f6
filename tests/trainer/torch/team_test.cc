#include "trainer/torch/team.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace starling::trainer {
namespace {

TEST(Team, EachThreadComesOnceAndTheCallerIsTheFirst) {
  for (const int threads : {1, 2, 5}) {
    Team team(threads);
    EXPECT_EQ(team.size(), threads);
    const auto caller = std::this_thread::get_id();
    std::vector<int> came(static_cast<std::size_t>(threads));
    std::vector<std::thread::id> ids(static_cast<std::size_t>(threads));
    for (int job = 1; job <= 50; ++job) {
      team.run([&](int thread) {
        ++came[static_cast<std::size_t>(thread)];
        ids[static_cast<std::size_t>(thread)] = std::this_thread::get_id();
      });
      for (const int count : came) ASSERT_EQ(count, job);
    }
    EXPECT_EQ(ids[0], caller);
    EXPECT_EQ(std::count(ids.begin(), ids.end(), caller), 1);
  }
}

TEST(Team, WhatWasWrittenBeforeAMeetingIsSeenAfterIt) {
  constexpr int threads = 3;
  constexpr int meetings = 300;
  Team team(threads);
  std::vector<int> values(threads, 0);
  std::vector<int> wrong(threads, 0);
  team.run([&](int thread) {
    const auto own = static_cast<std::size_t>(thread);
    for (int meeting = 1; meeting <= meetings; ++meeting) {
      values[own] = meeting;
      team.meet();
      if (!std::all_of(values.begin(), values.end(), [&](int value) { return value == meeting; })) ++wrong[own];
      team.meet();
    }
  });
  EXPECT_EQ(wrong, std::vector<int>(threads, 0));
}

TEST(Team, EndsWithoutAJob) { const Team team(4); }

}  // namespace
}  // namespace starling::trainer
