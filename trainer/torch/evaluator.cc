#include "trainer/torch/evaluator.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/torch/loss.h"
#include "trainer/torch/model.h"
#include "trainer/torch/ops.h"
#include "trainer/torch/parameters.h"

namespace starling::trainer {

struct Evaluator::Impl {
  Impl(const ModelConfig& model, std::span<const float> flat, std::int64_t its_seq_len)
      : seq_len(its_seq_len),
        vocab(model.vocab_size),
        blocks(model, {.sequences = 1, .seq_len = seq_len}),
        weights(view_parameters(
            model, {0, model.num_hidden_layers}, 0,
            at::from_blob(const_cast<float*>(flat.data()), {static_cast<std::int64_t>(flat.size())}, at::kFloat))) {}

  const std::int64_t seq_len;
  const std::int64_t vocab;
  const Model blocks;
  const StageParameters weights;
};

Evaluator::Evaluator(const ModelConfig& model, std::span<const float> weights, std::int64_t seq_len, int threads) {
  STARLING_CHECK(seq_len >= 1 && threads >= 1, "a length and a thread");
  const c10::InferenceMode no_autograd;
  at::set_num_threads(threads);
  impl_ = std::make_unique<const Impl>(model, weights, seq_len);
}
Evaluator::~Evaluator() = default;

double Evaluator::loss(std::span<const std::int32_t> windows, std::span<const std::uint32_t> borders) const {
  const auto length = static_cast<std::size_t>(impl_->seq_len);
  STARLING_CHECK(!windows.empty() && windows.size() % (length + 1) == 0, "whole windows");
  STARLING_CHECK(std::ranges::all_of(windows, [&](std::int32_t id) { return id >= 0 && id < impl_->vocab; }),
                 "tokens of the vocabulary");
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> targets;
  for (; !windows.empty(); windows = windows.subspan(length + 1)) {
    const auto window = windows.first(length + 1);
    inputs.insert(inputs.end(), window.begin(), window.end() - 1);
    targets.insert(targets.end(), window.begin() + 1, window.end());
  }
  const c10::InferenceMode no_autograd;
  at::Tensor x = ops::embed(impl_->weights.embedding, inputs, at::kFloat);
  for (const BlockParameters& block : impl_->weights.blocks) x = impl_->blocks.block(block, x, nullptr, borders);
  return loss_only(impl_->weights, x, targets, impl_->blocks.eps());
}

}  // namespace starling::trainer
