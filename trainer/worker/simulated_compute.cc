#include "trainer/worker/simulated_compute.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace starling::trainer {
namespace {

constexpr double backward_forwards = 2.0;
constexpr double loss_forwards = 0.25;
constexpr double small_job_forwards = 0.05;
constexpr float step_size = 1e-3F;

std::uint64_t name_of(const MicrobatchId& id) {
  const std::uint64_t parts[] = {id.boot, static_cast<std::uint64_t>(id.step), id.index};
  return mix_seed(xxh3_64(id.originator.key), parts);
}

// The gradient of microbatch `id` at value i: an integer within +-1000.
float gradient(const MicrobatchId& id, std::size_t i) {
  return static_cast<float>(static_cast<std::int64_t>((name_of(id) >> (i % 32)) % 2001) - 1000);
}

// Up to three rows, another set for each microbatch.
std::vector<std::uint32_t> borders_of(const MicrobatchId& id) {
  std::vector<std::uint32_t> out;
  for (std::uint64_t row = 1; row <= name_of(id) % 4; ++row) out.push_back(static_cast<std::uint32_t>(row));
  return out;
}

}  // namespace

SimulatedCompute::SimulatedCompute(sim::Scheduler& scheduler, Config config, Stream random, Answer answer)
    : scheduler_(scheduler),
      config_(config),
      random_(random),
      answer_(std::move(answer)),
      slow_(std::vector<float>(static_cast<std::size_t>(config.values))) {
  sizes_.activation_bytes = config_.activation_bytes;
  sizes_.parameters.assign(static_cast<std::size_t>(config_.stages), config_.values);
  sizes_.body_flops.assign(static_cast<std::size_t>(config_.stages), 0.0);
  sizes_.kept_bytes.assign(static_cast<std::size_t>(config_.stages), config_.activation_bytes);
  for (auto* array : {&theta_, &adam_m_, &adam_v_}) array->assign(static_cast<std::size_t>(config_.values), 0.0F);
}

double SimulatedCompute::seconds_of(const Job& job) {
  double forwards = small_job_forwards;
  if (std::holds_alternative<Begin>(job) || std::holds_alternative<Forward>(job)) forwards = 1.0;
  if (std::holds_alternative<Loss>(job)) forwards = loss_forwards;
  if (std::holds_alternative<Backward>(job)) forwards = backward_forwards;
  if (std::holds_alternative<DropKept>(job)) forwards = 0.0;
  const double noise = 1.0 + config_.jitter * (2.0 * random_.uniform() - 1.0);
  return forwards * config_.forward_seconds * slowness_ * noise;
}

void SimulatedCompute::submit(JobId id, Job job) {
  const double took = seconds_of(job);
  free_at_ = std::max(free_at_, scheduler_.now()) + from_seconds(took);
  auto shared = std::make_shared<Job>(std::move(job));
  scheduler_.at(free_at_, [this, id, shared, took] {
    Completion completion{id, std::visit([this](const auto& j) { return run(j); }, *shared), took};
    if (paused_) {
      waiting_.push_back(std::move(completion));
    } else {
      answer_(std::move(completion));
    }
  });
}

void SimulatedCompute::resume() {
  paused_ = false;
  for (Completion& completion : std::exchange(waiting_, {})) {
    auto shared = std::make_shared<Completion>(std::move(completion));
    scheduler_.at(scheduler_.now(), [this, shared] { answer_(std::move(*shared)); });
  }
}

Buffer SimulatedCompute::activation(const MicrobatchId& id) const {
  Bytes bytes(static_cast<std::size_t>(config_.activation_bytes));
  const std::uint64_t name = name_of(id);
  std::memcpy(bytes.data(), &name, sizeof name);
  if (lie_ == Lie::wrong_size) bytes.pop_back();
  return std::make_shared<const Bytes>(std::move(bytes));
}

void SimulatedCompute::poison(float value) { theta_.assign(theta_.size(), value); }

void SimulatedCompute::poison_slow_weights() {
  poison();
  slow_ = SlowWeights(theta_, std::vector<float>(slow_.momentum().begin(), slow_.momentum().end()));
}

JobResult SimulatedCompute::run(const Begin& job) {
  if (poisoned()) return ActivationMade{.microbatch = job.microbatch, .output = nullptr, .diverged = true};
  graphs_[job.microbatch] = {version_, false, scheduler_.now(), steps_};
  ActivationMade out{.microbatch = job.microbatch, .output = activation(job.microbatch)};
  if (config_.document_attention) out.borders = borders_of(job.microbatch);
  return out;
}

JobResult SimulatedCompute::run(const Forward& job) {
  std::uint64_t name = 0;
  std::memcpy(&name, job.input->data(), sizeof name);
  STARLING_CHECK(name == name_of(job.microbatch), "an activation belongs to its header");
  STARLING_CHECK(job.borders == (config_.document_attention ? borders_of(job.microbatch) : std::vector<std::uint32_t>()),
                 "the borders of a microbatch come with its activation");
  if (poisoned()) return ActivationMade{.microbatch = job.microbatch, .output = nullptr, .diverged = true};
  if (job.pass == Pass::train) graphs_[job.microbatch] = {version_, false, scheduler_.now(), steps_};
  return ActivationMade{job.microbatch, activation(job.microbatch)};
}

JobResult SimulatedCompute::run(const Loss& job) {
  if (poisoned()) {
    graphs_.erase(job.microbatch);
    return LossMade{.microbatch = job.microbatch, .finite = false, .diverged = true};
  }
  const double per_token = 1.0 + 4.0 / (1.0 + 0.01 * static_cast<double>(version_));
  LossMade out{.microbatch = job.microbatch,
               .loss_sum = per_token * static_cast<double>(config_.tokens),
               .tokens = config_.tokens};
  if (job.pass == Pass::eval) {
    graphs_.erase(job.microbatch);
    return out;
  }
  const auto graph = graphs_.find(job.microbatch);
  if (graph == graphs_.end()) return LossMade{.microbatch = job.microbatch, .finite = false};
  STARLING_CHECK(!graph->second.loss_done, "a microbatch's loss is computed once");
  graph->second.loss_done = true;
  head_.push_back(job.microbatch);
  if (job.input == nullptr) return out;
  if (spoiled_steps_ > 0) {
    out.diverged = true;
  } else {
    out.gradient = activation(job.microbatch);
  }
  return out;
}

JobResult SimulatedCompute::run(const Backward& job) {
  const auto graph = graphs_.find(job.microbatch);
  if (graph == graphs_.end()) return GradientMade{.microbatch = job.microbatch, .finite = false};
  oldest_graph_steps_ = std::max(oldest_graph_steps_, steps_ - graph->second.steps);
  graphs_.erase(graph);
  body_.push_back(job.microbatch);
  return GradientMade{job.microbatch, stage_ == 0 ? nullptr : activation(job.microbatch), config_.tokens, true};
}

JobResult SimulatedCompute::run(const DropKept& job) {
  graphs_.erase(job.microbatch);
  return Done{};
}

JobResult SimulatedCompute::run(const OptimizerStep& job) {
  if (job.body_tokens + job.head_tokens == 0) {
    body_.clear();
    head_.clear();
    return Stepped{job.step, false, 0.0};
  }
  if (spoiled_steps_ > 0) {
    --spoiled_steps_;
    body_.clear();
    head_.clear();
    return Stepped{job.step, false, std::numeric_limits<double>::quiet_NaN()};
  }
  for (std::size_t i = 0; i < theta_.size(); ++i) {
    float sum = 0.0F;
    for (const MicrobatchId& id : body_) sum += gradient(id, i);
    theta_[i] += step_size * sum / static_cast<float>(std::max<std::int64_t>(1, job.body_tokens));
    adam_m_[i] += 1.0F;
  }
  ledger_.push_back({job.step, std::exchange(body_, {}), std::exchange(head_, {}), job.body_tokens, job.head_tokens,
                     std::exchange(oldest_graph_steps_, 0)});
  ++version_;
  ++steps_;
  return Stepped{job.step, true, 1.0};
}

JobResult SimulatedCompute::run(const Snapshot& job) {
  const Buffer honest = slow_.snapshot(theta_, job.encoding);
  if (lie_ != Lie::not_finite) return StateMade{honest};
  return StateMade{std::make_shared<const Bytes>(honest->size(), std::byte{0xff})};  // NaN in every encoding
}

JobResult SimulatedCompute::run(const OuterStep& job) {
  ++outer_steps_;
  const OuterStepped out = slow_.outer_step(theta_, job);
  theta_.assign(slow_.phi().begin(), slow_.phi().end());
  ++version_;
  return out;
}

JobResult SimulatedCompute::run(const Encode& job) {
  if (job.part == StatePart::phi) return StateMade{encode_values(slow_.phi(), job.encoding)};
  if (job.part == StatePart::momentum) return StateMade{encode_values(slow_.momentum(), job.encoding)};
  if (job.part == StatePart::theta) return StateMade{encode_values(theta_, job.encoding)};
  return StateMade{encode_values(job.part == StatePart::adam_m ? adam_m_ : adam_v_, job.encoding)};
}

std::vector<float> SimulatedCompute::draw(Stage stage) const {
  const std::uint64_t parts[] = {static_cast<std::uint64_t>(stage)};
  Stream stream(mix_seed(config_.seed, parts));
  std::vector<float> out(static_cast<std::size_t>(config_.values));
  for (float& value : out) value = static_cast<float>(1.0 + stream.uniform());
  return out;
}

JobResult SimulatedCompute::run(const Load& job) {
  const auto given = [&](const std::optional<EncodedPart>& part) -> Result<std::vector<float>> {
    if (!part) return std::vector<float>(static_cast<std::size_t>(config_.values));
    return decode_part(*part, config_.values);
  };
  auto phi = job.phi ? given(job.phi) : Result<std::vector<float>>(draw(job.stage));
  auto m = given(job.adam_m);
  auto v = given(job.adam_v);
  auto momentum = given(job.momentum);
  auto theta = job.theta ? given(job.theta) : phi;
  for (const auto* part : {&phi, &m, &v, &momentum, &theta}) {
    if (!*part) return Loaded{job.stage, part->error().message};
  }
  stage_ = job.stage;
  theta_ = std::move(*theta);
  slow_ = SlowWeights(std::move(*phi), std::move(*momentum));
  adam_m_ = std::move(*m);
  adam_v_ = std::move(*v);
  graphs_.clear();
  body_.clear();
  head_.clear();
  ++version_;
  return Loaded{job.stage, std::nullopt};
}

JobResult SimulatedCompute::run(const ReloadSlow&) {
  if (!all_finite(slow_.phi())) return Loaded{stage_, "the slow weights are not finite either"};
  slow_.drop_snapshot();
  theta_.assign(slow_.phi().begin(), slow_.phi().end());
  for (auto* array : {&adam_m_, &adam_v_}) array->assign(array->size(), 0.0F);
  body_.clear();
  head_.clear();
  ++version_;
  return Loaded{stage_, std::nullopt};
}

JobResult SimulatedCompute::run(const LoadFromNeighbours& job) {
  // Every stage has the same values here, so the mean is that of the arrays.
  auto phi = decode_part(job.left, config_.values);
  if (!phi) return Loaded{job.stage, phi.error().message};
  if (job.right) {
    const auto right = decode_part(*job.right, config_.values);
    if (!right) return Loaded{job.stage, right.error().message};
    const auto weight = static_cast<float>(job.left_weight);
    for (std::size_t i = 0; i < phi->size(); ++i) (*phi)[i] = weight * (*phi)[i] + (1.0F - weight) * (*right)[i];
  }
  return run(Load{.stage = job.stage, .phi = EncodedPart{encode_values(*phi, Encoding::fp32), Encoding::fp32}});
}

}  // namespace starling::trainer
