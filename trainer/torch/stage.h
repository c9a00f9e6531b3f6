// One stage on its device: weights in versions, gradients, Adam's state, and what open microbatches keep.
//
//   version   a set of weights. A microbatch holds the one it ran forward with until its backward pass, so both use the
//             same weights. An optimizer step and an outer step change the set in place when nobody holds it, and make a
//             new one otherwise: at most one more than there are kept microbatches exist.
//   kept      per microbatch, bounded by the loop's admission:
//
//     begin | forward --> kept --> loss (originator) --> kept --> backward --> gone
//                           \---------------- drop ----------------^
//
// Gradients add up in one flat array with the layout of the weights. Embedding and blocks (the body) are divided by other
// token counts than head and final norm; a tied head therefore gathers in an array of its own until the step.
//
// Compute thread only, under c10::InferenceMode. Legend: M = B * T rows, D hidden size, N parameters.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "gossip/base/ids.h"
#include "trainer/data/source.h"
#include "trainer/torch/model.h"
#include "trainer/torch/optimizer.h"
#include "trainer/torch/parameters.h"
#include "trainer/worker/compute.h"
#include "trainer/worker/training_config.h"

namespace starling::trainer {

struct StageConfig {
  ModelConfig model;
  StageLayers layers;
  Stage stage = 0;
  BatchShape batch;
  OptimizerConfig optimizer;
  double max_grad_norm = 1.0;
  bool activation_checkpointing = false;
  at::Device device = at::kCPU;
  // Of the matrix products. Weights, gradients and Adam's state are fp32; so are activations on a CPU.
  at::ScalarType products = at::kFloat;
};

// fp32 values in main memory: those of a tensor that lies there, or a copy of an accelerator's.
class HostValues : public std::span<const float> {
 public:
  explicit HostValues(const at::Tensor& values) : HostValues(values.cpu(), 0) {}

 private:
  HostValues(at::Tensor host, int)
      : std::span<const float>(host.const_data_ptr<float>(), static_cast<std::size_t>(host.numel())),
        owner_(std::move(host)) {}
  at::Tensor owner_;
};

// Adam's state: as it was, or zero.
struct AdamState {
  std::vector<float> m;
  std::vector<float> v;
  std::int64_t steps = 0;
};

class StageModel {
 public:
  // REQUIRES: `weights` has parameter_count() values; m and v are empty or have as many.
  StageModel(const StageConfig& config, std::span<const float> weights, const AdamState& adam);

  // Both return the output [M, D]. A microbatch that is kept already is forgotten first.
  // `borders`: of the documents, see ops::Borders.
  at::Tensor begin(const MicrobatchId& id, const TokenBatch& tokens, Pass pass, std::vector<std::uint32_t> borders = {});
  at::Tensor forward(const MicrobatchId& id, const at::Tensor& input, Pass pass, std::vector<std::uint32_t> borders = {});

  struct LossResult {
    double sum = 0.0;
    bool kept = false;    // false: no such microbatch, nothing happened
    bool finite = false;  // false: not kept, or the loss is not finite; nothing is kept any more
    at::Tensor gradient;  // [M, D], of `input`; undefined for eval and when there was no input
  };
  // `input` undefined: what begin() made.
  LossResult loss(const MicrobatchId& id, const at::Tensor& input);

  struct BackwardResult {
    bool kept = false;    // false: no such graph, nothing happened
    at::Tensor gradient;  // [M, D], of the stage's input; undefined at stage 0
  };
  // `gradient` undefined: the one that loss() left here. It is overwritten.
  BackwardResult backward(const MicrobatchId& id, at::Tensor gradient);
  void drop(const MicrobatchId& id) { kept_.erase(id); }

  Stepped step(const OptimizerStep& job);

  HostValues theta() const { return HostValues(version_->flat); }
  HostValues adam_m() const { return HostValues(m_); }
  HostValues adam_v() const { return HostValues(v_); }
  void set_theta(std::span<const float> weights);
  // set_theta, and as if nothing had been trained: Adam's state and the accumulated gradient are zero.
  void begin_again(std::span<const float> weights);

  // Where and in what type activations lie.
  at::Device device() const { return config_.device; }
  at::ScalarType activations() const { return config_.device.is_cpu() ? at::kFloat : config_.products; }
  std::int64_t rows() const { return model_.rows(); }
  std::int64_t hidden() const { return config_.model.hidden_size; }
  Stage stage() const { return config_.stage; }
  std::size_t kept() const { return kept_.size(); }

 private:
  struct Kept {
    Version version;
    Pass pass = Pass::train;
    std::vector<std::uint32_t> borders;
    std::vector<BlockSaved> blocks;     // train; with activation checkpointing only `x` of each
    std::vector<std::int32_t> inputs;   // originator, [M]
    std::vector<std::int32_t> targets;  // originator, [M]
    at::Tensor home;                    // originator, until its loss: what begin() made
    at::Tensor gradient;                // originator: left by a loss without input
  };
  // Values [first, first + count) of the flat arrays that are treated alike.
  enum class Part { body, head, tied };  // tied: an embedding that is the head too
  enum class Decay { no, yes };
  struct Range {
    std::int64_t first = 0;
    std::int64_t count = 0;
    Part part = Part::body;
    Decay decay = Decay::no;
  };

  // The set of weights to be filled, unless a microbatch holds it: then a new one.
  Version writable() const;
  // `filled`, whose fp32 values are there, becomes the version that microbatches start with.
  void adopt(Version filled);
  at::Tensor run_blocks(Kept& kept, at::Tensor x) const;
  static std::vector<Range> ranges_of(const StageConfig& config);
  double scale_of(const Range& range, const OptimizerStep& job) const;
  double squared_gradient_norm(const OptimizerStep& job) const;
  void join_tied_head(const OptimizerStep& job);
  void update(const OptimizerStep& job, double clip);
  void update_range(const AdamWStep& step, const Range& range, const at::Tensor& next);

  StageConfig config_;
  Model model_;
  std::vector<Range> ranges_;
  Version version_;
  StageParameters gradients_;
  at::Tensor tied_head_gradient_;  // [V, D] when the head is tied
  at::Tensor m_;
  at::Tensor v_;
  std::int64_t adam_steps_ = 0;
  std::map<MicrobatchId, Kept> kept_;
};

}  // namespace starling::trainer
