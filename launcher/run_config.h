// All that describes a run, as one value. Each component's section lives beside the component, with its defaults and its
// own checks; this file nests them and checks what only shows when sections are seen together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gossip/membership/membership_config.h"
#include "gossip/net/network_config.h"
#include "gossip/outer/outer_config.h"
#include "launcher/problem.h"
#include "metrics/metrics_config.h"
#include "pipeline/pipeline_config.h"
#include "trainer/data/data_config.h"
#include "trainer/worker/model_config.h"
#include "trainer/worker/training_config.h"

namespace starling::launcher {

// The section run of the run file.
struct RunSection {
  std::string name;  // of the run's directory: [A-Za-z0-9._-]{1,64}
  std::uint64_t seed = 1337;
  std::string output_dir = "./runs";

  std::vector<std::string> validate() const;
};

// What is wrong with a configuration, by key: "model.hidden_size", or "model" when no single key is to blame.
struct Finding {
  Severity severity = Severity::error;
  std::string key;
  std::string message;
};

// What "auto" or null stood for, once all other values are known.
struct AutoChoice {
  std::string key;
  std::string value;
};

struct RunConfig {
  std::int64_t version = 1;  // of the run file's format
  RunSection run;
  trainer::ModelConfig model;
  trainer::DataConfig data;  // the sections tokenizer and data
  trainer::TrainingConfig training;
  trainer::OptimizerConfig optimizer;
  trainer::SchedulerConfig lr_scheduler;
  trainer::ParallelismConfig parallelism;
  outer::OuterConfig outer;
  pipeline::PipelineConfig pipeline;
  membership::MembershipConfig membership;
  net::NetworkConfig network;
  trainer::EvalConfig eval;
  trainer::CheckpointConfig checkpoint;
  metrics::LoggingConfig logging;
  metrics::HttpConfig http;

  // All findings of all sections, then those of sections together. Reads no file.
  std::vector<Finding> validate() const;

  // The rest REQUIRES that validate() finds no error.
  std::int64_t tokens_per_step() const {
    return training.tokens_per_microbatch() * training.microbatches * parallelism.replicas;
  }
  // max_steps, or the steps that max_tokens is enough for: what the learning rate's schedule ends at.
  Step planned_steps() const;
  std::int64_t start_workers() const {
    return membership.start_workers.value_or(parallelism.stages * parallelism.replicas);
  }
  // Blocks of each stage, first to last.
  std::vector<trainer::StageLayers> stage_layers() const;
  // What each key that was left to `auto` became, as far as the run file decides it and not the machine.
  std::vector<AutoChoice> auto_choices() const;
};

struct DataSummary {
  std::int64_t training_tokens = 0;
  std::int64_t validation_tokens = 0;
};

// Opens the training and validation data as a worker would; a finding names the file and the fix. Every token is read
// once, which for text is nothing and for a terabyte of shards takes its time.
// REQUIRES: config.validate() finds no error.
tl::expected<DataSummary, Finding> check_data(const RunConfig& config);

}  // namespace starling::launcher
