// Real processes against the same arithmetic in one process: with permutation, no skipping and fp32 on the wire, the swarm
// is synchronous training, so every originator must report, step by step, the loss that a plain loop gives.
//
// The loop below has no network, no clock and no threads: it takes each microbatch through the replicas that the
// permutation names, one after the other, and steps every replica on the sum of what passed through it. Sums of floats are
// made in another order than in the run, which is all that may differ.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/base/real_env.h"
#include "launcher/config_yaml.h"
#include "launcher/run_directory.h"
#include "metrics/event_log.h"
#include "pipeline/originator.h"
#include "pipeline/router.h"
#include "tests/e2e/launched_run.h"
#include "trainer/data/source.h"
#include "trainer/torch/job_runner.h"

namespace starling {
namespace {

using namespace std::chrono_literals;
using launcher::RunConfig;
using trainer::Encoding;

constexpr Step steps = 20;
constexpr double tolerance = 1e-4;  // relative, of each reported loss

struct Member {
  std::string name;
  NodeId id;
  Stage stage = 0;
  Slot slot = no_slot;
};

// Losses by originator and step.
using Losses = std::map<std::string, std::map<Step, double>>;

class Reference {
 public:
  // `cut`: of the model, stage by stage; `members`: who holds which stage.
  Reference(const RunConfig& config, const std::vector<trainer::StageLayers>& cut, const std::vector<Member>& members)
      : config_(config), stages_(static_cast<std::int64_t>(cut.size())) {
    auto source = trainer::Source::open(config.data, {config.training.micro_batch_size, config.training.seq_len},
                                        config.model.vocab_size);
    EXPECT_TRUE(source) << (source ? "" : source.error().message);
    const auto shared = std::make_shared<const trainer::Source>(std::move(*source));
    const trainer::LearnerConfig learner{.model = config.model,
                                         .cut = cut,
                                         .training = config.training,
                                         .optimizer = config.optimizer,
                                         .activation_encoding = Encoding::fp32,
                                         .seed = config.run.seed,
                                         .threads = 1};
    for (const Member& member : members) {
      Replica& replica = replicas_[member.id];
      replica.member = member;
      replica.device = std::make_unique<trainer::JobRunner>(learner, shared);
      replica.device->adopt_thread(RealClock());
      get<trainer::Loaded>(replica, trainer::Load{.stage = member.stage});
      membership::Peer& peer = swarm_.peers[member.id];
      peer.state = membership::PeerState::active;
      peer.record.id = member.id;
      peer.record.role = membership::Role::worker;
      peer.record.stage = member.stage;
      peer.record.slot = member.slot;
    }
  }

  Losses train() {
    Losses out;
    for (Step k = 1; k <= steps; ++k) {
      for (const NodeId& originator : swarm_.live_originators()) {
        out[replicas_.at(originator).member.name][k] = originate(replicas_.at(originator), k);
      }
      for (auto& [id, replica] : replicas_) close_step(replica, k);
      if (k % config_.outer.local_steps == 0 || k == steps) end_round();
    }
    return out;
  }
  bool clipped() const { return clipped_; }

 private:
  struct Replica {
    Member member;
    std::unique_ptr<trainer::JobRunner> device;
    std::int64_t body_tokens = 0;
    std::int64_t head_tokens = 0;
  };

  template <typename Answer>
  static Answer get(Replica& replica, const trainer::Job& job) {
    return std::get<Answer>(replica.device->run(job));
  }

  // All microbatches of one originator in step k; its loss per token.
  double originate(Replica& home, Step k) {
    pipeline::Router router({.self = home.member.id,
                             .routing = pipeline::Routing::permutation,
                             .seed = config_.run.seed,
                             .stages = stages_},
                            Stream(1));
    const auto shares = pipeline::batch_shares(swarm_, pipeline::Routing::permutation, config_.training.microbatches,
                                               config_.parallelism.replicas);
    double loss = 0.0;
    std::int64_t tokens = 0;
    for (std::int64_t index = 0; index < shares.at(home.member.id); ++index) {
      const MicrobatchId id{home.member.id, 1, k, static_cast<std::uint32_t>(index)};
      const std::vector<net::Hop> path = router.plan(id, swarm_, TimePoint{});
      EXPECT_EQ(static_cast<std::int64_t>(path.size()), stages_ - 1);
      Buffer travelling =
          get<trainer::ActivationMade>(home, trainer::Begin{.microbatch = id, .slot = home.member.slot}).output;
      for (const net::Hop& hop : path) {
        travelling = get<trainer::ActivationMade>(replicas_.at(hop.peer),
                                                  trainer::Forward{.microbatch = id, .input = travelling})
                         .output;
      }
      if (path.empty()) travelling = nullptr;
      const auto made = get<trainer::LossMade>(home, trainer::Loss{.microbatch = id, .input = travelling});
      loss += made.loss_sum;
      tokens += made.tokens;
      travelling = made.gradient;
      for (auto hop = path.rbegin(); hop != path.rend(); ++hop)
        travelling = backward(replicas_.at(hop->peer), id, travelling);
      backward(home, id, travelling);
    }
    home.head_tokens += tokens;
    return loss / static_cast<double>(tokens);
  }

  Buffer backward(Replica& replica, const MicrobatchId& id, const Buffer& gradient) {
    const auto made = get<trainer::GradientMade>(replica, trainer::Backward{.microbatch = id, .gradient = gradient});
    replica.body_tokens += made.tokens;
    return made.output;
  }

  void close_step(Replica& replica, Step k) {
    const auto stepped = get<trainer::Stepped>(
        replica, trainer::OptimizerStep{.step = k,
                                        .learning_rate = trainer::learning_rate(config_.optimizer, config_.lr_scheduler,
                                                                                k, config_.planned_steps()),
                                        .body_tokens = std::exchange(replica.body_tokens, 0),
                                        .head_tokens = std::exchange(replica.head_tokens, 0)});
    EXPECT_TRUE(stepped.applied);
    clipped_ = clipped_ || stepped.gradient_norm > config_.training.max_grad_norm;
  }

  // With at most two replicas everybody's partner is the other one.
  void end_round() {
    std::map<NodeId, Buffer> offered;
    for (auto& [id, replica] : replicas_)
      offered[id] = get<trainer::StateMade>(replica, trainer::Snapshot{Encoding::fp32}).bytes;
    for (auto& [id, replica] : replicas_) {
      std::vector<Buffer> others;
      for (const NodeId& other : swarm_.live_replicas(replica.member.stage)) {
        if (other != id) others.push_back(offered.at(other));
      }
      const std::size_t count = others.size();
      const auto stepped =
          get<trainer::OuterStepped>(replica, trainer::OuterStep{.others = std::move(others),
                                                                 .encoding = Encoding::fp32,
                                                                 .alpha = config_.outer.momentum,
                                                                 .beta = config_.outer.lr,
                                                                 .gamma = config_.outer.effective_gamma()});
      EXPECT_EQ(stepped.averaged_with, static_cast<std::int64_t>(count));
    }
  }

  RunConfig config_;
  std::int64_t stages_;
  membership::Swarm swarm_;
  std::map<NodeId, Replica> replicas_;
  bool clipped_ = false;
};

class Parity : public testing::Test {
 protected:
  Parity() : directory_(std::filesystem::path(testing::TempDir()) / ("parity_test." + std::to_string(::getpid()))) {
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    write_text(directory_ / "text.txt");
    std::ofstream(run_file()) << R"(version: 1
run: {name: parity, seed: 11}
model: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 4, num_attention_heads: 2,
        num_key_value_heads: 1, vocab_size: 256, max_position_embeddings: 32}
tokenizer: {path: byte}
data: {train: [)" << (directory_ / "text.txt").string()
                              << R"(]}
training: {seq_len: 32, micro_batch_size: 2, microbatches: 16, max_steps: 20}
optimizer: {lr: 4.0e-3}
lr_scheduler: {warmup_steps: 5, min_lr: 4.0e-4}
parallelism: {stages: 4, replicas: 1}
outer: {local_steps: 8, compression: none}
pipeline: {routing: permutation, skip: never, activation_dtype: fp32}
eval: {interval: 0, batches: 1}
logging: {log_interval: 1}
)";
  }
  ~Parity() override {
    if (!HasFailure()) std::filesystem::remove_all(directory_);
  }
  std::string run_file() const { return (directory_ / "run.yaml").string(); }
  launcher::RunDirectory run() const { return {directory_ / "parity"}; }

  // Runs it to its end with one process for each replica. Result: its configuration.
  RunConfig launch(const std::vector<std::string>& settings) {
    auto reading = launcher::load_config(run_file(), {.environment = {}, .sets = settings});
    EXPECT_TRUE(reading.ok()) << launcher::describe(reading.problems);
    const auto& parallelism = reading.config.parallelism;
    LaunchedRun launched(directory_, run_file(), settings, parallelism.stages * parallelism.replicas);
    EXPECT_EQ(launched.wait(300s), 0) << launched.output();
    return reading.config;
  }

  // The workers as they came in, each with its stage and slot.
  std::vector<Member> members() const {
    std::vector<Member> out;
    const auto events = metrics::read_events(run().events_jsonl());
    EXPECT_TRUE(events);
    for (const metrics::EventLine& line : events->lines) {
      if (line.event != "join") continue;
      std::map<std::string, std::int64_t> fields;
      for (const EventField& field : line.fields) {
        if (const auto* number = std::get_if<std::int64_t>(&field.value)) fields[field.name] = *number;
      }
      if (!fields.contains("slot") || fields.at("stage") < 0) continue;  // of somebody else; or the observer
      const auto file = launcher::read_worker_file(run().worker(line.worker));
      EXPECT_TRUE(file);
      out.push_back({line.worker, *node_id_from_hex(file->id), static_cast<Stage>(fields.at("stage")),
                     static_cast<Slot>(fields.at("slot"))});
    }
    return out;
  }

  Losses reported() const {
    Losses out;
    const auto metrics = metrics::read_metrics(run().metrics_jsonl());
    EXPECT_TRUE(metrics);
    for (const metrics::MetricsLine& line : metrics->lines) {
      if (line.loss) out[line.worker][line.step] = *line.loss;
    }
    return out;
  }

  // How the workers' rounds ended.
  std::map<std::string, int> rounds() const {
    std::map<std::string, int> out;
    const auto events = metrics::read_events(run().events_jsonl());
    EXPECT_TRUE(events);
    for (const metrics::EventLine& line : events->lines) {
      if (line.event != "exchange") continue;
      for (const EventField& field : line.fields) {
        if (field.name == "result") ++out[std::get<std::string>(field.value)];
      }
    }
    return out;
  }

  static void expect_same(const Losses& run, const Losses& reference) {
    ASSERT_EQ(run.size(), reference.size());
    double largest = 0.0;
    for (const auto& [name, by_step] : reference) {
      ASSERT_TRUE(run.contains(name)) << name;
      ASSERT_EQ(run.at(name).size(), static_cast<std::size_t>(steps)) << name;
      for (const auto& [step, loss] : by_step) {
        const double difference = std::abs(run.at(name).at(step) / loss - 1.0);
        EXPECT_LE(difference, tolerance) << name << ", step " << step << ": " << run.at(name).at(step) << " against "
                                         << loss;
        largest = std::max(largest, difference);
      }
      EXPECT_LT(by_step.at(steps), 0.9 * by_step.at(1)) << "nothing was learned, so nothing is compared";
    }
    std::printf("largest relative difference of a loss: %.2e\n", largest);
  }

  const std::filesystem::path directory_;
};

TEST_F(Parity, FourProcessesAreTheUncutModel) {
  // A whole model would clip all of its gradient together, a pipeline clips by stage: here nothing is clipped.
  const RunConfig config = launch({"training.max_grad_norm=1000"});
  ASSERT_FALSE(HasFailure());
  std::vector<Member> whole;
  for (const Member& member : members()) {
    if (member.stage == 0) whole.push_back(member);
  }
  ASSERT_EQ(whole.size(), 1U);
  Reference reference(config, *trainer::cut_into_stages(config.model, 1, {}), whole);
  expect_same(reported(), reference.train());
  EXPECT_FALSE(reference.clipped());
  EXPECT_EQ(rounds(), (std::map<std::string, int>{{"solo", 4 * 3}}));
}

TEST_F(Parity, FourStagesOfTwoReplicasAreTheirSynchronousSelf) {
  const RunConfig config = launch({"parallelism.replicas=2", "training.max_grad_norm=0.5"});
  ASSERT_FALSE(HasFailure());
  const std::vector<Member> all = members();
  ASSERT_EQ(all.size(), 8U);
  Reference reference(config, config.stage_layers(), all);
  expect_same(reported(), reference.train());
  EXPECT_TRUE(reference.clipped());
  // Rounds end at steps 8, 16 and 20, for every worker with its partner.
  EXPECT_EQ(rounds(), (std::map<std::string, int>{{"averaged", 8 * 3}}));
}

}  // namespace
}  // namespace starling
