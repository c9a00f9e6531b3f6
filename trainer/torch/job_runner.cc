#include "trainer/torch/job_runner.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>

#include <exception>
#include <optional>
#include <utility>

#include "gossip/base/error.h"
#include "gossip/base/log.h"
#include "gossip/net/wire.h"
#include "trainer/torch/accelerator.h"
#include "trainer/torch/accelerator_copies.h"
#include "trainer/torch/activation_codec.h"
#include "trainer/torch/block_cache.h"
#include "trainer/torch/init.h"
#include "trainer/torch/precision.h"
#include "trainer/torch/stage.h"
#include "trainer/worker/slow_weights.h"
#include "trainer/worker/stage_memory.h"

namespace starling::trainer {

namespace {

at::Device device_of(DeviceType type) {
  return type == DeviceType::cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
}
at::ScalarType type_of(Precision precision) { return precision == Precision::bfloat16 ? at::kBFloat16 : at::kFloat; }

// `training.dtype: auto` on a CPU.
Precision choose_precision(const LearnerConfig& config, const Clock& clock) {
  if (config.model.hidden_size < narrowest_for_bf16) return Precision::float32;
  const c10::InferenceMode no_autograd;
  const PrecisionMeasurement measured = measure_precision(config.model, config.training, clock);
  const Precision faster = faster_precision(measured);
  log_info("training.dtype auto: {} (a block with bfloat16 products is {:.2f} times as fast here, its error is {:.1g})",
           faster == Precision::bfloat16 ? "bfloat16" : "float32", measured.speedup, measured.error);
  return faster;
}

template <typename Work>
auto guarded(const Work& work) {
  try {
    const c10::InferenceMode no_autograd;
    return work();
  } catch (const std::exception& error) {
    log_error("the device failed: {}", error.what());
    STARLING_CHECK(false, "a job that the device cannot carry out");
  }
}

}  // namespace

struct JobRunner::State {
  LearnerConfig config;
  std::shared_ptr<const Source> source;
  double matrix_flops = 0.0;
  std::optional<AcceleratorCopies> copies;  // none on a CPU
  std::optional<StageModel> model;
  std::optional<SlowWeights> slow;

  BatchShape batch() const {
    return {.sequences = config.training.micro_batch_size, .seq_len = config.training.seq_len};
  }
  Result<at::Tensor> decode(const Buffer& buffer) const {
    if (copies) {
      return copies->bring(*buffer, config.activation_encoding, model->rows(), model->hidden(), model->activations());
    }
    return decode_activation(*buffer, config.activation_encoding, model->rows(), model->hidden());
  }
  // `answer` makes a JobResult of the bytes of `values`, which are null when one is not finite.
  template <typename Answer>
  Started answer_with(const at::Tensor& values, Answer answer) const {
    if (!copies) return answer(encode_activation(values, config.activation_encoding));
    return [bytes = copies->take(values, config.activation_encoding), answer]() mutable { return answer(bytes()); };
  }
  // What was made but cannot be sent is not kept either.
  Started activation(const MicrobatchId& id, const at::Tensor& output, std::vector<std::uint32_t> borders = {}) {
    return answer_with(output, [this, id, borders = std::move(borders)](Buffer bytes) -> JobResult {
      const bool diverged = bytes == nullptr;
      if (diverged) model->drop(id);
      return ActivationMade{.microbatch = id, .output = std::move(bytes), .diverged = diverged, .borders = borders};
    });
  }
  // `out` with the bytes of `gradient`, if there is any, in `part`.
  template <typename Made>
  Started with_gradient(Made out, Buffer Made::*part, const at::Tensor& gradient) const {
    if (!gradient.defined()) return out;
    return answer_with(gradient, [out, part](Buffer bytes) mutable -> JobResult {
      out.diverged = bytes == nullptr;
      out.*part = std::move(bytes);
      return out;
    });
  }

  Started run(const Begin& job) {
    if (source == nullptr) {
      log_error("a microbatch was to begin here, but this worker has no data");
      return ActivationMade{.microbatch = job.microbatch, .output = nullptr};
    }
    const MicrobatchId& id = job.microbatch;
    const Result<TokenBatch> tokens = job.pass == Pass::train
                                          ? source->sample(config.seed, job.slot, id.step, id.index)
                                          : source->validation(id.index & ~eval_index_bit);
    if (!tokens) {
      log_error("a microbatch cannot begin: {}", tokens.error().message);
      return ActivationMade{.microbatch = id, .output = nullptr};
    }
    std::vector<std::uint32_t> borders;
    if (config.training.document_attention) borders = source->document_borders(*tokens);
    if (borders.size() > net::max_borders) borders.resize(net::max_borders);
    const at::Tensor output = model->begin(id, *tokens, job.pass, borders);
    // Where one stage holds all blocks, what it made goes straight into the loss: no other worker asks for its bytes.
    if (config.cut.size() == 1) return ActivationMade{.microbatch = id, .output = std::make_shared<const Bytes>()};
    return activation(id, output, std::move(borders));
  }

  Started run(const Forward& job) {
    const Result<at::Tensor> input = decode(job.input);
    if (!input) {
      model->drop(job.microbatch);
      return ActivationMade{.microbatch = job.microbatch, .output = nullptr};
    }
    return activation(job.microbatch, model->forward(job.microbatch, *input, job.pass, job.borders));
  }

  Started run(const Loss& job) {
    LossMade out{.microbatch = job.microbatch, .loss_sum = 0.0, .tokens = 0, .gradient = nullptr, .finite = false};
    at::Tensor input;
    if (job.input != nullptr) {
      Result<at::Tensor> decoded = decode(job.input);
      if (!decoded) {
        model->drop(job.microbatch);
        return out;
      }
      input = std::move(*decoded);
    }
    const StageModel::LossResult made = model->loss(job.microbatch, input);
    out.diverged = made.kept && !made.finite;
    if (!made.finite) return out;
    out.loss_sum = made.sum;
    out.tokens = model->rows();
    out.finite = true;
    return with_gradient(out, &LossMade::gradient, made.gradient);
  }

  Started run(const Backward& job) {
    GradientMade out{.microbatch = job.microbatch, .output = nullptr, .tokens = 0, .finite = false};
    at::Tensor gradient;
    if (job.gradient != nullptr) {
      Result<at::Tensor> decoded = decode(job.gradient);
      if (!decoded) {
        model->drop(job.microbatch);
        return out;
      }
      gradient = std::move(*decoded);
    }
    const StageModel::BackwardResult made = model->backward(job.microbatch, std::move(gradient));
    if (!made.kept) return out;
    out.tokens = model->rows();
    out.finite = true;
    return with_gradient(out, &GradientMade::output, made.gradient);
  }

  JobResult run(const DropKept& job) {
    model->drop(job.microbatch);
    return Done{};
  }
  JobResult run(const OptimizerStep& job) {
    Stepped out = model->step(job);
    out.matrix_flops = matrix_flops;
    out.memory_bytes = accelerator_bytes(config.device);
    return out;
  }
  JobResult run(const Snapshot& job) { return StateMade{.bytes = slow->snapshot(model->theta(), job.encoding)}; }

  JobResult run(const OuterStep& job) {
    OuterStepped out = slow->outer_step(model->theta(), job);
    model->set_theta(slow->phi());
    return out;
  }

  JobResult run(const ReloadSlow&) {
    if (!all_finite(slow->phi())) return Loaded{.stage = model->stage(), .error = "the slow weights are not finite either"};
    slow->drop_snapshot();
    model->begin_again(slow->phi());
    return Loaded{.stage = model->stage(), .error = std::nullopt};
  }

  JobResult run(const Encode& job) {
    switch (job.part) {
      case StatePart::phi: return StateMade{.bytes = encode_values(slow->phi(), job.encoding)};
      case StatePart::momentum: return StateMade{.bytes = encode_values(slow->momentum(), job.encoding)};
      case StatePart::theta: return StateMade{.bytes = encode_values(model->theta(), job.encoding)};
      case StatePart::adam_m: return StateMade{.bytes = encode_values(model->adam_m(), job.encoding)};
      case StatePart::adam_v: return StateMade{.bytes = encode_values(model->adam_v(), job.encoding)};
    }
    return StateMade{.bytes = nullptr};
  }

  JobResult run(const Load& job) {
    const auto stage = static_cast<std::size_t>(job.stage);
    STARLING_CHECK(job.stage >= 0 && stage < config.cut.size(), "a stage outside of the cut");
    const std::int64_t count = parameter_count(config.model, config.cut[stage], job.stage);
    Loaded out{.stage = job.stage, .error = std::nullopt};
    const auto read = [&](const char* name, const EncodedPart& part) -> std::vector<float> {
      Result<std::vector<float>> values = decode_part(part, count);
      if (values) return std::move(*values);
      out.error = fmt::format("{}: {}", name, values.error().message);
      return {};
    };
    std::vector<float> phi;
    AdamState adam{.m = {}, .v = {}, .steps = job.adam_steps};
    if (job.phi) phi = read("phi", *job.phi);
    if (!out.error && job.adam_m) adam.m = read("adam_m", *job.adam_m);
    if (!out.error && job.adam_v) adam.v = read("adam_v", *job.adam_v);
    std::vector<float> momentum;
    if (!out.error && job.momentum) momentum = read("momentum", *job.momentum);
    std::vector<float> theta;
    if (!out.error && job.theta) theta = read("theta", *job.theta);
    if (out.error) return out;
    if (!job.phi) phi = draw_parameters(config.model, config.cut[stage], job.stage, config.seed);
    become(job.stage, std::move(phi), std::move(momentum), adam);
    if (job.theta) model->set_theta(theta);
    return out;
  }

  JobResult run(const LoadFromNeighbours& job) {
    Result<std::vector<float>> phi = average_of_neighbours(config.model, config.cut, job);
    if (!phi) return Loaded{.stage = job.stage, .error = phi.error().message};
    become(job.stage, std::move(*phi), {}, {});
    return Loaded{.stage = job.stage, .error = std::nullopt};
  }

  void become(Stage stage, std::vector<float> phi, std::vector<float> momentum, const AdamState& adam) {
    model.emplace(StageConfig{.model = config.model,
                              .layers = config.cut[static_cast<std::size_t>(stage)],
                              .stage = stage,
                              .batch = batch(),
                              .optimizer = config.optimizer,
                              .max_grad_norm = config.training.max_grad_norm,
                              .activation_checkpointing = config.training.activation_checkpointing,
                              .device = device_of(config.device),
                              .products = type_of(config.precision)},
                  phi, adam);
    slow.emplace(std::move(phi), std::move(momentum));
  }
};

ComputeSizes compute_sizes(const LearnerConfig& config) {
  const std::int64_t values = config.training.tokens_per_microbatch() * config.model.hidden_size;
  ComputeSizes sizes;
  sizes.head_flops = head_train_flops_per_token(config.model);
  sizes.activation_bytes = static_cast<std::int64_t>(encoded_bytes(values, config.activation_encoding));
  for (std::size_t i = 0; i < config.cut.size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    sizes.parameters.push_back(parameter_count(config.model, config.cut[i], stage));
    sizes.kept_bytes.push_back(microbatch_kept_bytes(config.model, config.training, config.cut[i], stage));
    sizes.body_flops.push_back(train_flops_per_token(config.model, config.cut[i], config.training.seq_len));
  }
  return sizes;
}

JobRunner::JobRunner(LearnerConfig config, std::shared_ptr<const Source> source)
    : state_(std::make_unique<State>(State{.config = std::move(config), .source = std::move(source), .model = {}, .slow = {}})) {}

JobRunner::~JobRunner() = default;

void JobRunner::adopt_thread(const Clock& clock) {
  keep_blocks_of_tensors();
  LearnerConfig& config = state_->config;
  at::set_num_threads(config.threads);
  // Numbers below 1e-38 count as zero: moments of weights that get no gradient decay into that range, where arithmetic is
  // some fifty times slower.
  at::globalContext().setFlushDenormal(true);
  if (config.device != DeviceType::cpu) state_->copies.emplace(device_of(config.device));
  if (config.precision == Precision::measured) config.precision = choose_precision(config, clock);
  state_->matrix_flops = measure_matrix_flops(device_of(config.device), type_of(config.precision), clock);
}

Started JobRunner::start(const Job& job) {
  return guarded([&]() -> Started {
    STARLING_CHECK(state_->model.has_value() || std::holds_alternative<Load>(job) ||
                       std::holds_alternative<LoadFromNeighbours>(job),
                   "the first job loads a stage");
    return std::visit([this](const auto& which) -> Started { return state_->run(which); }, job);
  });
}

JobResult JobRunner::finish(Started started) {
  if (auto* const answer = std::get_if<JobResult>(&started)) return std::move(*answer);
  return guarded(std::get<std::function<JobResult()>>(started));
}

bool JobRunner::starts_at_once(const Job& job) {
  return std::holds_alternative<Forward>(job) || std::holds_alternative<Backward>(job) ||
         std::holds_alternative<DropKept>(job);
}

}  // namespace starling::trainer
