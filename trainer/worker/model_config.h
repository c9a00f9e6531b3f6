// The shape of a Llama model and how its blocks are cut into stages. Torch-free: the loop thread needs sizes, not tensors.
//
// Field names are those of Hugging Face's config.json, so import and export map nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"

namespace starling::trainer {

// How rotary frequencies are stretched for texts longer than the model was first trained on: `rope_type: llama3` of
// config.json. Waves shorter than original / high_freq_factor positions stay, longer than original / low_freq_factor are
// slowed by `factor`, and what lies between is mixed.
struct RopeScaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 8192;

  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  std::string model_type = "llama";
  std::int64_t hidden_size = 768;
  std::int64_t intermediate_size = 3072;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t num_key_value_heads = 4;
  std::int64_t vocab_size = 32000;
  std::int64_t max_position_embeddings = 1024;
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling;
  double rms_norm_eps = 1.0e-5;
  bool tie_word_embeddings = false;

  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }
  // Every problem, as "key: what was expected, what came, what to set". Empty: the model can be built.
  std::vector<std::string> validate() const;
};

// One parameter tensor: its Hugging Face name and its shape, rows first.
struct ParameterSpec {
  std::string name;
  std::vector<std::int64_t> shape;
  std::int64_t count() const;
};

// The contiguous blocks [first, last) of a stage. Stage 0 also has embedding, final norm and head.
struct StageLayers {
  std::int64_t first = 0;
  std::int64_t last = 0;
  bool operator==(const StageLayers&) const = default;
};

// `layers_per_stage` empty: as even as it goes, the remainder to the middle stages after stage 0 (stage 0 also pays for
// the head). Errors: a sum that is not num_hidden_layers, a stage without a block, more stages than blocks.
Result<std::vector<StageLayers>> cut_into_stages(const ModelConfig& model, std::int64_t stages,
                                                 const std::vector<std::int64_t>& layers_per_stage);

// The parameters of one stage in the order in which they lie in its flat state: embedding (stage 0), blocks in order,
// final norm and head (stage 0; no head when tied).
std::vector<ParameterSpec> stage_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage);

// Number of fp32 values in a stage's flat state (phi, delta, Adam's m, Adam's v each have that many).
std::int64_t parameter_count(const ModelConfig& model, const StageLayers& layers, Stage stage);

// Floating-point operations of the model for a token that is trained on, forward and backward: 6 for each weight of a
// matrix, and 6 T H d a block for causal attention, which sees half of T keys on average. What is computed twice for
// activation checkpointing does not count.
// Source: PaLM (arXiv 2204.02311) appendix B, with half of its attention term.
double train_flops_per_token(const ModelConfig& model, const StageLayers& layers, std::int64_t seq_len);
double head_train_flops_per_token(const ModelConfig& model);

}  // namespace starling::trainer
