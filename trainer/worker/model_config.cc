#include "trainer/worker/model_config.h"

#include <fmt/format.h>

#include <cmath>
#include <cstddef>

namespace starling::trainer {
namespace {

// Far above any model that these methods are for, and low enough that no product of two of them overflows.
constexpr std::int64_t max_width = 1 << 20;
constexpr std::int64_t max_layers = 4096;
constexpr std::int64_t max_vocab = 1 << 24;
constexpr std::int64_t max_positions = 1 << 24;

class Problems {
 public:
  void in_range(const char* key, std::int64_t value, std::int64_t highest) {
    if (value < 1 || value > highest) add("{}: expected 1 to {}, got {}", key, highest, value);
  }
  template <typename... Args>
  void add(fmt::format_string<Args...> text, Args&&... args) {
    found_.push_back(fmt::format(text, std::forward<Args>(args)...));
  }
  std::vector<std::string> take() { return std::move(found_); }
  bool none() const { return found_.empty(); }

 private:
  std::vector<std::string> found_;
};

std::vector<ParameterSpec> block_parameters(const ModelConfig& model, std::int64_t layer) {
  const std::int64_t hidden = model.hidden_size;
  const std::int64_t inner = model.intermediate_size;
  const std::int64_t queries = model.num_attention_heads * model.head_dim();
  const std::int64_t keys = model.num_key_value_heads * model.head_dim();
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  // q, k, v stand side by side, and so do gate and up: rows of one matrix, hence one matrix product each.
  return {
      {prefix + "input_layernorm.weight", {hidden}},           {prefix + "self_attn.q_proj.weight", {queries, hidden}},
      {prefix + "self_attn.k_proj.weight", {keys, hidden}},    {prefix + "self_attn.v_proj.weight", {keys, hidden}},
      {prefix + "self_attn.o_proj.weight", {hidden, queries}}, {prefix + "post_attention_layernorm.weight", {hidden}},
      {prefix + "mlp.gate_proj.weight", {inner, hidden}},      {prefix + "mlp.up_proj.weight", {inner, hidden}},
      {prefix + "mlp.down_proj.weight", {hidden, inner}}};
}

void check_scaling(Problems& problems, const RopeScaling& scaling) {
  const auto positive = [&](const char* key, double value) {
    if (!(value > 0.0) || !std::isfinite(value)) {
      problems.add("rope_scaling: {}: expected a number above 0, got {}", key, value);
    }
  };
  if (!(scaling.factor >= 1.0) || !std::isfinite(scaling.factor)) {
    problems.add("rope_scaling: factor: expected a number from 1 up, got {}", scaling.factor);
  }
  positive("low_freq_factor", scaling.low_freq_factor);
  positive("high_freq_factor", scaling.high_freq_factor);
  if (!(scaling.high_freq_factor > scaling.low_freq_factor)) {
    problems.add("rope_scaling: high_freq_factor: expected more than low_freq_factor {}, got {}",
                 scaling.low_freq_factor, scaling.high_freq_factor);
  }
  problems.in_range("rope_scaling: original_max_position_embeddings", scaling.original_max_position_embeddings,
                    max_positions);
}

}  // namespace

std::vector<std::string> ModelConfig::validate() const {
  Problems problems;
  if (model_type != "llama") problems.add("model_type: expected llama, got '{}'", model_type);
  problems.in_range("hidden_size", hidden_size, max_width);
  problems.in_range("intermediate_size", intermediate_size, max_width);
  problems.in_range("num_hidden_layers", num_hidden_layers, max_layers);
  problems.in_range("num_attention_heads", num_attention_heads, max_width);
  problems.in_range("num_key_value_heads", num_key_value_heads, max_width);
  problems.in_range("vocab_size", vocab_size, max_vocab);
  problems.in_range("max_position_embeddings", max_position_embeddings, max_positions);
  if (!(rope_theta > 0.0) || !std::isfinite(rope_theta)) {
    problems.add("rope_theta: expected a number above 0 (10000 is usual), got {}", rope_theta);
  }
  if (!(rms_norm_eps > 0.0) || !(rms_norm_eps < 1.0)) {
    problems.add("rms_norm_eps: expected a number between 0 and 1 (1e-5 is usual), got {}", rms_norm_eps);
  }
  if (rope_scaling) check_scaling(problems, *rope_scaling);
  if (!problems.none()) return problems.take();  // what follows divides by these

  if (hidden_size % num_attention_heads != 0) {
    problems.add("num_attention_heads: expected a divisor of hidden_size {}, got {}", hidden_size, num_attention_heads);
  } else if (head_dim() % 2 != 0) {
    problems.add(
        "num_attention_heads: hidden_size {} / {} heads gives heads of odd width {}, which cannot be rotated; "
        "set a count that gives an even width",
        hidden_size, num_attention_heads, head_dim());
  }
  if (num_attention_heads % num_key_value_heads != 0) {
    problems.add("num_key_value_heads: expected a divisor of num_attention_heads {}, got {}", num_attention_heads,
                 num_key_value_heads);
  }
  return problems.take();
}

std::int64_t ParameterSpec::count() const {
  std::int64_t product = 1;
  for (const std::int64_t size : shape) product *= size;
  return product;
}

Result<std::vector<StageLayers>> cut_into_stages(const ModelConfig& model, std::int64_t stages,
                                                 const std::vector<std::int64_t>& layers_per_stage) {
  const std::int64_t layers = model.num_hidden_layers;
  if (stages < 1 || stages > layers) {
    return fail(ErrorCode::bad_config,
                fmt::format("parallelism.stages: expected 1 to {} (model.num_hidden_layers), got {}", layers, stages));
  }
  std::vector<std::int64_t> counts = layers_per_stage;
  if (counts.empty()) {
    counts.assign(static_cast<std::size_t>(stages), layers / stages);
    for (std::int64_t extra = 1; extra <= layers % stages; ++extra) ++counts[static_cast<std::size_t>(extra)];
  }
  if (static_cast<std::int64_t>(counts.size()) != stages) {
    return fail(ErrorCode::bad_config,
                fmt::format("parallelism.stage_layers: expected {} numbers (parallelism.stages), got {}", stages,
                            counts.size()));
  }
  std::vector<StageLayers> cut;
  std::int64_t next = 0;
  for (const std::int64_t count : counts) {
    if (count < 1 || count > layers) {
      return fail(
          ErrorCode::bad_config,
          fmt::format("parallelism.stage_layers: expected 1 to {} blocks in each stage, got {}", layers, count));
    }
    cut.push_back({next, next + count});
    next += count;
  }
  if (next != layers) {
    return fail(
        ErrorCode::bad_config,
        fmt::format("parallelism.stage_layers: expected a sum of {} (model.num_hidden_layers), got {}", layers, next));
  }
  return cut;
}

std::vector<ParameterSpec> stage_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage) {
  std::vector<ParameterSpec> out;
  if (stage == 0) out.push_back({"model.embed_tokens.weight", {model.vocab_size, model.hidden_size}});
  for (std::int64_t layer = layers.first; layer < layers.last; ++layer) {
    for (ParameterSpec& spec : block_parameters(model, layer)) out.push_back(std::move(spec));
  }
  if (stage == 0) {
    out.push_back({"model.norm.weight", {model.hidden_size}});
    if (!model.tie_word_embeddings) out.push_back({"lm_head.weight", {model.vocab_size, model.hidden_size}});
  }
  return out;
}

std::int64_t parameter_count(const ModelConfig& model, const StageLayers& layers, Stage stage) {
  std::int64_t count = 0;
  for (const ParameterSpec& spec : stage_parameters(model, layers, stage)) count += spec.count();
  return count;
}

double train_flops_per_token(const ModelConfig& model, const StageLayers& layers, std::int64_t seq_len) {
  const std::int64_t queries = model.num_attention_heads * model.head_dim();
  const std::int64_t keys = model.num_key_value_heads * model.head_dim();
  const std::int64_t weights =
      model.hidden_size * (2 * queries + 2 * keys) + 3 * model.hidden_size * model.intermediate_size;
  return 6.0 * static_cast<double>((layers.last - layers.first) * (weights + seq_len * queries));
}

double head_train_flops_per_token(const ModelConfig& model) {
  return 6.0 * static_cast<double>(model.vocab_size * model.hidden_size);
}

}  // namespace starling::trainer
