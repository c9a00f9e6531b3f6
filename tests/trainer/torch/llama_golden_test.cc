// The model and its training against transformers' LlamaForCausalLM and PyTorch's AdamW, whose numbers stand in
// tests/golden/llama (llama_golden.py there writes them, and says how the files are laid out).
#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "trainer/torch/loss.h"
#include "trainer/torch/stage.h"

namespace starling::trainer {
namespace {

using nlohmann::json;

struct Golden {
  json header;
  std::map<std::string, std::vector<double>> arrays;  // every kind of number fits a double

  ModelConfig model() const {
    const json& m = header.at("model");
    ModelConfig out{.hidden_size = m.at("hidden_size"),
                    .intermediate_size = m.at("intermediate_size"),
                    .num_hidden_layers = m.at("num_hidden_layers"),
                    .num_attention_heads = m.at("num_attention_heads"),
                    .num_key_value_heads = m.at("num_key_value_heads"),
                    .vocab_size = m.at("vocab_size"),
                    .max_position_embeddings = m.at("max_position_embeddings"),
                    .rope_theta = m.at("rope_theta"),
                    .rope_scaling = std::nullopt,
                    .rms_norm_eps = m.at("rms_norm_eps"),
                    .tie_word_embeddings = m.at("tie_word_embeddings")};
    if (const auto scaling = m.find("rope_scaling"); scaling != m.end()) {
      out.rope_scaling = {.factor = scaling->at("factor"),
                          .low_freq_factor = scaling->at("low_freq_factor"),
                          .high_freq_factor = scaling->at("high_freq_factor"),
                          .original_max_position_embeddings = scaling->at("original_max_position_embeddings")};
    }
    return out;
  }
  BatchShape batch() const { return {.sequences = header.at("batch").at(0), .seq_len = header.at("batch").at(1)}; }
  // Part `index` of an array of token ids that holds several batches.
  TokenBatch tokens(const std::string& name, std::size_t index = 0) const {
    const auto count = static_cast<std::size_t>(batch().sequences * (batch().seq_len + 1));
    const std::vector<double>& all = arrays.at(name);
    TokenBatch out;
    for (std::size_t i = index * count; i < (index + 1) * count; ++i) out.push_back(static_cast<std::int32_t>(all[i]));
    return out;
  }
  // The flat array of a stage, of what stands under `prefix` + the parameter's name.
  std::vector<float> flat(const StageLayers& layers, Stage stage, const std::string& prefix = "") const {
    std::vector<float> out;
    for (const ParameterSpec& spec : stage_parameters(model(), layers, stage)) {
      for (const double value : arrays.at(prefix + spec.name)) out.push_back(static_cast<float>(value));
    }
    return out;
  }
};

template <typename T>
void take(const std::string& bytes, std::size_t& at, std::vector<double>& out) {
  for (double& value : out) {
    T read{};
    std::memcpy(&read, bytes.data() + at, sizeof read);
    at += sizeof read;
    value = static_cast<double>(read);
  }
}

Golden read_golden(const std::string& name) {
  std::ifstream file(std::string(std::getenv("STARLING_TEST_SOURCE_DIR")) + "/tests/golden/llama/" + name + ".bin",
                     std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::size_t at = bytes.find('\n') + 1;
  Golden out{.header = json::parse(bytes.substr(0, at)), .arrays = {}};
  for (const json& array : out.header.at("arrays")) {
    std::size_t count = 1;
    for (const std::size_t size : array.at(1)) count *= size;
    std::vector<double>& values = out.arrays[array.at(0)];
    values.resize(count);
    const std::string kind = array.at(2);
    kind == "f32"   ? take<float>(bytes, at, values)
    : kind == "i32" ? take<std::int32_t>(bytes, at, values)
                    : take<double>(bytes, at, values);
  }
  EXPECT_EQ(at, bytes.size());
  return out;
}

// Largest difference, relative to the largest value of the reference.
template <typename Values>
double distance(const Values& made, const std::vector<double>& reference) {
  EXPECT_EQ(made.size(), reference.size());
  double largest = 0.0;
  double scale = 0.0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(made[i]) - reference[i]));
    scale = std::max(scale, std::abs(reference[i]));
  }
  return largest / scale;
}

MicrobatchId microbatch(std::uint32_t index) { return {.originator = {}, .boot = 1, .step = 1, .index = index}; }

// A pipeline of stages in this thread.
class Stages {
 public:
  Stages(const Golden& golden, std::int64_t count, const OptimizerConfig& optimizer, double max_grad_norm)
      : cut_(*cut_into_stages(golden.model(), count, {})) {
    for (std::size_t i = 0; i < cut_.size(); ++i) {
      const auto stage = static_cast<Stage>(i);
      stages_.emplace_back(StageConfig{.model = golden.model(),
                                       .layers = cut_[i],
                                       .stage = stage,
                                       .batch = golden.batch(),
                                       .optimizer = optimizer,
                                       .max_grad_norm = max_grad_norm},
                           golden.flat(cut_[i], stage), AdamState{});
    }
  }

  // What comes home.
  at::Tensor forward(std::uint32_t index, const TokenBatch& tokens, Pass pass) {
    at::Tensor x = stages_[0].begin(microbatch(index), tokens, pass);
    for (std::size_t i = 1; i < stages_.size(); ++i) x = stages_[i].forward(microbatch(index), x, pass);
    return x;
  }
  // Forward, loss and backward; the summed loss.
  double pass(std::uint32_t index, const TokenBatch& tokens) {
    const at::Tensor home = forward(index, tokens, Pass::train);
    StageModel::LossResult loss = stages_[0].loss(microbatch(index), stages_.size() > 1 ? home : at::Tensor());
    at::Tensor gradient = std::move(loss.gradient);
    for (std::size_t i = stages_.size(); i-- > 0;) {
      gradient = stages_[i].backward(microbatch(index), std::move(gradient)).gradient;
    }
    return loss.sum;
  }

  std::vector<StageLayers> cut_;
  std::vector<StageModel> stages_;
};

struct Case {
  const char* name;
  std::int64_t stages;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name << " in " << c.stages; }

class LlamaGolden : public testing::TestWithParam<Case> {
 protected:
  c10::InferenceMode no_autograd_;
  Golden golden_ = read_golden(GetParam().name);
};

TEST_P(LlamaGolden, LogitsAreThoseOfTransformers) {
  Stages stages(golden_, GetParam().stages, {}, 1.0e9);
  const at::Tensor home = stages.forward(1, golden_.tokens("tokens"), Pass::eval);
  at::Tensor flat = at::empty({static_cast<std::int64_t>(stages.stages_[0].theta().size())}, at::kFloat);
  std::ranges::copy(stages.stages_[0].theta(), flat.mutable_data_ptr<float>());
  const StageParameters weights = view_parameters(golden_.model(), stages.cut_[0], 0, flat);
  const at::Tensor made = logits(weights, home, golden_.model().rms_norm_eps);
  const std::span values(made.const_data_ptr<float>(), static_cast<std::size_t>(made.numel()));
  EXPECT_LT(distance(values, golden_.arrays.at("logits")), 1e-5);

  const double loss = stages.stages_[0].loss(microbatch(1), home).sum / static_cast<double>(home.size(0));
  EXPECT_NEAR(loss, golden_.arrays.at("loss")[0], 1e-5);
}

TEST_P(LlamaGolden, GradientsAreThoseOfTransformers) {
  // After one step from zero with beta1 = 0, Adam's m is the gradient itself; so it is with two microbatches of half of
  // it each, but the second sum is rounded.
  Stages stages(golden_, GetParam().stages, {.beta1 = 0.0}, 1.0e9);
  const double loss = stages.pass(1, golden_.tokens("tokens"));
  const auto tokens = static_cast<double>(golden_.batch().sequences * golden_.batch().seq_len);
  EXPECT_NEAR(loss / tokens, golden_.arrays.at("loss")[0], 1e-5);
  for (std::size_t i = 0; i < stages.stages_.size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    stages.stages_[i].step({.step = 1, .learning_rate = 1e-3, .body_tokens = 1, .head_tokens = 1});
    std::span<const float> rest = stages.stages_[i].adam_m();
    for (const ParameterSpec& spec : stage_parameters(golden_.model(), stages.cut_[i], stage)) {
      const auto count = static_cast<std::size_t>(spec.count());
      EXPECT_LT(distance(rest.first(count), golden_.arrays.at("grad." + spec.name)), 1e-4) << spec.name;
      rest = rest.subspan(count);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, LlamaGolden,
                         testing::Values(Case{"untied", 1}, Case{"untied", 2}, Case{"tied", 1}, Case{"tied", 2},
                                         Case{"grouped", 1}, Case{"grouped", 2}, Case{"theta", 1}, Case{"theta", 2},
                                         Case{"scaled", 1}, Case{"scaled", 2}));

class LossCurve : public testing::TestWithParam<const char*> {};

TEST_P(LossCurve, IsThatOfPyTorch) {
  const c10::InferenceMode no_autograd;
  const Golden golden = read_golden(GetParam());
  const json& c = golden.header.at("curve");
  const OptimizerConfig optimizer{.lr = c.at("lr"),
                                  .beta1 = c.at("betas").at(0),
                                  .beta2 = c.at("betas").at(1),
                                  .eps = c.at("eps"),
                                  .weight_decay = c.at("weight_decay")};
  const SchedulerConfig scheduler{.warmup_steps = c.at("warmup_steps"), .min_lr = c.at("min_lr")};
  const Step steps = c.at("steps");
  Stages stages(golden, 1, optimizer, c.at("max_grad_norm"));
  const std::int64_t tokens = golden.batch().sequences * golden.batch().seq_len;
  int clipped = 0;
  for (Step step = 1; step <= steps; ++step) {
    const auto index = static_cast<std::size_t>(step - 1);
    const double rate = learning_rate(optimizer, scheduler, step, steps);
    EXPECT_NEAR(rate, golden.arrays.at("curve_lr")[index], 1e-15);
    const double loss = stages.pass(static_cast<std::uint32_t>(step), golden.tokens("curve_tokens", index));
    const Stepped stepped =
        stages.stages_[0].step({.step = step, .learning_rate = rate, .body_tokens = tokens, .head_tokens = tokens});
    const double norm = golden.arrays.at("curve_norm")[index];
    EXPECT_NEAR(loss / static_cast<double>(tokens), golden.arrays.at("curve_loss")[index], 1e-4) << "step " << step;
    EXPECT_NEAR(stepped.gradient_norm / norm, 1.0, 1e-3) << "step " << step;
    clipped += norm > c.at("max_grad_norm").get<double>() ? 1 : 0;
  }
  // The curve is worth comparing: the model learned, and the clipping was at work.
  EXPECT_LT(golden.arrays.at("curve_loss").back(), 0.75 * golden.arrays.at("curve_loss").front());
  EXPECT_GT(clipped, 5);
}

INSTANTIATE_TEST_SUITE_P(Cases, LossCurve, testing::Values("untied", "tied"));

}  // namespace
}  // namespace starling::trainer
