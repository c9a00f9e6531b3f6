#include "launcher/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

namespace starling::launcher {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

RunConfig valid() {
  RunConfig config;
  config.run.name = "t";
  config.data.train = {"x.txt"};
  config.training.max_steps = 2000;
  return config;
}

std::vector<std::string> findings_of(const RunConfig& config) {
  std::vector<std::string> out;
  for (const Finding& finding : config.validate()) {
    out.push_back((finding.severity == Severity::warning ? "warning: " : "") + finding.key + ": " + finding.message);
  }
  return out;
}

TEST(RunConfig, TheDefaultsAreValidOnceTheRunHasAName) { EXPECT_THAT(findings_of(valid()), IsEmpty()); }

TEST(RunConfig, SaysWhatToSet) {
  struct Case {
    std::function<void(RunConfig&)> spoil;
    const char* finding;
  };
  const Case cases[] = {
      {[](RunConfig& c) { c.run.name = "../x"; },
       "run.name: names the run's directory: expected 1 to 64 letters, digits, '.', '_' and '-', not beginning with "
       "'.' or "
       "'-', got '../x'"},
      {[](RunConfig& c) { c.run.output_dir = ""; },
       "run.output_dir: expected a directory, got nothing; ./runs is usual"},
      {[](RunConfig& c) { c.data.train.clear(); },
       "data.train: expected the files to train on, got none; name them, such as [data/*.txt]"},
      {[](RunConfig& c) { c.model.hidden_size = 770; },
       "model.num_attention_heads: expected a divisor of hidden_size 770, got 12"},
      {[](RunConfig& c) { c.model.num_key_value_heads = 5; },
       "model.num_key_value_heads: expected a divisor of num_attention_heads 12, got 5"},
      {[](RunConfig& c) { c.model.vocab_size = 255; },
       "model.vocab_size: tokenizer.path byte has 256 tokens, got 255; set 256"},
      {[](RunConfig& c) { c.training.seq_len = 2048; },
       "training.seq_len: 2048 is more than model.max_position_embeddings 1024; lower the one or raise the other"},
      {[](RunConfig& c) { c.parallelism.stages = 13, c.training.microbatches = 64; },
       "parallelism.stages: expected 1 to 12 (model.num_hidden_layers), got 13"},
      {[](RunConfig& c) { c.model.num_hidden_layers = 65, c.parallelism.stages = 65, c.training.microbatches = 512; },
       "parallelism.stages: a path has at most 64 stages, got 65"},
      {[](RunConfig& c) {
         c.parallelism.stage_layers = {3, 3, 3, 4};
       },
       "parallelism.stage_layers: expected a sum of 12 (model.num_hidden_layers), got 13"},
      {[](RunConfig& c) {
         c.parallelism.stage_layers = {6, 6};
       },
       "parallelism.stage_layers: expected auto or 4 numbers (stages), got 2"},
      {[](RunConfig& c) { c.training.max_tokens = 10; },
       "training.max_tokens: max_steps is set too; a run ends by one of them: remove the other"},
      {[](RunConfig& c) { c.training.max_steps.reset(); },
       "training.max_steps: expected a number of steps, got nothing; set max_steps or max_tokens"},
      {[](RunConfig& c) { c.lr_scheduler.warmup_steps = 2000; },
       "lr_scheduler.warmup_steps: the run has 2000 steps (training.max_steps), and the learning rate would still rise "
       "at "
       "its end, got 2000; set fewer, such as 200"},
      {[](RunConfig& c) { c.training.max_steps.reset(), c.training.max_tokens = 524'288 * 100; },
       "lr_scheduler.warmup_steps: the run has 100 steps (by training.max_tokens), and the learning rate would still "
       "rise at "
       "its end, got 1000; set fewer, such as 10"},
      {[](RunConfig& c) { c.lr_scheduler.min_lr = 1e-3; },
       "lr_scheduler.min_lr: 0.001 is more than optimizer.lr 0.0006, from which it falls; lower it"},
      {[](RunConfig& c) { c.training.micro_batch_size = 1 << 20, c.training.microbatches = 1 << 16; },
       "training: seq_len x micro_batch_size x microbatches x parallelism.replicas is 2.8e+14 tokens a step; at most "
       "1e+12 are"},
      {[](RunConfig& c) { c.training.microbatches = 15; },
       "warning: training.microbatches: fewer than 4 x parallelism.stages leave much of the pipeline idle, got 15; 16 "
       "or "
       "more keep it busy"},
      {[](RunConfig& c) { c.outer.local_steps = 2001; },
       "warning: outer.local_steps: the run has 2000 steps (training.max_steps), so replicas average only once, at its "
       "end; "
       "a round is 2001 steps"},
      {[](RunConfig& c) { c.outer.local_steps = 0; },
       "outer.local_steps: expected 1 to 1000000 steps a round, got 0; 50 is usual"},
      {[](RunConfig& c) { c.outer.group_size = 4; },
       "outer.group_size: got 4, but replicas average in pairs; set 2 (algorithm: diloco averages all replicas of a "
       "stage)"},
      {[](RunConfig& c) { c.outer.lr = 0.0; }, "outer.lr: expected more than 0 and at most 2, got 0; 0.7 is usual"},
      {[](RunConfig& c) { c.outer.momentum = 1.0; },
       "outer.momentum: expected at least 0 and less than 1, got 1; 0.5 is usual"},
      {[](RunConfig& c) { c.outer.gamma = 0.5; },
       "outer.gamma: 0.5 (as set) is unstable with momentum 0.5: the slow weights of a pair drift apart; set it above "
       "0.5 "
       "and below 1.500"},
      {[](RunConfig& c) { c.outer.lr = 1.6; },
       "outer.gamma: 1.6 (null: equal to lr) is unstable with momentum 0.5: the slow weights of a pair drift apart; "
       "set it "
       "above 0.5 and below 1.500"},
      {[](RunConfig& c) { c.pipeline.max_in_flight = 0; },
       "pipeline.max_in_flight: expected auto or 1 to 4096 open microbatches, got 0"},
      {[](RunConfig& c) { c.pipeline.max_activation_memory_bytes = 1000; },
       "pipeline.max_activation_memory: expected auto or at least 1MiB, got 1000 bytes"},
      {[](RunConfig& c) { c.membership.start_workers = 3; },
       "membership.start_workers: 3 workers cannot fill 4 stages (parallelism.stages); set auto or at least 4"},
      {[](RunConfig& c) { c.membership.start_workers = 0; },
       "membership.start_workers: expected auto (stages x replicas) or 1 to 100000, got 0"},
      {[](RunConfig& c) { c.membership.heartbeat_interval = std::chrono::milliseconds(50); },
       "membership.heartbeat_interval: expected 100ms to 60s, got 0.05s; 1s is usual"},
      {[](RunConfig& c) { c.membership.join = "anybody"; },
       "membership.join: workers are admitted by token; expected token, got 'anybody'"},
      {[](RunConfig& c) { c.network.listen = "0.0.0.0:29400"; },
       "network.listen: expected tcp://host:port, such as tcp://0.0.0.0:29400, got '0.0.0.0:29400'"},
      {[](RunConfig& c) { c.network.listen = "tcp://0.0.0.0"; },
       "network.listen: after tcp:// expected host:port with a port of 0 to 65535, such as 127.0.0.1:9464 or "
       "[::1]:9464, got "
       "'0.0.0.0'"},
      {[](RunConfig& c) { c.network.listen = "tcp://0.0.0.0:65534"; },
       "network.listen: a node takes port 65534 and the two after it; the highest is 65533; set 65533 or less"},
      {[](RunConfig& c) { c.network.advertise = "tcp://host"; },
       "network.advertise: expected auto or a host without a port, such as train.example.org or 192.0.2.7, got "
       "'tcp://host'"},
      {[](RunConfig& c) { c.http.listen = "9464"; },
       "http.listen: expected host:port with a port of 0 to 65535, such as 127.0.0.1:9464 or [::1]:9464, got '9464'"},
      {[](RunConfig& c) {
         c.network = {"tcp://127.0.0.1:9462", "auto", false};
         c.http = {"127.0.0.1:9464", false};
       },
       "http.listen: port 9464 is one of the three that network.listen takes (9462 to 9464); set another"},
      {[](RunConfig& c) { c.eval.batches = 0; }, "eval.batches: expected 1 to 1048576, got 0"},
      {[](RunConfig& c) { c.logging.log_interval = 0; },
       "logging.log_interval: expected at least 1 step, got 0; 10 is usual"},
      {[](RunConfig& c) { c.version = 2; }, "version: this program reads version 1 of run files, got 2"},
  };
  for (const Case& c : cases) {
    RunConfig config = valid();
    c.spoil(config);
    EXPECT_THAT(findings_of(config), ElementsAre(c.finding));
  }
}

TEST(RunConfig, GammaMattersForPairsOnly) {
  RunConfig config = valid();
  config.outer.gamma = 0.1;
  config.outer.algorithm = outer::Algorithm::diloco;
  EXPECT_THAT(findings_of(config), IsEmpty());
}

TEST(RunConfig, OneStageAndOneReplicaAreEnough) {
  RunConfig config = valid();
  config.parallelism = {1, 1, {}};
  config.membership.start_workers = 1;
  EXPECT_THAT(findings_of(config), IsEmpty());
  EXPECT_EQ(config.stage_layers().size(), 1U);
}

TEST(RunConfig, StepsFollowFromTokens) {
  RunConfig config = valid();
  EXPECT_EQ(config.tokens_per_step(), 4 * 16 * 8 * 1024);
  EXPECT_EQ(config.planned_steps(), 2000);
  config.training.max_steps.reset();
  config.training.max_tokens = config.tokens_per_step() * 7 + 1;
  EXPECT_EQ(config.planned_steps(), 8);
  config.training.max_tokens = config.tokens_per_step() * 7;
  EXPECT_EQ(config.planned_steps(), 7);
}

TEST(RunConfig, SaysWhatAutoStandsFor) {
  RunConfig config = valid();
  std::vector<std::string> choices;
  for (const AutoChoice& choice : config.auto_choices()) choices.push_back(choice.key + ": " + choice.value);
  EXPECT_THAT(choices, ElementsAre("training.dtype: the faster of float32 and bfloat16 on a CPU, bfloat16 on CUDA", "parallelism.stage_layers: [3, 3, 3, 3]",
                                   "outer.gamma: 0.7 (outer.lr)", "membership.start_workers: 16 (stages x replicas)",
                                   "data.val: the last 5 % of every training file",
                                   "pipeline.max_in_flight: measured while the run goes on",
                                   "pipeline.max_activation_memory: half of the free memory / local workers, at start",
                                   "network.listen: tcp://0.0.0.0:29400, or the next free ports",
                                   "network.advertise: the address of the default route, at start",
                                   "http.listen: 127.0.0.1:9464, or a free port"));
  config.training.dtype = "float32";
  config.parallelism.stage_layers = {3, 3, 3, 3};
  config.outer.gamma = 0.7;
  config.membership.start_workers = 16;
  config.data.val = {"v.txt"};
  config.pipeline.max_in_flight = 8;
  config.pipeline.max_activation_memory_bytes = 1 << 30;
  config.network = {"tcp://0.0.0.0:29400", "192.0.2.7", false};
  config.http.listen_is_default = false;
  EXPECT_TRUE(config.auto_choices().empty());
}

}  // namespace
}  // namespace starling::launcher
