// Model files with values that everybody can compute: one formula in C++ here and in tests/golden/safetensors_golden.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/bytes.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

// Value i of the tensor `name`: a multiple of 1/64 between -50/64 and 50/64, exact in float16 and bfloat16.
inline float known_value(std::string_view name, std::int64_t i) {
  std::int64_t salt = 0;
  for (const char c : name) salt += static_cast<unsigned char>(c);
  return static_cast<float>((i * 37 + salt) % 101 - 50) / 64.0F;
}

inline std::vector<float> known_stage(const ModelConfig& model, const StageLayers& layers, Stage stage) {
  std::vector<float> out;
  for (const ParameterSpec& spec : stage_parameters(model, layers, stage)) {
    for (std::int64_t i = 0; i < spec.count(); ++i) out.push_back(known_value(spec.name, i));
  }
  return out;
}

inline ModelConfig tiny_model() {
  ModelConfig model;
  model.hidden_size = 16;
  model.intermediate_size = 24;
  model.num_hidden_layers = 3;
  model.num_attention_heads = 4;
  model.num_key_value_heads = 2;
  model.vocab_size = 32;
  model.max_position_embeddings = 64;
  return model;
}

// A file of this header and so many bytes of data.
inline Bytes safetensors_bytes(std::string_view header, std::size_t data_bytes) {
  ByteWriter out;
  out.number(static_cast<std::uint64_t>(header.size()));
  out.raw(as_bytes(header));
  out.raw(Bytes(data_bytes));
  return std::move(out).bytes();
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

}  // namespace starling::trainer
