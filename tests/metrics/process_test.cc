#include "metrics/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "gossip/base/real_env.h"

namespace starling::metrics {
namespace {

TEST(ProcessUsage, IsPlausibleForThisProcess) {
  const auto usage = read_process_usage();
  ASSERT_TRUE(usage) << usage.error().message;
  EXPECT_GT(usage->resident_bytes, 1U << 20);
  EXPECT_GE(usage->virtual_bytes, usage->resident_bytes);
  EXPECT_GT(usage->max_fds, usage->open_fds);
  EXPECT_GE(usage->cpu_seconds, 0.0);
  const double now = RealClock().unix_seconds();
  EXPECT_LE(usage->start_unix_seconds, now + 1);
  EXPECT_GT(usage->start_unix_seconds, now - 3600);
}

TEST(ProcessUsage, CountsOpenFiles) {
  const auto before = read_process_usage();
  const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const auto after = read_process_usage();
  ::close(fd);
  ASSERT_TRUE(before && after);
  EXPECT_EQ(after->open_fds, before->open_fds + 1);
}

TEST(ProcessUsage, GrowsWithMemoryThatIsTouched) {
  const auto before = read_process_usage();
  const std::vector<char> touched(64 << 20, 1);
  const auto after = read_process_usage();
  ASSERT_TRUE(before && after);
  EXPECT_GE(after->resident_bytes, before->resident_bytes + (60U << 20));
}

TEST(ProcessUsage, ReadsAnotherProcessUntilItIsGone) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(pipe_ends[1]);
    char byte;
    ::_exit(::read(pipe_ends[0], &byte, 1) == 0 ? 0 : 1);
  }
  const auto usage = read_process_usage(child);
  EXPECT_TRUE(usage && usage->virtual_bytes > 0);
  ::close(pipe_ends[1]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ::close(pipe_ends[0]);
  const auto gone = read_process_usage(child);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::not_found);
}

TEST(ThreadCpu, CountsWorkOfThisThreadOnly) {
  const double before = thread_cpu_seconds();
  ASSERT_GT(before, 0.0);
  // A thread that has just begun: the only one of a child.
  const pid_t child = ::fork();
  if (child == 0) ::_exit(thread_cpu_seconds() < before ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  volatile double sink = 1.0;
  // Until it shows, however slow the machine and coarse its clock.
  while (thread_cpu_seconds() < before + 0.01) {
    for (int i = 0; i < 100'000; ++i) sink = sink * 1.0000001;
  }
}

}  // namespace
}  // namespace starling::metrics
