// A run's directory as several launchers meet there: the lock, the workers that live, the keys, and who may go on.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "gossip/base/real_env.h"
#include "launcher/claim.h"
#include "launcher/config_yaml.h"
#include "launcher/supervisor.h"

namespace starling::launcher {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double now = 1.8e9;

class RunDirectoryTest : public testing::Test {
 protected:
  RunDirectoryTest() {
    std::filesystem::create_directories(run_.path);
    config_.run.name = "run";
    config_.data.train = {"text.txt"};
    config_.training.max_steps = 10000;
  }
  ~RunDirectoryTest() override { std::filesystem::remove_all(base_); }

  // A founded run with a token, as a launcher leaves it.
  KeptRun found() {
    auto keys = found_run(run_, config_);
    EXPECT_TRUE(keys) << keys.error().message;
    const auto token = issue_token(run_, *keys, {{"tcp://127.0.0.1:4711", NodeId{{std::byte{7}}}}}, now);
    EXPECT_TRUE(token) << token.error().message;
    auto kept = read_run(run_);
    EXPECT_TRUE(kept) << kept.error().message;
    return std::move(kept.value());  // throws if there is none
  }

  Result<Claim> claim(OldRun old_run = OldRun::take_up) {
    said_.str("");
    return claim_directory(run_, old_run, said_);
  }

  // A process that looks like the worker of a folder: it waits until its stdin is closed.
  class FakeWorker {
   public:
    FakeWorker(const RunDirectory& run, const std::string& name) {
      const std::filesystem::path folder = run.worker(name);
      std::filesystem::create_directories(folder);
      std::ofstream(folder / "join") << "read line\n";
      int in[2] = {};
      EXPECT_EQ(::pipe2(in, O_CLOEXEC), 0);
      const std::string dir = folder.string();
      pid_ = ::fork();
      if (pid_ == 0) {
        ::dup2(in[0], STDIN_FILENO);
        if (::chdir(dir.c_str()) == 0) ::execl("/bin/sh", "sh", "join", "--dir", dir.c_str(), nullptr);
        ::_exit(127);
      }
      ::close(in[0]);
      in_ = in[1];
      EXPECT_TRUE(write_worker_file(folder, {pid_, "id", "", std::nullopt}));
      // The command line is the one of this test until the child has become somebody else.
      std::string line;
      while (line.find("--dir") == std::string::npos) {
        std::ifstream in_proc("/proc/" + std::to_string(pid_) + "/cmdline");
        std::getline(in_proc, line);
      }
    }
    ~FakeWorker() { end(); }
    void end() {
      if (pid_ < 0) return;
      ::close(in_);
      ::waitpid(pid_, nullptr, 0);
      pid_ = -1;
    }
    pid_t pid() const { return pid_; }

   private:
    pid_t pid_ = -1;
    int in_ = -1;
  };

  const std::filesystem::path base_ =
      std::filesystem::temp_directory_path() / ("starling_run_directory_test." + std::to_string(::getpid()));
  const RunDirectory run_{base_ / "run"};
  RunConfig config_;
  std::ostringstream said_;
};

TEST_F(RunDirectoryTest, HasOneLauncherAtATime) {
  auto first = RunLock::take(run_);
  ASSERT_TRUE(first) << first.error().message;
  ASSERT_TRUE(write_launch_file(run_, {4711, "http://127.0.0.1:1", "abc"}));
  const auto second = RunLock::take(run_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::failed);
  EXPECT_THAT(second.error().message, HasSubstr("has a launcher already (pid 4711)"));
  { RunLock gone = std::move(*first); }
  EXPECT_TRUE(RunLock::take(run_));
}

TEST_F(RunDirectoryTest, MembersComeBackAsTheyWereAndTornOnesDoNot) {
  EXPECT_THAT(read_members(run_), IsEmpty());
  const Bytes one(100, std::byte{1});
  const Bytes two(1, std::byte{2});
  ASSERT_TRUE(write_members(run_, {one, two}));
  EXPECT_THAT(read_members(run_), ElementsAre(one, two));
  std::filesystem::resize_file(run_.observer() / "members", 4 + 100 + 4);
  EXPECT_THAT(read_members(run_), ElementsAre(one));
  ASSERT_TRUE(write_members(run_, {}));
  EXPECT_THAT(read_members(run_), IsEmpty());
}

TEST_F(RunDirectoryTest, KeepsTheKeysOfItsRun) {
  const KeptRun first = found();
  const auto second = read_run(run_);
  ASSERT_TRUE(second) << second.error().message;
  EXPECT_EQ(second->keys.run, first.keys.run);
  EXPECT_EQ(second->keys.owner.id(), first.keys.owner.id());
  EXPECT_EQ(second->keys.lobby_key.public_key(), first.keys.lobby_key.public_key());
  EXPECT_EQ(second->keys.spec, run_spec(config_));
  EXPECT_THAT(second->token.seeds, ElementsAre(net::Seed{"tcp://127.0.0.1:4711", NodeId{{std::byte{7}}}}));
  EXPECT_EQ(second->token.expiry, static_cast<std::int64_t>(now) + 7 * 24 * 3600);
  // The line is one that a volunteer's program takes, until it expires.
  EXPECT_TRUE(net::parse_token(second->token.line, now));
  EXPECT_FALSE(net::parse_token(second->token.line, now + 8 * 24 * 3600));
}

TEST_F(RunDirectoryTest, FilesOfTwoRunsAreNotTakenForOne) {
  found();
  const auto other_token = read_file(run_.token(), 1 << 20);
  std::filesystem::remove_all(run_.path);
  std::filesystem::create_directories(run_.path);
  found();
  ASSERT_TRUE(replace_file(run_.token(), *other_token));
  const auto mixed = read_run(run_);
  ASSERT_FALSE(mixed);
  EXPECT_THAT(mixed.error().message, HasSubstr("are not of one run"));
}

TEST_F(RunDirectoryTest, FindsWorkersThatLiveAndNobodyElse) {
  FakeWorker worker(run_, "w01");
  // A number that belongs to somebody else by now: this test.
  ASSERT_TRUE(write_worker_file(run_.worker("w00"), {::getpid(), "id", "", std::nullopt}));
  // One that says itself that it has ended.
  FakeWorker done(run_, "w02");
  ASSERT_TRUE(write_worker_file(run_.worker("w02"), {done.pid(), "id", "", 0}));
  EXPECT_THAT(living_workers(run_.path), ElementsAre(std::pair("w01", worker.pid())));

  Supervisor supervisor;
  EXPECT_EQ(supervisor.adopt("w00", run_.worker("w00")).error().code, ErrorCode::not_found);
  ASSERT_TRUE(supervisor.adopt("w01", run_.worker("w01")));
  EXPECT_THAT(supervisor.running(), ElementsAre("w01"));
  EXPECT_THAT(supervisor.reap(), IsEmpty());
  ASSERT_TRUE(write_worker_file(run_.worker("w01"), {worker.pid(), "id", "", 3}));
  worker.end();
  const auto ended = supervisor.reap();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].how, "ended with exit code 3");
  EXPECT_FALSE(ended[0].well);
  EXPECT_THAT(supervisor.running(), IsEmpty());
}

TEST_F(RunDirectoryTest, AnAdoptedWorkerThatIsKilledIsMissed) {
  FakeWorker worker(run_, "w00");
  Supervisor supervisor;
  ASSERT_TRUE(supervisor.adopt("w00", run_.worker("w00")));
  ASSERT_TRUE(supervisor.send_signal("w00", SIGKILL));
  worker.end();  // waits for it
  const auto ended = supervisor.reap();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].how, "ended without a word");
}

TEST_F(RunDirectoryTest, IsClaimedByWhoeverMayRunWhatLiesThere) {
  std::filesystem::remove_all(run_.path);
  { ASSERT_FALSE(claim()->kept) << "a new run"; }
  found();
  std::filesystem::remove(run_.token());
  { ASSERT_FALSE(claim()->kept) << "a launch that failed before its run began"; }
  found();

  // Nobody is left.
  auto refused = claim();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::failed);
  EXPECT_THAT(refused.error().message, HasSubstr("--fresh"));

  // Members elsewhere may live.
  ASSERT_TRUE(write_members(run_, {Bytes(9)}));
  { ASSERT_TRUE(claim()->kept); }
  ASSERT_TRUE(write_members(run_, {}));

  // A worker lives here: its run can be taken up, and is not moved away.
  FakeWorker worker(run_, "w00");
  {
    auto taken = claim();
    ASSERT_TRUE(taken) << taken.error().message;
    ASSERT_TRUE(taken->kept);
    refused = claim(OldRun::move_aside);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, HasSubstr("has a launcher already"));
  }
  refused = claim(OldRun::move_aside);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("w00 (pid " + std::to_string(worker.pid()) + ")"));
  worker.end();
  ASSERT_FALSE(claim(OldRun::move_aside)->kept);
  EXPECT_THAT(said_.str(), HasSubstr("run.old-1"));
  EXPECT_TRUE(std::filesystem::exists(base_ / "run.old-1" / "run.yaml"));
  EXPECT_FALSE(std::filesystem::exists(run_.run_yaml()));
}

TEST_F(RunDirectoryTest, ARunFileThatChangedHasNoEffectOnARunThatGoesOn) {
  const KeptRun kept = found();
  RunConfig given = config_;
  given.network.listen = "tcp://127.0.0.1:0";
  EXPECT_EQ(config_of(kept, given, said_).network.listen, "tcp://127.0.0.1:0");
  EXPECT_EQ(said_.str(), "") << "where a launcher listens is its own affair";
  given.optimizer.lr *= 2;
  EXPECT_EQ(config_of(kept, given, said_).optimizer.lr, config_.optimizer.lr);
  EXPECT_THAT(said_.str(), HasSubstr("no effect"));
}

}  // namespace
}  // namespace starling::launcher
