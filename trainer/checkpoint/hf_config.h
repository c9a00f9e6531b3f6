// config.json of a Hugging Face model directory: LlamaForCausalLM and nothing else.
//
// Read: any config.json of a Llama model as transformers 4 (rope_theta, rope_scaling, torch_dtype) or 5 (rope_parameters,
// dtype) writes it, with transformers' defaults for keys that are left out. What would change a number and is not built
// here is refused by field and value. Written: both spellings, so that either version reads it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

// Ids with a meaning of their own; eos may be several. Kept for whoever generates; training does not look at them.
struct SpecialIds {
  std::optional<std::int64_t> bos;
  std::vector<std::int64_t> eos;
  std::optional<std::int64_t> pad;

  bool operator==(const SpecialIds&) const = default;
};

struct HfConfig {
  ModelConfig model;
  SpecialIds special;
};

// The text of config.json.
std::string hf_config_text(const ModelConfig& model, const SpecialIds& special, WeightDtype dtype);

// Errors: bad_input; all fields that are wrong or unsupported, with their values, in one text.
Result<HfConfig> parse_hf_config(std::string_view text);
// `directory`/config.json, at most 1 MiB. Errors: those of parse_hf_config and read_file, with the path before them.
Result<HfConfig> read_hf_config(const std::filesystem::path& directory);

// "hidden_size: 64 here, 128 there" for each field of `model` that differs in `other`.
std::vector<std::string> differences(const ModelConfig& model, const ModelConfig& other, std::string_view here,
                                     std::string_view there);

}  // namespace starling::trainer
