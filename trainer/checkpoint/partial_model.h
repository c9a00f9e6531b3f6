// A whole model out of a directory, all in one flat array, or what is left of it without some stages.
//
// Blocks are residual, so a stage that is left out is the identity, and a model without it is a model with fewer blocks: what
// a microbatch sees whose path skips that stage.
#pragma once

#include <cstdint>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "trainer/checkpoint/model_files.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

struct PartialModel {
  ModelConfig model;           // num_hidden_layers: of the blocks that are left
  std::vector<float> weights;  // the flat array of a stage 0 that has all of them
};

// `files` holds `model`, which is cut into `cut`. Errors: usage: a stage that is none, twice, or stage 0, which has
// embedding and head; those of ModelReader.
Result<PartialModel> read_without(const ModelReader& files, const ModelConfig& model,
                                  const std::vector<StageLayers>& cut, const std::vector<Stage>& skipped);

}  // namespace starling::trainer
