#include "trainer/torch/init.h"

#include <cmath>
#include <cstddef>
#include <string_view>

#include "gossip/base/random.h"

namespace starling::trainer {
namespace {

constexpr double matrix_deviation = 0.02;

bool writes_residual(std::string_view name) {
  return name.ends_with(".o_proj.weight") || name.ends_with(".down_proj.weight");
}

}  // namespace

std::vector<float> draw_parameters(const ModelConfig& model, const StageLayers& layers, Stage stage,
                                   std::uint64_t seed) {
  const double residual_deviation = matrix_deviation / std::sqrt(2.0 * static_cast<double>(model.num_hidden_layers));
  std::vector<float> flat;
  flat.reserve(static_cast<std::size_t>(parameter_count(model, layers, stage)));
  for (const ParameterSpec& spec : stage_parameters(model, layers, stage)) {
    if (spec.shape.size() == 1) {
      flat.insert(flat.end(), static_cast<std::size_t>(spec.count()), 1.0F);
      continue;
    }
    const double deviation = writes_residual(spec.name) ? residual_deviation : matrix_deviation;
    Stream stream(mix_seed(mix_seed(seed, "model.init"), spec.name));
    for (std::int64_t i = 0; i < spec.count(); ++i) flat.push_back(static_cast<float>(deviation * stream.normal()));
  }
  return flat;
}

}  // namespace starling::trainer
