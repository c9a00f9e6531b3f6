#include "launcher/tokenize_command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

#include "launcher/tokenize_run.h"
#include "tests/launcher/command_test.h"
#include "tests/trainer/data/golden_file.h"
#include "trainer/data/source.h"

namespace starling::launcher {
namespace {

using testing::HasSubstr;
using trainer::golden_path;

class TokenizeTest : public CommandTest {
 protected:
  static Outcome tokenize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "tokenize");
    std::ostringstream out;
    std::ostringstream err;
    const std::vector<Command> commands{tokenize_command()};
    const ExitCode code = run_command_line(commands, arguments, {}, out, err);
    return {code, out.str(), err.str()};
  }
  // About 400 kB in two files, many documents.
  void write_corpus() const {
    std::string text;
    for (int i = 0; i < 10'000; ++i) text += "document " + std::to_string(i * i % 9973) + " has words\n\n";
    write("a.txt", text);
    write("b.txt", text.substr(1000, 100'000));
  }
  std::string shards(const std::string& prefix, int count) const {
    std::string out;
    for (int i = 0; i < count; ++i) out += read(prefix + "_00000" + std::to_string(i) + ".bin");
    return out;
  }
  TokenizeJob job(const std::string& prefix) const {
    TokenizeJob out;
    out.files = {path("a.txt"), path("b.txt")};
    out.tokenizer = golden_path("tokenizers/smollm.json");
    out.shape.documents = trainer::Documents::lines;
    out.shape.part_bytes = 1000;
    out.shards.prefix = path(prefix);
    out.shards.shard_tokens = 50'000;
    out.threads = 2;
    out.mark_bytes = 20'000;
    return out;
  }
};

TEST_F(TokenizeTest, WritesShardsThatARunCanRead) {
  write_corpus();
  const auto done = tokenize({path("a.txt"), path("b*.txt"), "--tokenizer", golden_path("tokenizers/gpt2.json"),
                              "--out", path("data/train"), "--documents", "line", "--shard-tokens", "60000", "--json"});
  ASSERT_EQ(done.code, ExitCode::ok) << done.err;
  const auto result = nlohmann::json::parse(done.out);
  EXPECT_EQ(result["bytes"], std::filesystem::file_size(path("a.txt")) + std::filesystem::file_size(path("b.txt")));
  EXPECT_EQ(result["shards"], (result["tokens"].get<int>() + 59'999) / 60'000);
  EXPECT_EQ(done.err, "");  // no bar where there is no terminal
  const auto source = trainer::Source::open(
      {.train = {path("data/train_*.bin")}, .val = {}, .tokenizer = golden_path("tokenizers/gpt2.json")}, {1, 8}, 705);
  ASSERT_TRUE(source) << source.error().message;
  EXPECT_EQ(source->training_tokens() + source->validation_tokens(), result["tokens"].get<int>());
  const auto again = tokenize({path("a.txt"), path("b*.txt"), "--tokenizer", golden_path("tokenizers/gpt2.json"),
                               "--out", path("data/train"), "--documents", "line", "--shard-tokens", "60000"});
  EXPECT_EQ(again.code, ExitCode::ok) << again.err;
  EXPECT_THAT(again.err, HasSubstr("had been done before"));
}

TEST_F(TokenizeTest, ThreadsChangeNothing) {
  write_corpus();
  for (const int threads : {1, 2, 5}) {
    TokenizeJob work = job("t" + std::to_string(threads));
    work.threads = threads;
    const auto done = launcher::tokenize(work, EarlierRun::resumed, [](const TokenizeProgress&) {});
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_GT(done->shards, 2);
  }
  EXPECT_EQ(shards("t2", 3), shards("t1", 3));
  EXPECT_EQ(shards("t5", 3), shards("t1", 3));
}

// Ended at every place where it can be told, and taken up again: the same bytes.
TEST_F(TokenizeTest, AnInterruptedRunGoesOn) {
  write_corpus();
  const auto whole = launcher::tokenize(job("whole"), EarlierRun::resumed, [](const TokenizeProgress&) {});
  ASSERT_TRUE(whole);
  const int count = static_cast<int>(whole->shards);
  int ended = 0;
  std::int64_t resumed = 0;
  for (bool finished = false; !finished && ended < 1000;) {
    int reports = 0;
    try {
      const auto done = launcher::tokenize(job("parts"), EarlierRun::resumed, [&](const TokenizeProgress& progress) {
        resumed = std::max(resumed, progress.resumed_bytes);
        if (++reports == 7) throw std::runtime_error("ended");
      });
      ASSERT_TRUE(done) << done.error().message;
      EXPECT_EQ(done->tokens, whole->tokens);
      finished = true;
    } catch (const std::runtime_error&) {
      ++ended;
    }
  }
  EXPECT_GT(ended, 5);
  EXPECT_GT(resumed, whole->all_bytes / 2);
  EXPECT_EQ(shards("parts", count), shards("whole", count));
}

// The disk fills in the middle of a shard: the file is named, no half shard has a shard's name, and with room again the work
// goes on to the same bytes.
TEST_F(TokenizeTest, AFullDiskIsNamedAndTheWorkGoesOnLater) {
  write_corpus();
  const auto whole = launcher::tokenize(job("whole"), EarlierRun::resumed, [](const TokenizeProgress&) {});
  ASSERT_TRUE(whole);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {  // the limit is the process's
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{60'000, 60'000};
    ::setrlimit(RLIMIT_FSIZE, &small);
    const auto full = launcher::tokenize(job("parts"), EarlierRun::resumed, [](const TokenizeProgress&) {});
    const bool says =
        !full && full.error().message.find("parts_000000.bin.part: cannot be written") != std::string::npos;
    ::_exit(says ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_FALSE(std::filesystem::exists(path("parts_000000.bin")));
  std::int64_t resumed = 0;
  const auto done = launcher::tokenize(job("parts"), EarlierRun::resumed, [&](const TokenizeProgress& progress) {
    resumed = std::max(resumed, progress.resumed_bytes);
  });
  ASSERT_TRUE(done) << done.error().message;
  EXPECT_GT(resumed, 0) << "what was marked before is not done again";
  EXPECT_EQ(shards("parts", static_cast<int>(whole->shards)), shards("whole", static_cast<int>(whole->shards)));
}

TEST_F(TokenizeTest, WhatBelongsToOtherWorkIsNotTouched) {
  write_corpus();
  const std::vector<std::string> first{path("a.txt"), "--out", path("t")};
  ASSERT_EQ(tokenize(first).code, ExitCode::ok);
  const auto other = tokenize({path("b.txt"), "--out", path("t")});
  EXPECT_EQ(other.code, ExitCode::bad_config);
  EXPECT_THAT(other.err,
              HasSubstr("t.progress.json: expected the progress of these files, this tokenizer and these flags"));
  std::filesystem::remove(path("t.progress.json"));
  EXPECT_THAT(tokenize(first).err, HasSubstr("t_000000.bin is there already; give another --out, or --fresh"));
  EXPECT_EQ(tokenize({path("b.txt"), "--out", path("t"), "--fresh"}).code, ExitCode::ok);
  write("t.progress.json", "{\"fingerprint\": ");
  EXPECT_THAT(tokenize(first).err, HasSubstr("--fresh begins anew"));
}

TEST_F(TokenizeTest, MistakesAreNamed) {
  write_corpus();
  const auto err = [&](std::vector<std::string> arguments, ExitCode code) {
    const auto outcome = tokenize(std::move(arguments));
    EXPECT_EQ(outcome.code, code) << outcome.err;
    return outcome.err;
  };
  const std::string a = path("a.txt");
  const std::string out = path("out");
  EXPECT_THAT(err({}, ExitCode::usage), HasSubstr("IN is missing"));
  EXPECT_THAT(err({a}, ExitCode::usage), HasSubstr("--out is missing"));
  EXPECT_THAT(err({path("gone.txt"), "--out", out}, ExitCode::failed), HasSubstr("gone.txt: there is no such file"));
  EXPECT_THAT(err({path("*.gone"), "--out", out}, ExitCode::failed), HasSubstr("no file matches"));
  EXPECT_THAT(err({path(""), "--out", out}, ExitCode::failed), HasSubstr("got a folder"));
  EXPECT_THAT(err({a, "--out", out, "--format", "csv"}, ExitCode::usage),
              HasSubstr("--format: expected one of bin, uint16"));
  EXPECT_THAT(err({a, "--out", out, "--documents", "line", "--separator", "x"}, ExitCode::usage),
              HasSubstr("only one"));
  EXPECT_THAT(err({a, "--out", out, "--threads", "0"}, ExitCode::usage), HasSubstr("--threads: expected 1 to"));
  EXPECT_THAT(err({a, "--out", out, "--tokenizer", "bytes"}, ExitCode::bad_config),
              HasSubstr("expected byte or a file"));
  EXPECT_THAT(err({a, "--out", out, "--documents", "jsonl"}, ExitCode::failed),
              HasSubstr("a.txt: byte 0: expected a JSON object"));
  EXPECT_THAT(err({write("blank.txt", " \n"), "--out", out, "--fresh"}, ExitCode::failed), HasSubstr("expected text"));
}

}  // namespace
}  // namespace starling::launcher
