#include "trainer/torch/init.h"

#include <ATen/Parallel.h>

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
  const std::vector<ParameterSpec> specs = stage_parameters(model, layers, stage);
  std::vector<std::int64_t> first{0};
  for (const ParameterSpec& spec : specs) first.push_back(first.back() + spec.count());
  std::vector<float> flat(static_cast<std::size_t>(first.back()), 1.0F);
  // Each parameter has a stream of its own, so they are drawn side by side.
  at::parallel_for(0, static_cast<std::int64_t>(specs.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const ParameterSpec& spec = specs[i];
      if (spec.shape.size() == 1) continue;
      const double deviation = writes_residual(spec.name) ? residual_deviation : matrix_deviation;
      Stream stream(mix_seed(mix_seed(seed, "model.init"), spec.name));
      float* const values = flat.data() + first[i];
      for (std::int64_t k = 0; k < spec.count(); ++k) values[k] = static_cast<float>(deviation * stream.normal());
    }
  });
  return flat;
}

}  // namespace starling::trainer
