// The model that `starling generate` and `starling eval` are given: a checkpoint of a run, a run's directory (its newest
// checkpoint that holds) or a model directory as transformers writes it, without the stages that were to be left out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/ids.h"
#include "launcher/options.h"
#include "launcher/run_config.h"
#include "trainer/checkpoint/hf_config.h"
#include "trainer/data/tokenizer.h"

namespace starling::launcher {

struct TrainedModel {
  std::filesystem::path directory;  // with config.json
  trainer::ModelConfig model;       // of the blocks that are left
  std::vector<float> weights;       // the flat array of a stage 0 that has all of them
  trainer::SpecialIds special;
  std::int64_t stages = 1;
  std::vector<Stage> skipped;
  std::optional<Step> step;      // of a checkpoint
  std::optional<RunConfig> run;  // the run file of a checkpoint

  // "runs/x/checkpoints/step-000500: step 500, 1247360 parameters; stages 1, 3 of 0 to 3 left out".
  std::string text() const;
};

// The argument and the flags that open_trained_model, tokenizer_of and threads_of read.
Argument checkpoint_argument();
std::vector<Flag> trained_model_flags();

// Errors: usage: stages that cannot be left out; bad_config: a config.json that is not a model of ours (names the fields);
// not_found, io; bad_input: files that are damaged, lack tensors or hold values that are not finite.
Result<TrainedModel> open_trained_model(const Options& options);

// --tokenizer, else tokenizer.json or tokenizer.model in the directory, else the run's, else for a vocabulary of 256 the
// byte tokenizer.
// Errors: those of Tokenizer::open; bad_config: there is none, or it has more tokens than the model.
Result<std::shared_ptr<const trainer::Tokenizer>> tokenizer_of(const Options& options, const TrainedModel& trained);
// The path that tokenizer_of opens; empty: none.
std::string tokenizer_path(const Options& options, const TrainedModel& trained);

// --threads, else all cores. Errors: usage.
Result<int> threads_of(const Options& options);

// Says what is wrong on stderr. Result: what the command ends with.
ExitCode complain(const Options& options, std::string_view command, const Error& error);

}  // namespace starling::launcher
