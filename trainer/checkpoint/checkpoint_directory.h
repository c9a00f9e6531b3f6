// Checkpoints of a run: directories that stand whole or not at all.
//
//   checkpoints/
//     step-000500/
//       model-00001-of-00004.safetensors ...   weights, fp32, one file per stage; these three are
//       model.safetensors.index.json           which tensor is where; a model directory that
//       config.json                            the model; transformers loads as it is
//       state-00001-of-00004.safetensors ...   per stage: named fp32 arrays; scalars as JSON in __metadata__
//       run.yaml                               the resolved run file
//       manifest.json                          hashes and sizes of all of these, written last
//     .step-000550.tmp/                        being written; one that is found at the start is a crash's leftover
//
// Every file is synced, then the directory, then it is renamed, then the rename is synced. A disk that is full or an fsync
// that fails ends that checkpoint for good: what was written is removed and the older ones stand. One process writes; any
// may read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "trainer/checkpoint/hf_config.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/model_files.h"
#include "trainer/checkpoint/safetensors.h"

namespace starling::trainer {

// What is known before the first value comes.
struct CheckpointPlan {
  ModelConfig model;
  std::vector<StageLayers> cut;
  SpecialIds special;
  std::string run_file;  // the resolved one, as text; not empty
  std::string run_id;
  std::string config_hash;
  Step step = 0;
  Round round = 0;
  std::int64_t tokens = 0;
};

// A named array of a stage's state: "adam_m", "momentum", "theta.w03", ... The list is open.
struct StateArray {
  std::string name;
  std::int64_t count = 0;
};

struct StagePlan {
  Stage stage = 0;
  std::vector<StateArray> arrays;
  std::string scalars = "{}";  // a JSON object
  std::string missed;          // what the checkpoint lacks of this stage; empty: nothing
};

class CheckpointWriter {
 public:
  // Makes `checkpoints` and the temporary directory. Leftovers of writes that crashed are removed.
  // REQUIRES: `disk` outlives the writer. Errors: disk_full, io.
  static Result<CheckpointWriter> begin(const std::filesystem::path& checkpoints, CheckpointPlan plan,
                                        Disk& disk = Disk::real());
  CheckpointWriter(CheckpointWriter&&) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) noexcept;
  ~CheckpointWriter();  // what is not committed is removed

  // One stage at a time, in any order, each once: begin_stage, then all its weights (parameter_count() values in the order of
  // stage_parameters()) and all values of its arrays in their order, each in pieces of any size, the two interleaved as they
  // come; then end_stage. Nothing is held but the piece. Errors of all: disk_full, io; bad_input: a value that is not finite,
  // scalars that are no JSON object, an array's name twice. After an error the checkpoint has failed: its directory is gone
  // and every later call gives that error. REQUIRES: no value more than planned; end_stage after the last one.
  Status begin_stage(const StagePlan& stage);
  Status weights(std::span<const float> values);
  Status state(std::span<const float> values);
  Status end_stage();

  // After the last stage: config.json, index, run file, manifest; sync; rename. A directory of that step that was there is
  // replaced. Result: the checkpoint's path.
  Result<std::filesystem::path> commit();

 private:
  struct Impl;
  explicit CheckpointWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A checkpoint that was verified: all sizes and hashes hold, config.json is a model of ours, the files hold its tensors.
class Checkpoint {
 public:
  // Reads every byte once. `expected`: the model that it must be. Errors: bad_input (says which file and how it differs),
  // not_found, io.
  static Result<Checkpoint> open(const std::filesystem::path& directory, const ModelConfig* expected = nullptr);

  const std::filesystem::path& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  const ModelConfig& model() const { return config_.model; }
  const SpecialIds& special() const { return config_.special; }
  const ModelReader& weights() const { return weights_; }

  std::vector<StateArray> arrays(Stage stage) const;
  std::string scalars(Stage stage) const;  // a JSON object
  // Errors: not_found: this stage has no such array; bad_input: a value that is not finite.
  Result<std::vector<float>> array(Stage stage, std::string_view name) const;

 private:
  Checkpoint(std::filesystem::path path, Manifest manifest, HfConfig config, ModelReader weights,
             std::vector<SafetensorsFile> states);

  std::filesystem::path path_;
  Manifest manifest_;
  HfConfig config_;
  ModelReader weights_;
  std::vector<SafetensorsFile> states_;  // by stage
};

struct NewestGood {
  Checkpoint checkpoint;
  std::vector<std::string> passed_over;  // newer ones: "step-000500: why"
};
// The newest checkpoint that holds. Errors: not_found: there is none, naming what is wrong with each that is there.
Result<NewestGood> newest_good(const std::filesystem::path& checkpoints, const ModelConfig* expected = nullptr);

// Removes all but the newest `keep` (>= 1) that look whole, but nothing before one that was verified stands among those that
// stay. Result: what was removed, oldest last. Errors: io (the rest stays).
Result<std::vector<std::filesystem::path>> remove_old(const std::filesystem::path& checkpoints, std::int64_t keep);

// Removes what writes that crashed left. Only for the one process that writes. Errors: io.
Status remove_leftovers(const std::filesystem::path& checkpoints);

// "step-000500".
std::string checkpoint_name(Step step);

}  // namespace starling::trainer
