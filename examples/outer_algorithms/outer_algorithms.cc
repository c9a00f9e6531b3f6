// What an exchange in pairs is worth: NoLoCo against DiLoCo and against no exchange at all, on the same data.
//
//   outer_algorithms RUN.YAML [SEEDS] [KEY=VALUE ...]
//
// The run file's replicas hold the whole model each (one stage) and train side by side in this one process, step for
// step, with the device's own jobs, the swarm's own pairing and the outer step that workers use; no network, so nothing
// but the algorithm differs. Every replica computes training.microbatches microbatches a step. At the end, after the last
// exchange, the replicas' weights are averaged and the validation loss of that average is taken: this, and how far the
// replicas are apart, is what the exchange is for. A replica's own loss hardly shows it.
//
// Prints a table on stdout, one line per algorithm, means over the seeds and their spread; progress on stderr.
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gossip/base/real_env.h"
#include "gossip/outer/outer_step.h"
#include "gossip/outer/pairing.h"
#include "launcher/config_yaml.h"
#include "launcher/device.h"
#include "trainer/torch/job_runner.h"
#include "trainer/worker/slow_weights.h"

namespace {

using namespace starling;
using namespace starling::trainer;
using launcher::RunConfig;
using outer::Algorithm;

struct Outcome {
  double averaged_loss = 0.0;  // nats per token, of the averaged weights
  double own_loss = 0.0;       // mean over the replicas of the loss of their own weights
  double distance = 0.0;       // mean over the replicas of ||theta_i - mean|| / ||mean||
};

struct Statistic {
  double mean = 0.0;
  double spread = 0.0;  // largest minus smallest
};

class Replicas {
 public:
  Replicas(const RunConfig& config, std::shared_ptr<const Source> source) : config_(config) {
    for (std::int64_t i = 0; i < config.parallelism.replicas; ++i) {
      NodeId id;
      id.key.back() = static_cast<std::byte>(i + 1);
      ids_.push_back(id);
      devices_.push_back(std::make_unique<JobRunner>(launcher::learner_config(config, DeviceType::cpu, 1), source));
      devices_.back()->adopt_thread(RealClock());
      devices_.back()->run(Load{.stage = 0});
    }
  }

  void step(Step step) {
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      std::int64_t tokens = 0;
      for (std::int64_t index = 0; index < config_.training.microbatches; ++index) {
        const MicrobatchId id{ids_[i], 1, step, static_cast<std::uint32_t>(index)};
        devices_[i]->run(Begin{.microbatch = id, .slot = static_cast<Slot>(i)});
        tokens += std::get<LossMade>(devices_[i]->run(Loss{.microbatch = id})).tokens;
        devices_[i]->run(Backward{.microbatch = id});
      }
      const double rate = learning_rate(config_.optimizer, config_.lr_scheduler, step, config_.planned_steps());
      devices_[i]->run(OptimizerStep{step, rate, tokens, tokens});
    }
    const std::int64_t steps = config_.outer.local_steps;
    if (step % steps == 0 && config_.outer.algorithm != Algorithm::none) exchange(step / steps);
  }

  Outcome judge(JobRunner& judge) {
    Outcome out;
    std::vector<std::vector<float>> all;
    for (const auto& device : devices_) all.push_back(theta_of(*device));
    std::vector<float> mean(all.front().size(), 0.0F);
    for (const auto& theta : all) {
      for (std::size_t i = 0; i < mean.size(); ++i) mean[i] += theta[i] / static_cast<float>(all.size());
    }
    for (const auto& theta : all) {
      out.own_loss += validation_loss(judge, theta) / static_cast<double>(all.size());
      out.distance += outer::relative_distance(mean, theta) / static_cast<double>(all.size());
    }
    out.averaged_loss = validation_loss(judge, mean);
    return out;
  }

 private:
  void exchange(Round round) {
    std::vector<Buffer> offers;
    for (const auto& device : devices_) offers.push_back(std::get<StateMade>(device->run(Snapshot{encoding()})).bytes);
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      const outer::Pairing pairing = outer::pair_up(config_.run.seed, round, ids_[i], ids_);
      OuterStep job{.encoding = encoding(),
                    .alpha = config_.outer.momentum,
                    .beta = config_.outer.lr,
                    .gamma = config_.outer.effective_gamma()};
      for (std::size_t j = 0; j < devices_.size(); ++j) {
        const bool meets = config_.outer.algorithm == Algorithm::diloco ? j != i : pairing.partner == ids_[j];
        if (meets) job.others.push_back(offers[j]);
      }
      devices_[i]->run(job);
    }
  }

  Encoding encoding() const {
    return config_.outer.compression == outer::Compression::none ? Encoding::fp32 : Encoding::bf16;
  }

  // theta = phi + delta: the two halves of a snapshot.
  static std::vector<float> theta_of(JobRunner& device) {
    const Buffer bytes = std::get<StateMade>(device.run(Snapshot{Encoding::fp32})).bytes;
    const auto values = static_cast<std::int64_t>(bytes->size() / sizeof(float));
    const std::vector<float> both = *decode_part({bytes, Encoding::fp32}, values);
    const std::size_t half = both.size() / 2;
    std::vector<float> theta(half);
    for (std::size_t i = 0; i < half; ++i) theta[i] = both[i] + both[half + i];
    return theta;
  }

  double validation_loss(JobRunner& judge, const std::vector<float>& theta) const {
    judge.run(Load{.stage = 0, .phi = EncodedPart{encode_values(theta, Encoding::fp32), Encoding::fp32}});
    double sum = 0.0;
    std::int64_t tokens = 0;
    for (std::int64_t window = 0; window < config_.eval.batches; ++window) {
      const MicrobatchId id{ids_.front(), 2, 1, static_cast<std::uint32_t>(window) | eval_index_bit};
      judge.run(Begin{.microbatch = id, .slot = 0, .pass = Pass::eval});
      const auto loss = std::get<LossMade>(judge.run(Loss{.microbatch = id, .pass = Pass::eval}));
      sum += loss.loss_sum;
      tokens += loss.tokens;
    }
    return sum / static_cast<double>(tokens);
  }

  const RunConfig& config_;
  std::vector<NodeId> ids_;
  std::vector<std::unique_ptr<JobRunner>> devices_;
};

Statistic statistic(const std::vector<Outcome>& outcomes, double Outcome::*value) {
  double least = outcomes.front().*value;
  double most = least;
  double sum = 0.0;
  for (const Outcome& outcome : outcomes) {
    least = std::min(least, outcome.*value);
    most = std::max(most, outcome.*value);
    sum += outcome.*value;
  }
  return {sum / static_cast<double>(outcomes.size()), most - least};
}

int run(const std::string& file, std::uint64_t seeds, const std::vector<std::string>& sets) {
  launcher::ConfigReading reading = launcher::load_config(file, {.sets = sets});
  std::cerr << launcher::describe(reading.problems);
  if (!reading.ok()) return 3;
  RunConfig& config = reading.config;
  if (config.parallelism.stages != 1 || config.parallelism.replicas < 2 || config.parallelism.replicas > 64) {
    std::cerr << "outer_algorithms: expected parallelism.stages: 1 and 2 to 64 replicas in " << file << "\n";
    return 3;
  }
  auto opened = Source::open(config.data, {config.training.micro_batch_size, config.training.seq_len}, config.model.vocab_size);
  if (!opened) {
    std::cerr << "outer_algorithms: " << opened.error().message << "\n";
    return 3;
  }
  const auto source = std::make_shared<const Source>(std::move(*opened));
  const std::int64_t rounds = config.planned_steps() / config.outer.local_steps;
  fmt::print("{} replicas of {} parameters, {} rounds of {} steps, momentum {}, lr {}; {} seeds from {}\n\n",
             config.parallelism.replicas, compute_sizes(launcher::learner_config(config, DeviceType::cpu, 1)).parameters.front(), rounds,
             config.outer.local_steps, config.outer.momentum, config.outer.lr, seeds, config.run.seed);
  fmt::print("| algorithm | loss of the averaged weights | against DiLoCo | spread | mean own loss | replica distance |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  double diloco = 0.0;
  const std::uint64_t first_seed = config.run.seed;
  for (const Algorithm algorithm : {Algorithm::diloco, Algorithm::noloco, Algorithm::none}) {
    std::vector<Outcome> outcomes;
    for (std::uint64_t seed = first_seed; seed < first_seed + seeds; ++seed) {
      config.run.seed = seed;
      config.outer.algorithm = algorithm;
      Replicas replicas(config, source);
      for (Step step = 1; step <= rounds * config.outer.local_steps; ++step) replicas.step(step);
      JobRunner judge(launcher::learner_config(config, DeviceType::cpu, 1), source);
      outcomes.push_back(replicas.judge(judge));
      std::cerr << fmt::format("{} seed {}: averaged {:.4f} own {:.4f} distance {:.4f}\n", outer::to_string(algorithm), seed,
                               outcomes.back().averaged_loss, outcomes.back().own_loss, outcomes.back().distance);
    }
    const Statistic averaged = statistic(outcomes, &Outcome::averaged_loss);
    if (algorithm == Algorithm::diloco) diloco = averaged.mean;
    fmt::print("| {} | {:.4f} | {:+.1f} % | {:.4f} | {:.4f} | {:.4f} |\n", outer::to_string(algorithm), averaged.mean,
               100.0 * (averaged.mean / diloco - 1.0), averaged.spread, statistic(outcomes, &Outcome::own_loss).mean,
               statistic(outcomes, &Outcome::distance).mean);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) {
    std::cerr << "usage: outer_algorithms RUN.YAML [SEEDS] [KEY=VALUE ...]\n";
    return 2;
  }
  std::uint64_t seeds = 3;
  std::size_t next = 1;
  if (arguments.size() > 1 && arguments[1].find('=') == std::string::npos) {
    seeds = std::strtoull(arguments[1].c_str(), nullptr, 10);
    if (seeds < 1 || seeds > 100) {
      std::cerr << "outer_algorithms: SEEDS is '" << arguments[1] << "': expected 1 to 100\n";
      return 2;
    }
    next = 2;
  }
  const std::vector<std::string> sets(arguments.begin() + static_cast<std::ptrdiff_t>(std::min(next, arguments.size())),
                                      arguments.end());
  return run(arguments.front(), seeds, sets);
}
