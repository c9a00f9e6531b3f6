#include "trainer/torch/stage.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "gossip/base/error.h"
#include "trainer/torch/library_ops.h"
#include "trainer/torch/loss.h"
#include "trainer/torch/ops.h"

namespace starling::trainer {
namespace {

// Values of a piece of the optimizer's work; partial sums are added in the order of pieces.
constexpr std::int64_t piece_values = 1 << 15;

std::span<float> floats(const at::Tensor& flat) {
  return {flat.mutable_data_ptr<float>(), static_cast<std::size_t>(flat.numel())};
}

at::Tensor copy_of(std::span<const float> values, at::Device device) {
  const at::Tensor out = at::empty({static_cast<std::int64_t>(values.size())}, at::kFloat);
  std::copy(values.begin(), values.end(), floats(out).begin());
  return out.to(device);
}

at::Tensor zeros(std::size_t count, at::Device device) {
  return at::zeros({static_cast<std::int64_t>(count)}, at::TensorOptions(at::kFloat).device(device));
}

at::Tensor copy_or_zero(const std::vector<float>& values, std::size_t count, at::Device device) {
  STARLING_CHECK(values.empty() || values.size() == count, "Adam's state of another stage");
  return values.empty() ? zeros(count, device) : copy_of(values, device);
}

// f(piece, first, count) over [0, total); pieces may run side by side.
template <typename F>
void for_pieces(std::int64_t total, const F& f) {
  const std::int64_t pieces = (total + piece_values - 1) / piece_values;
  at::parallel_for(0, pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t first = piece * piece_values;
      f(piece, first, std::min(piece_values, total - first));
    }
  });
}

std::span<float> part_of(std::span<float> flat, std::int64_t first, std::int64_t count) {
  return flat.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

}  // namespace

StageModel::StageModel(const StageConfig& config, std::span<const float> weights, const AdamState& adam)
    : config_(config),
      model_(config.model, config.batch, config.device),
      ranges_(ranges_of(config)),
      m_(copy_or_zero(adam.m, weights.size(), config.device)),
      v_(copy_or_zero(adam.v, weights.size(), config.device)),
      adam_steps_(adam.steps) {
  gradients_ = view_parameters(config.model, config.layers, config.stage, zeros(weights.size(), config.device));
  if (config.stage == 0 && config.model.tie_word_embeddings) {
    tied_head_gradient_ = at::zeros_like(gradients_.embedding);
    gradients_.head = tied_head_gradient_;
  }
  const at::Tensor flat = copy_of(weights, config.device);
  version_ = std::make_shared<const StageParameters>(
      view_parameters(config.model, config.layers, config.stage, flat, flat.to(config.products)));
}

std::vector<StageModel::Range> StageModel::ranges_of(const StageConfig& config) {
  std::vector<Range> out;
  std::int64_t first = 0;
  for (const ParameterSpec& spec : stage_parameters(config.model, config.layers, config.stage)) {
    const bool is_head = spec.name == "model.norm.weight" || spec.name == "lm_head.weight";
    const bool is_tied = spec.name == "model.embed_tokens.weight" && config.model.tie_word_embeddings;
    const Range range{.first = first,
                      .count = spec.count(),
                      .part = is_head ? Part::head : (is_tied ? Part::tied : Part::body),
                      .decay = spec.shape.size() > 1 ? Decay::yes : Decay::no};
    first += range.count;
    if (!out.empty() && out.back().part == range.part && out.back().decay == range.decay) {
      out.back().count += range.count;
    } else {
      out.push_back(range);
    }
  }
  return out;
}

Version StageModel::writable() const {
  if (version_.use_count() == 1) return version_;
  const at::Tensor flat = at::empty_like(version_->flat);
  const bool one = version_->matrices.is_same(version_->flat);
  return std::make_shared<const StageParameters>(view_parameters(config_.model, config_.layers, config_.stage, flat,
                                                                 one ? flat : at::empty_like(version_->matrices)));
}

void StageModel::adopt(Version filled) {
  if (!filled->matrices.is_same(filled->flat)) at::Tensor(filled->matrices).copy_(filled->flat);
  version_ = std::move(filled);
}

at::Tensor StageModel::run_blocks(Kept& kept, at::Tensor x) const {
  const std::vector<BlockParameters>& blocks = kept.version->blocks;
  if (kept.pass == Pass::train) kept.blocks.resize(blocks.size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const bool keeps = kept.pass == Pass::train && !config_.activation_checkpointing;
    if (kept.pass == Pass::train) kept.blocks[i].x = x;
    x = model_.block(blocks[i], x, keeps ? &kept.blocks[i] : nullptr, kept.borders);
  }
  return x;
}

at::Tensor StageModel::begin(const MicrobatchId& id, const TokenBatch& tokens, Pass pass,
                             std::vector<std::uint32_t> borders) {
  STARLING_CHECK(config_.stage == 0, "only an originator begins a microbatch");
  Kept kept{.version = version_, .pass = pass, .borders = std::move(borders)};
  const auto length = static_cast<std::size_t>(config_.batch.seq_len);
  for (std::span<const std::int32_t> rest(tokens); !rest.empty(); rest = rest.subspan(length + 1)) {
    kept.inputs.insert(kept.inputs.end(), rest.begin(), rest.begin() + config_.batch.seq_len);
    kept.targets.insert(kept.targets.end(), rest.begin() + 1, rest.begin() + config_.batch.seq_len + 1);
  }
  kept.home = run_blocks(kept, ops::embed(kept.version->embedding, kept.inputs, activations()));
  at::Tensor out = kept.home;
  kept_.insert_or_assign(id, std::move(kept));
  return out;
}

at::Tensor StageModel::forward(const MicrobatchId& id, const at::Tensor& input, Pass pass,
                               std::vector<std::uint32_t> borders) {
  Kept kept{.version = version_, .pass = pass, .borders = std::move(borders)};
  at::Tensor out = run_blocks(kept, input);
  kept_.erase(id);
  if (pass == Pass::train) kept_.emplace(id, std::move(kept));
  return out;
}

StageModel::LossResult StageModel::loss(const MicrobatchId& id, const at::Tensor& input) {
  STARLING_CHECK(config_.stage == 0, "only an originator computes a loss");
  const auto found = kept_.find(id);
  if (found == kept_.end() || !found->second.home.defined()) return {};
  Kept& kept = found->second;
  const at::Tensor x = input.defined() ? input : kept.home;
  LossResult out{.sum = 0.0, .kept = true, .finite = false, .gradient = {}};
  if (kept.pass == Pass::eval) {
    out.sum = loss_only(*kept.version, x, kept.targets, model_.eps());
    out.finite = std::isfinite(out.sum);
    kept_.erase(found);
    return out;
  }
  HeadLoss made = loss_and_gradient(*kept.version, x, kept.targets, model_.eps(), gradients_);
  out.sum = made.sum;
  out.finite = made.gradient.defined();
  if (!out.finite) {
    kept_.erase(found);
    return out;
  }
  (input.defined() ? out.gradient : kept.gradient) = std::move(made.gradient);
  kept.home.reset();
  kept.targets = {};
  return out;
}

StageModel::BackwardResult StageModel::backward(const MicrobatchId& id, at::Tensor gradient) {
  const auto found = kept_.find(id);
  if (found == kept_.end() || found->second.pass == Pass::eval) return {};
  Kept& kept = found->second;
  if (!gradient.defined()) gradient = kept.gradient;
  if (!gradient.defined()) return {};
  for (std::size_t i = kept.blocks.size(); i-- > 0;) {
    BlockSaved& saved = kept.blocks[i];
    if (config_.activation_checkpointing) model_.block(kept.version->blocks[i], saved.x, &saved, kept.borders);
    model_.block_backward(kept.version->blocks[i], saved, gradient, gradients_.blocks[i], kept.borders);
    kept.blocks.pop_back();
  }
  BackwardResult out{.kept = true, .gradient = {}};
  if (config_.stage == 0) {
    ops::embed_backward(gradient, kept.inputs, gradients_.embedding);
  } else {
    out.gradient = std::move(gradient);
  }
  kept_.erase(found);
  return out;
}

double StageModel::scale_of(const Range& range, const OptimizerStep& job) const {
  if (range.part == Part::tied) return 1.0;  // divided where its two halves are joined
  const std::int64_t tokens = range.part == Part::body ? job.body_tokens : job.head_tokens;
  return tokens > 0 ? 1.0 / static_cast<double>(tokens) : 0.0;
}

void StageModel::join_tied_head(const OptimizerStep& job) {
  if (!tied_head_gradient_.defined()) return;
  const auto share = [](std::int64_t tokens) { return tokens > 0 ? 1.0 / static_cast<double>(tokens) : 0.0; };
  gradients_.embedding.mul_(share(job.body_tokens)).add_(tied_head_gradient_, share(job.head_tokens));
  tied_head_gradient_.zero_();
}

double StageModel::squared_gradient_norm(const OptimizerStep& job) const {
  double total = 0.0;
  for (const Range& range : ranges_) {
    const double scale = scale_of(range, job);
    if (scale == 0.0) continue;
    if (!config_.device.is_cpu()) {
      total += ops::library::sum_of_squares(gradients_.flat.narrow(0, range.first, range.count)) * scale * scale;
      continue;
    }
    std::vector<double> sums(static_cast<std::size_t>(range.count / piece_values + 1));
    for_pieces(range.count, [&](std::int64_t piece, std::int64_t first, std::int64_t count) {
      sums[static_cast<std::size_t>(piece)] =
          sum_of_squares(part_of(floats(gradients_.flat), range.first + first, count));
    });
    for (const double sum : sums) total += sum * scale * scale;
  }
  return total;
}

Stepped StageModel::step(const OptimizerStep& job) {
  join_tied_head(job);
  Stepped out{.step = job.step, .applied = false, .gradient_norm = std::sqrt(squared_gradient_norm(job))};
  out.applied = std::isfinite(out.gradient_norm) && job.body_tokens + job.head_tokens > 0;
  if (out.applied) {
    ++adam_steps_;
    update(job, clipping(out.gradient_norm, config_.max_grad_norm));
  } else {
    gradients_.flat.zero_();
  }
  return out;
}

void StageModel::update(const OptimizerStep& job, double clip) {
  const OptimizerConfig& optimizer = config_.optimizer;
  Version next = writable();
  for (const Range& range : ranges_) {
    const double scale = scale_of(range, job);
    if (scale == 0.0) {  // no tokens: these weights stay as they are
      next->flat.narrow(0, range.first, range.count).copy_(version_->flat.narrow(0, range.first, range.count));
      gradients_.flat.narrow(0, range.first, range.count).zero_();
      continue;
    }
    update_range({.learning_rate = job.learning_rate,
                  .beta1 = optimizer.beta1,
                  .beta2 = optimizer.beta2,
                  .eps = optimizer.eps,
                  .weight_decay = range.decay == Decay::yes ? optimizer.weight_decay : 0.0,
                  .steps = adam_steps_,
                  .gradient_scale = clip * scale},
                 range, next->flat);
  }
  adopt(std::move(next));
}

void StageModel::update_range(const AdamWStep& step, const Range& range, const at::Tensor& next) {
  if (!config_.device.is_cpu()) {
    const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, range.first, range.count); };
    return ops::library::adamw_step(step, part(version_->flat), part(gradients_.flat), part(m_), part(v_), part(next));
  }
  const AdamW settings = adamw(step);
  for_pieces(range.count, [&](std::int64_t, std::int64_t first, std::int64_t count) {
    const std::int64_t from = range.first + first;
    adamw_step(settings, part_of(floats(version_->flat), from, count), part_of(floats(gradients_.flat), from, count),
               part_of(floats(m_), from, count), part_of(floats(v_), from, count), part_of(floats(next), from, count));
  });
}

void StageModel::set_theta(std::span<const float> weights) {
  STARLING_CHECK(weights.size() == static_cast<std::size_t>(version_->flat.numel()), "weights of another stage");
  Version next = writable();
  if (config_.device.is_cpu()) {
    std::copy(weights.begin(), weights.end(), floats(next->flat).begin());
  } else {
    at::Tensor(next->flat).copy_(copy_of(weights, at::kCPU));
  }
  adopt(std::move(next));
}

void StageModel::begin_again(std::span<const float> weights) {
  set_theta(weights);
  for (at::Tensor* const state : {&m_, &v_, &gradients_.flat, &tied_head_gradient_}) {
    if (state->defined()) state->zero_();
  }
  adam_steps_ = 0;
}

}  // namespace starling::trainer
