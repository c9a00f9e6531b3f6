// A model in a directory, as transformers keeps it, and the flat arrays of stages.
//
//   model.safetensors                      everything in one file; or
//   model.safetensors.index.json           {"metadata": {"total_size": bytes}, "weight_map": {tensor: file, ...}}
//   model-00001-of-00004.safetensors ...   the files that it names
//
// A stage's flat array is its parameters in the order of stage_parameters(), fp32. Written: one file per stage under the
// names above, always with an index. Read: any cut of the tensors into files, any cut of the model into stages. A tied head
// is not written; where it stands in a file nevertheless it must equal the embedding.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

inline constexpr std::string_view index_file = "model.safetensors.index.json";
inline constexpr std::string_view single_file = "model.safetensors";
inline constexpr std::string_view config_file = "config.json";

// "model-00002-of-00004.safetensors": the file of stage 1 of 4.
std::string model_file_name(Stage stage, std::int64_t stages);
// The tensors of that file, in its order.
std::vector<TensorPlan> model_tensors(const ModelConfig& model, const StageLayers& layers, Stage stage,
                                      WeightDtype dtype);
// __metadata__ of a model file: without it transformers refuses to load.
TensorMetadata model_metadata();
// The index of all stages' files.
std::string index_text(const ModelConfig& model, const std::vector<StageLayers>& cut, WeightDtype dtype);

class ModelReader {
 public:
  // Opens all files and compares names, shapes and dtypes with the model: afterwards only values can be wrong.
  // Errors: not_found, io; bad_input: an index that is none or names a file elsewhere, a tensor that is missing, surplus
  // (rotary_emb.inv_freq of old versions is passed over), of another shape, in two files, of a dtype that is no weight.
  static Result<ModelReader> open(const std::filesystem::path& directory, const ModelConfig& model);

  // The flat array of a stage of any cut. Errors: bad_input: a value that is not finite, a head that is tied and differs
  // from the embedding.
  Result<std::vector<float>> stage(const StageLayers& layers, Stage stage) const;
  // One tensor; `out` has spec.count() values. REQUIRES: a parameter of the model. Errors: bad_input (not finite).
  Status read(const ParameterSpec& spec, std::span<float> out) const;

 private:
  ModelReader(ModelConfig model, std::vector<SafetensorsFile> files);
  Status collect();
  Status check() const;
  Status check_tied_head() const;

  ModelConfig model_;
  std::vector<SafetensorsFile> files_;
  struct Place {
    std::size_t file = 0;
    std::size_t tensor = 0;
  };
  const TensorView& at(const Place& place) const { return files_[place.file].tensors()[place.tensor]; }
  std::map<std::string, Place, std::less<>> places_;
};

}  // namespace starling::trainer
