#include "trainer/checkpoint/hf_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "gossip/base/real_env.h"
#include "trainer/data/json_text.h"
#include "trainer/checkpoint/model_files.h"

namespace starling::trainer {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t max_config_bytes = 1 << 20;
// What LlamaForCausalLM takes where config.json says nothing.
constexpr double default_rope_theta = 10000.0;
constexpr double default_rms_norm_eps = 1e-6;
constexpr std::int64_t default_positions = 2048;

// Reads fields one by one and gathers what is wrong with them. A key that is null is one that is not there, as in Python.
class Fields {
 public:
  Fields(const Json& object, std::string prefix, std::vector<std::string>& problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  const Json* find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  void integer(const char* key, std::int64_t& to) {
    if (const Json* value = find(key)) {
      read_integer(key, *value, to);
    } else {
      problem(key, "expected a whole number, got nothing");
    }
  }
  void integer_or(const char* key, std::int64_t& to, std::int64_t otherwise) {
    to = otherwise;
    if (const Json* value = find(key)) read_integer(key, *value, to);
  }
  void number_or(const char* key, double& to, double otherwise) {
    to = otherwise;
    if (find(key) != nullptr) number(key, to);
  }
  void number(const char* key, double& to) {
    const Json* value = find(key);
    if (value == nullptr) return problem(key, "expected a number, got nothing");
    if (!value->is_number()) return problem(key, "expected a number, got " + shown(*value));
    to = value->get<double>();
  }
  void boolean_or(const char* key, bool& to, bool otherwise) {
    to = otherwise;
    const Json* value = find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return problem(key, "expected true or false, got " + shown(*value));
    to = value->get<bool>();
  }
  // A field that must be `only` where it stands at all.
  void only(const char* key, const Json& only) {
    const Json* value = find(key);
    if (value == nullptr || *value == only) return;
    problem(key, fmt::format("only {} is supported, got {}", shown(only), shown(*value)));
  }
  void absent(const char* key) {
    if (const Json* value = find(key)) problem(key, "is not supported, got " + shown(*value));
  }
  void problem(const char* key, std::string_view what) { problems_.push_back(fmt::format("{}{}: {}", prefix_, key, what)); }

 private:
  void read_integer(const char* key, const Json& value, std::int64_t& to) {
    if (!value.is_number_integer() || (value.is_number_unsigned() && !fits(value))) {
      return problem(key, "expected a whole number, got " + shown(value));
    }
    to = value.get<std::int64_t>();
  }
  static bool fits(const Json& value) { return value.get<std::uint64_t>() >> 63 == 0; }

  const Json& object_;
  std::string prefix_;
  std::vector<std::string>& problems_;
};

void refuse_other_models(Fields& fields) {
  if (const Json* names = fields.find("architectures")) {
    if (*names != Json::array({"LlamaForCausalLM"})) {
      fields.problem("architectures", "only [\"LlamaForCausalLM\"] is supported, got " + shown(*names));
    }
  }
  fields.only("attention_bias", false);
  fields.only("mlp_bias", false);
  fields.only("hidden_act", "silu");
  fields.only("partial_rotary_factor", 1.0);
  if (const Json* sliding = fields.find("use_sliding_window"); sliding == nullptr || *sliding != false) {
    fields.absent("sliding_window");
    fields.only("use_sliding_window", false);
  }
  fields.absent("quantization_config");
}

// The two spellings of rotary parameters: `map` is rope_parameters (transformers 5) or rope_scaling (4).
void read_rope_map(const Json& map, const std::string& name, ModelConfig& model, std::vector<std::string>& problems) {
  if (!map.is_object()) {
    problems.push_back(fmt::format("{}: expected an object, got {}", name, shown(map)));
    return;
  }
  Fields fields(map, name + ".", problems);
  const char* const type_key = fields.find("rope_type") != nullptr ? "rope_type" : "type";
  const Json* type = fields.find(type_key);
  if (fields.find("rope_theta") != nullptr) fields.number("rope_theta", model.rope_theta);
  fields.only("partial_rotary_factor", 1.0);
  if (type == nullptr || *type == "default") return;
  if (*type != "llama3") {
    return fields.problem(type_key, "only default and llama3 are supported, got " + shown(*type));
  }
  RopeScaling scaling;
  fields.number("factor", scaling.factor);
  fields.number("low_freq_factor", scaling.low_freq_factor);
  fields.number("high_freq_factor", scaling.high_freq_factor);
  fields.integer("original_max_position_embeddings", scaling.original_max_position_embeddings);
  model.rope_scaling = scaling;
}

void read_rope(const Json& object, Fields& fields, ModelConfig& model, std::vector<std::string>& problems) {
  fields.number_or("rope_theta", model.rope_theta, default_rope_theta);
  const double outside = model.rope_theta;
  const Json* parameters = fields.find("rope_parameters");
  const Json* scaling = fields.find("rope_scaling");
  ModelConfig other = model;
  if (parameters != nullptr) read_rope_map(*parameters, "rope_parameters", model, problems);
  if (scaling != nullptr) read_rope_map(*scaling, "rope_scaling", parameters == nullptr ? model : other, problems);
  const bool two_scalings = parameters != nullptr && scaling != nullptr && other.rope_scaling != model.rope_scaling;
  if (two_scalings || (object.contains("rope_theta") && outside != model.rope_theta)) {
    problems.push_back("rope_parameters: contradicts rope_theta or rope_scaling beside it; remove one of them");
  }
}

void read_special(Fields& fields, SpecialIds& special) {
  const auto one = [&](const char* key, const Json& value) -> std::optional<std::int64_t> {
    if (value.is_number_integer() && value >= -1 && value < (std::int64_t{1} << 32)) {
      const auto id = value.get<std::int64_t>();
      return id < 0 ? std::nullopt : std::optional(id);  // -1: none, in files of Llama 1
    }
    fields.problem(key, "expected an id, got " + shown(value));
    return std::nullopt;
  };
  if (const Json* bos = fields.find("bos_token_id")) special.bos = one("bos_token_id", *bos);
  if (const Json* pad = fields.find("pad_token_id")) special.pad = one("pad_token_id", *pad);
  const Json* eos = fields.find("eos_token_id");
  if (eos == nullptr) return;
  for (const Json& value : eos->is_array() ? *eos : Json::array({*eos})) {
    if (const auto id = one("eos_token_id", value)) special.eos.push_back(*id);
  }
}

}  // namespace

std::string hf_config_text(const ModelConfig& model, const SpecialIds& special, WeightDtype dtype) {
  nlohmann::ordered_json out;
  out["architectures"] = {"LlamaForCausalLM"};
  out["model_type"] = model.model_type;
  out["vocab_size"] = model.vocab_size;
  out["hidden_size"] = model.hidden_size;
  out["intermediate_size"] = model.intermediate_size;
  out["num_hidden_layers"] = model.num_hidden_layers;
  out["num_attention_heads"] = model.num_attention_heads;
  out["num_key_value_heads"] = model.num_key_value_heads;
  out["head_dim"] = model.head_dim();
  out["hidden_act"] = "silu";
  out["max_position_embeddings"] = model.max_position_embeddings;
  out["rms_norm_eps"] = model.rms_norm_eps;
  out["tie_word_embeddings"] = model.tie_word_embeddings;
  out["attention_bias"] = false;
  out["attention_dropout"] = 0.0;
  out["mlp_bias"] = false;
  nlohmann::ordered_json rope;
  rope["rope_type"] = "default";
  if (const auto& scaling = model.rope_scaling) {
    rope["rope_type"] = "llama3";
    rope["factor"] = scaling->factor;
    rope["low_freq_factor"] = scaling->low_freq_factor;
    rope["high_freq_factor"] = scaling->high_freq_factor;
    rope["original_max_position_embeddings"] = scaling->original_max_position_embeddings;
  }
  out["rope_theta"] = model.rope_theta;
  out["rope_scaling"] = nullptr;
  if (model.rope_scaling) out["rope_scaling"] = rope;
  rope["rope_theta"] = model.rope_theta;
  out["rope_parameters"] = rope;
  const auto id = [](const std::optional<std::int64_t>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
  };
  // Written as null when there is none: left out, they would be Llama 2's.
  out["bos_token_id"] = id(special.bos);
  if (special.eos.size() > 1) {
    out["eos_token_id"] = special.eos;
  } else {
    out["eos_token_id"] = id(special.eos.empty() ? std::nullopt : std::optional(special.eos.front()));
  }
  out["pad_token_id"] = id(special.pad);
  out["initializer_range"] = 0.02;
  out["use_cache"] = true;
  out["torch_dtype"] = to_string(dtype);
  out["dtype"] = to_string(dtype);
  return out.dump(2) + "\n";
}

Result<HfConfig> parse_hf_config(std::string_view text) {
  const Result<Json> object = parse_json_object(text);
  if (!object) return tl::unexpected(object.error());
  HfConfig out;
  ModelConfig& model = out.model;
  std::vector<std::string> problems;
  Fields fields(*object, "", problems);
  const Json* type = fields.find("model_type");
  if (type == nullptr || *type != "llama") {
    return fail(ErrorCode::bad_input, fmt::format("model_type: only llama is supported, got {}",
                                                  type == nullptr ? "nothing" : shown(*type)));
  }
  refuse_other_models(fields);
  fields.integer("hidden_size", model.hidden_size);
  fields.integer("intermediate_size", model.intermediate_size);
  fields.integer("num_hidden_layers", model.num_hidden_layers);
  fields.integer("num_attention_heads", model.num_attention_heads);
  fields.integer_or("num_key_value_heads", model.num_key_value_heads, model.num_attention_heads);
  fields.integer("vocab_size", model.vocab_size);
  fields.integer_or("max_position_embeddings", model.max_position_embeddings, default_positions);
  fields.number_or("rms_norm_eps", model.rms_norm_eps, default_rms_norm_eps);
  fields.boolean_or("tie_word_embeddings", model.tie_word_embeddings, false);
  read_rope(*object, fields, model, problems);
  read_special(fields, out.special);
  if (problems.empty()) problems = model.validate();
  if (problems.empty()) {
    std::int64_t head_dim = 0;
    fields.integer_or("head_dim", head_dim, model.head_dim());
    if (head_dim != model.head_dim()) {
      fields.problem("head_dim", fmt::format("only hidden_size / num_attention_heads = {} is supported, got {}",
                                             model.head_dim(), head_dim));
    }
  }
  if (!problems.empty()) return fail(ErrorCode::bad_input, fmt::format("{}", fmt::join(problems, "; ")));
  return out;
}

Result<HfConfig> read_hf_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / config_file;
  const Result<Bytes> text = read_file(path, max_config_bytes);
  if (!text) return tl::unexpected(text.error());
  Result<HfConfig> config = parse_hf_config(as_text(*text));
  if (!config) return fail(config.error().code, path.string() + ": " + config.error().message);
  return config;
}

std::vector<std::string> differences(const ModelConfig& model, const ModelConfig& other, std::string_view here,
                                     std::string_view there) {
  std::vector<std::string> out;
  const auto compare = [&](const char* key, const auto& a, const auto& b) {
    if (a != b) out.push_back(fmt::format("{}: {} {}, {} {}", key, a, here, b, there));
  };
  const auto scaling = [](const std::optional<RopeScaling>& s) {
    return s ? fmt::format("{{llama3, factor {}, low {}, high {}, original {}}}", s->factor, s->low_freq_factor,
                           s->high_freq_factor, s->original_max_position_embeddings)
             : std::string("null");
  };
  compare("model_type", model.model_type, other.model_type);
  compare("hidden_size", model.hidden_size, other.hidden_size);
  compare("intermediate_size", model.intermediate_size, other.intermediate_size);
  compare("num_hidden_layers", model.num_hidden_layers, other.num_hidden_layers);
  compare("num_attention_heads", model.num_attention_heads, other.num_attention_heads);
  compare("num_key_value_heads", model.num_key_value_heads, other.num_key_value_heads);
  compare("vocab_size", model.vocab_size, other.vocab_size);
  compare("max_position_embeddings", model.max_position_embeddings, other.max_position_embeddings);
  compare("rope_theta", model.rope_theta, other.rope_theta);
  compare("rope_scaling", scaling(model.rope_scaling), scaling(other.rope_scaling));
  compare("rms_norm_eps", model.rms_norm_eps, other.rms_norm_eps);
  compare("tie_word_embeddings", model.tie_word_embeddings, other.tie_word_embeddings);
  return out;
}

}  // namespace starling::trainer
