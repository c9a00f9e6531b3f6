#include "launcher/validate.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/launcher/command_test.h"

namespace starling::launcher {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class Validate : public CommandTest {
 protected:
  // A run that is valid on this machine.
  std::string good_file() const {
    const std::string data = write("text.txt", std::string(100'000, 'x'));
    return write("run.yaml",
                 "version: 1\n"
                 "run: {name: small}\n"
                 "data: {train: [\"" +
                     data +
                     "\"]}\n"
                     "model: {hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4,\n"
                     "        num_key_value_heads: 2, vocab_size: 256}\n"
                     "training: {seq_len: 128, micro_batch_size: 2, microbatches: 8, max_steps: 100}\n"
                     "lr_scheduler: {warmup_steps: 10}\n"
                     "parallelism: {stages: 2, replicas: 2}\n");
  }
};

TEST_F(Validate, SaysWhatARunAmountsTo) {
  const std::string file = good_file();
  const Outcome outcome = run({"validate", file});
  EXPECT_EQ(outcome.code, ExitCode::ok) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_THAT(outcome.out, StartsWith(file + " is valid\n"));
  EXPECT_THAT(outcome.out, HasSubstr("small, seed 1337, in ./runs\n"));
  // Per block 2 x 64 (norms) + 64 x (64 + 32 + 32 + 64) + 3 x 64 x 128; stage 0 also 2 x 256 x 64 + 64.
  EXPECT_THAT(outcome.out, HasSubstr("106,816 parameters; by stage: 69,824, 36,992\n"));
  EXPECT_THAT(outcome.out, HasSubstr("2 stages x 2 replicas; begins with 4\n"));
  EXPECT_THAT(outcome.out, HasSubstr("2 replicas x 8 microbatches x 2 sequences x 128 tokens = 4,096 tokens\n"));
  EXPECT_THAT(outcome.out, HasSubstr("100 steps, 4.1e+05 tokens\n"));
  EXPECT_THAT(outcome.out, HasSubstr("95,000 tokens to train on, 5,000 held out\n"));
  EXPECT_THAT(outcome.out, HasSubstr("parallelism.stage_layers: [1, 1]\n"));
}

TEST_F(Validate, ProblemsGoToStderrWithExitCodeThree) {
  const std::string file = write("run.yaml", "version: 1\nrun: {nam: t}\n");
  const Outcome outcome = run({"validate", file});
  EXPECT_EQ(outcome.code, ExitCode::bad_config);
  EXPECT_EQ(outcome.out, "");
  EXPECT_THAT(outcome.err, HasSubstr(file + ":2:7: unknown key 'run.nam' (did you mean 'name'?)\n"));
}

TEST_F(Validate, WarningsDoNotFail) {
  const Outcome outcome = run({"validate", good_file(), "--set", "training.microbatches=7"});
  EXPECT_EQ(outcome.code, ExitCode::ok);
  EXPECT_EQ(
      outcome.err,
      "--set training.microbatches=7: warning: training.microbatches: fewer than 4 x parallelism.stages leave much of "
      "the pipeline idle, got 7; 8 or more keep it busy\n");
  EXPECT_THAT(outcome.out, HasSubstr(" is valid\n"));
}

TEST_F(Validate, TakesTheEnvironmentAndFlags) {
  const std::string file = good_file();
  EXPECT_THAT(run({"validate", file}, {{"STARLING_TRAINING_MAX_STEPS", "50"}}).out, HasSubstr("length   50 steps"));
  EXPECT_THAT(run({"validate", file, "--set", "training.max_steps=60"}, {{"STARLING_TRAINING_MAX_STEPS", "50"}}).out,
              HasSubstr("length   60 steps"));
  const Outcome wrong = run({"validate", file, "--set", "training.max_step=60"});
  EXPECT_EQ(wrong.code, ExitCode::bad_config);
  EXPECT_EQ(wrong.err,
            "--set training.max_step=60: unknown key 'training.max_step' (did you mean 'training.max_steps'?)\n");
}

TEST_F(Validate, OpensTheData) {
  const std::string file = good_file();
  std::filesystem::remove(path("text.txt"));
  const Outcome outcome = run({"validate", file});
  EXPECT_EQ(outcome.code, ExitCode::bad_config);
  EXPECT_THAT(outcome.err, StartsWith(file + ":3:15: data.train: "));
  EXPECT_THAT(outcome.err, HasSubstr(path("text.txt")));
}

TEST_F(Validate, PrintsJson) {
  const Outcome good = run({"validate", "--json", good_file()});
  EXPECT_EQ(good.code, ExitCode::ok);
  const auto valid = nlohmann::json::parse(good.out);
  EXPECT_EQ(valid["valid"], true);
  EXPECT_EQ(valid["tokens_per_step"], 4096);
  EXPECT_EQ(valid["steps"], 100);
  EXPECT_EQ(valid["start_workers"], 4);
  EXPECT_EQ(valid["parameters_per_stage"].size(), 2U);
  EXPECT_EQ(valid["hash"].get<std::string>().size(), 64U);

  const std::string file = write("bad.yaml", "version: 1\nzebra: \"\\xff\"\n");
  const Outcome bad = run({"validate", "--json", file});
  EXPECT_EQ(bad.code, ExitCode::bad_config);
  EXPECT_EQ(bad.err, "");
  const auto invalid = nlohmann::json::parse(bad.out);
  EXPECT_EQ(invalid["valid"], false);
  const auto& problem = invalid["problems"].back();
  EXPECT_EQ(problem["severity"], "error");
  EXPECT_EQ(problem["source"], file);
  EXPECT_EQ(problem["line"], 2);
  EXPECT_EQ(problem["column"], 1);
  EXPECT_EQ(problem["message"], "unknown key 'zebra'");
}

}  // namespace
}  // namespace starling::launcher
