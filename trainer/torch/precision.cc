#include "trainer/torch/precision.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <limits>

#include "gossip/base/random.h"
#include "trainer/torch/init.h"
#include "trainer/torch/model.h"
#include "trainer/torch/ops.h"

namespace starling::trainer {
namespace {

constexpr std::int64_t most_tokens = 128;
constexpr int turns = 3;
constexpr double clearly_faster = 1.25;
constexpr double rounding_error = 0.02;  // some 0.005 is usual: 8 bits of each operand

// A block with weights, an input and gradients of its own.
class OneBlock {
 public:
  OneBlock(const ModelConfig& config, const BatchShape& batch, std::span<const float> weights, at::ScalarType products)
      : model_(config, batch, at::kCPU) {
    const StageLayers one{.first = 0, .last = 1};
    const at::Tensor flat = at::empty({static_cast<std::int64_t>(weights.size())}, at::kFloat);
    std::copy(weights.begin(), weights.end(), flat.mutable_data_ptr<float>());
    weights_ = view_parameters(config, one, 1, flat, flat.to(products));
    gradients_ = view_parameters(config, one, 1, at::zeros_like(flat));
  }
  at::Tensor both_ways(const at::Tensor& x) {
    BlockSaved saved;
    at::Tensor out = model_.block(weights_.blocks[0], x, &saved);
    at::Tensor gradient = x.clone();
    model_.block_backward(weights_.blocks[0], saved, gradient, gradients_.blocks[0]);
    return out;
  }

 private:
  Model model_;
  StageParameters weights_;
  StageParameters gradients_;
};

}  // namespace

PrecisionMeasurement measure_precision(const ModelConfig& model, const TrainingConfig& training, const Clock& clock) {
  const BatchShape batch{.sequences = 1, .seq_len = std::min(training.seq_len, most_tokens)};
  const std::vector<float> weights = draw_parameters(model, {.first = 0, .last = 1}, 1, 1);
  OneBlock exact(model, batch, weights, at::kFloat);
  OneBlock rounded(model, batch, weights, at::kBFloat16);
  const at::Tensor x = at::empty({batch.seq_len, model.hidden_size}, at::kFloat);
  Stream stream(1);
  for (float& value : std::span(x.mutable_data_ptr<float>(), static_cast<std::size_t>(x.numel()))) {
    value = static_cast<float>(stream.normal());
  }

  PrecisionMeasurement out;
  const at::Tensor added = exact.both_ways(x).sub(x);
  out.error = rounded.both_ways(x).sub(x).sub(added).norm().item<double>() / added.norm().item<double>();
  const auto time_of = [&](OneBlock& block) {
    const TimePoint begin = clock.now();
    block.both_ways(x);
    return seconds(clock.now() - begin);
  };
  double slow = std::numeric_limits<double>::infinity();
  double fast = slow;
  for (int turn = 0; turn < turns; ++turn) {
    slow = std::min(slow, time_of(exact));
    fast = std::min(fast, time_of(rounded));
  }
  if (fast > 0.0) out.speedup = slow / fast;
  return out;
}

Precision faster_precision(const PrecisionMeasurement& measured) {
  const bool takes_it = measured.speedup >= clearly_faster && measured.error <= rounding_error;  // false for NaN
  return takes_it ? Precision::bfloat16 : Precision::float32;
}

double measure_matrix_flops(at::Device device, at::ScalarType type, const Clock& clock) {
  const c10::InferenceMode no_autograd;
  const std::int64_t rows = device.is_cpu() ? 512 : 4096;
  const std::int64_t inner = device.is_cpu() ? 1024 : 4096;
  const at::Tensor a = at::ones({rows, inner}, at::TensorOptions(type).device(device));
  double best = 0.0;
  for (int turn = 0; turn <= turns; ++turn) {  // the first one also sets things up
    const TimePoint begin = clock.now();
    const at::Tensor made = ops::product(a, a);
    if (!device.is_cpu()) made.narrow(0, 0, 1).sum().item<double>();  // waits for the device
    const double took = seconds(clock.now() - begin);
    if (turn > 0 && took > 0.0) best = std::max(best, 2.0 * static_cast<double>(rows * rows * inner) / took);
  }
  return best;
}

}  // namespace starling::trainer
