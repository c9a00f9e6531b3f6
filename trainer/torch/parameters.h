// One flat array as the tensors of a stage.
//
// A stage's weights, its gradients and any other of its flat arrays have one layout, that of stage_parameters(). The
// tensors below are views of it: nothing is copied, and what lies side by side (q, k, v; gate, up) is one matrix and one
// product. A version of the weights is such a set, shared by the graphs that ran with it and immutable while one holds it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "trainer/worker/model_config.h"

namespace starling::trainer {

// D hidden size, H query heads, K key and value heads, d width of a head, I inner width of the MLP, V vocabulary.
struct BlockParameters {
  at::Tensor input_norm;  // [D]
  at::Tensor qkv;         // [(H + 2 K) d, D]: rows of q_proj, k_proj, v_proj
  at::Tensor output;      // [D, H d]
  at::Tensor post_norm;   // [D]
  at::Tensor gate_up;     // [2 I, D]: rows of gate_proj, up_proj
  at::Tensor down;        // [D, I]
};

struct StageParameters {
  at::Tensor flat;      // [N], fp32
  at::Tensor matrices;  // [N], the same values in the type of the products; `flat` itself where that is fp32
  std::vector<BlockParameters> blocks;
  // Stage 0 only.
  at::Tensor embedding;   // [V, D], fp32
  at::Tensor final_norm;  // [D]
  at::Tensor head;        // [V, D]; the same values as the embedding when tied
};

using Version = std::shared_ptr<const StageParameters>;

// Views of `flat`, but the matrices that are multiplied with are views of `matrices`: the same values in the type of the
// products, or `flat` itself.
// REQUIRES: both are contiguous and have parameter_count() values.
StageParameters view_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage, at::Tensor flat,
                                at::Tensor matrices);
inline StageParameters view_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage,
                                       const at::Tensor& flat) {
  return view_parameters(model, layers, stage, flat, flat);
}

}  // namespace starling::trainer
