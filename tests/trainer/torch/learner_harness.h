// A small run for tests: its settings, a text to train on, and a learner whose answers can be waited for.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/base/real_env.h"
#include "tests/trainer/data/scratch_files.h"
#include "tests/trainer/torch/test_device.h"
#include "tests/trainer/worker/compute_conformance.h"
#include "trainer/torch/learner.h"

namespace starling::trainer {

inline ModelConfig tiny_model() {
  return {.hidden_size = 32,
          .intermediate_size = 48,
          .num_hidden_layers = 4,
          .num_attention_heads = 4,
          .num_key_value_heads = 2,
          .vocab_size = 256,
          .max_position_embeddings = 32};
}

inline LearnerConfig tiny_run(std::int64_t stages) {
  LearnerConfig config;
  config.model = tiny_model();
  config.cut = *cut_into_stages(config.model, stages, {});
  config.training.seq_len = 24;
  config.training.micro_batch_size = 2;
  config.training.max_grad_norm = 1.0e9;  // a cut into stages clips by stage: no clipping, so that cuts agree
  config.activation_encoding = Encoding::fp32;
  config.seed = 11;
  config.device = test_device();
  return config;
}

// Words drawn from a few, so that there is something to learn.
inline std::string small_text() {
  const std::vector<std::string> words = {"the ", "starling ", "sings, ", "and ", "a ", "flock ", "turns. "};
  std::string out;
  for (Stream stream(3); out.size() < 20'000;) out += words[stream.below(words.size())];
  return out;
}

inline std::shared_ptr<const Source> small_source(const LearnerConfig& config) {
  const ScratchFolder folder;  // the mapping outlives the file
  Result<Source> source = Source::open(
      {.train = {folder.write("text.txt", small_text())}},
      {.sequences = config.training.micro_batch_size, .seq_len = config.training.seq_len}, config.model.vocab_size);
  EXPECT_TRUE(source) << (source ? "" : source.error().message);
  return std::make_shared<const Source>(std::move(*source));
}

class LearnerHarness final : public ComputeHarness {
 public:
  explicit LearnerHarness(const LearnerConfig& config) : LearnerHarness(config, small_source(config)) {}
  LearnerHarness(const LearnerConfig& config, std::shared_ptr<const Source> source)
      : learner_(config, std::move(source), clock_, [this] {
          const std::scoped_lock lock(mutex_);
          ++wakes_;
          woken_.notify_one();
        }) {}

  Compute& device() override { return learner_; }

  Completion next() override {
    while (ready_.empty()) {
      {
        std::unique_lock lock(mutex_);
        woken_.wait(lock, [this] { return wakes_ > 0; });
        wakes_ = 0;
      }
      for (Completion& completion : learner_.take_completions()) ready_.push_back(std::move(completion));
    }
    Completion out = std::move(ready_.front());
    ready_.pop_front();
    return out;
  }

  // One job and its answer.
  template <typename Answer>
  Answer get(Job job) {
    learner_.submit(++last_, std::move(job));
    return std::get<Answer>(next().result);
  }

 private:
  RealClock clock_;
  std::mutex mutex_;
  std::condition_variable woken_;
  std::size_t wakes_ = 0;
  std::deque<Completion> ready_;
  JobId last_ = 0;
  Learner learner_;  // last: its thread uses what stands above
};

}  // namespace starling::trainer
