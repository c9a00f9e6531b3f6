#include "trainer/torch/learner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/trainer/data/golden_file.h"
#include "tests/trainer/torch/learner_harness.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {
namespace {

INSTANTIATE_TEST_SUITE_P(Learner, ComputeConformance,
                         testing::Values(ConformanceParam{
                             "Learner", [] { return std::make_unique<LearnerHarness>(tiny_run(4)); }}));

// All stages of a cut in one process, driven through jobs as a worker would.
class Pipeline {
 public:
  explicit Pipeline(const LearnerConfig& config) {
    for (std::size_t stage = 0; stage < config.cut.size(); ++stage) {
      stages_.push_back(std::make_unique<LearnerHarness>(config));
      EXPECT_FALSE(stages_.back()->get<Loaded>(Load{.stage = static_cast<Stage>(stage)}).error);
    }
  }

  // Loss per token of step k over `microbatches`, which are interleaved: each stage sees them in another order, forward
  // and backward.
  double step(Step k, std::uint32_t microbatches, double learning_rate) {
    std::map<std::uint32_t, Buffer> travelling;
    for (const std::uint32_t index : order(microbatches, 0)) {
      travelling[index] = stages_[0]->get<ActivationMade>(Begin{.microbatch = id(k, index), .slot = 0}).output;
    }
    for (std::size_t stage = 1; stage < stages_.size(); ++stage) {
      for (const std::uint32_t index : order(microbatches, stage)) {
        travelling[index] =
            stages_[stage]->get<ActivationMade>(Forward{.microbatch = id(k, index), .input = travelling[index]}).output;
      }
    }
    double loss_sum = 0.0;
    std::int64_t tokens = 0;
    for (const std::uint32_t index : order(microbatches, 3)) {
      const Buffer input = stages_.size() > 1 ? travelling[index] : nullptr;
      const LossMade made = stages_[0]->get<LossMade>(Loss{.microbatch = id(k, index), .input = input});
      EXPECT_TRUE(made.finite);
      loss_sum += made.loss_sum;
      tokens += made.tokens;
      travelling[index] = made.gradient;
    }
    for (std::size_t stage = stages_.size(); stage-- > 0;) {
      for (const std::uint32_t index : order(microbatches, 2 * stage + 1)) {
        travelling[index] = stages_[stage]
                                ->get<GradientMade>(Backward{.microbatch = id(k, index), .gradient = travelling[index]})
                                .output;
      }
    }
    for (const auto& stage : stages_) {
      EXPECT_TRUE(stage
                      ->get<Stepped>(OptimizerStep{
                          .step = k, .learning_rate = learning_rate, .body_tokens = tokens, .head_tokens = tokens})
                      .applied);
    }
    return loss_sum / static_cast<double>(tokens);
  }

 private:
  static MicrobatchId id(Step k, std::uint32_t index) { return conformance_microbatch(index, k); }
  // 0 .. count - 1, rotated.
  static std::vector<std::uint32_t> order(std::uint32_t count, std::size_t shift) {
    std::vector<std::uint32_t> out(count);
    std::iota(out.begin(), out.end(), 0);
    std::rotate(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(shift % count), out.end());
    return out;
  }
  std::vector<std::unique_ptr<LearnerHarness>> stages_;
};

std::vector<double> losses(LearnerConfig config, int steps) {
  Pipeline pipeline(config);
  std::vector<double> out;
  for (Step k = 1; k <= steps; ++k) out.push_back(pipeline.step(k, 4, 3e-3));
  return out;
}

// An accelerator begins a job while it copies the answer to the one before.
TEST(Learner, JobsInARowAreAnsweredAsOneByOne) {
  LearnerHarness first(tiny_run(3));
  LearnerHarness waiting(tiny_run(3));
  LearnerHarness in_a_row(tiny_run(3));
  ASSERT_FALSE(first.get<Loaded>(Load{.stage = 0}).error);
  for (LearnerHarness* middle : {&waiting, &in_a_row}) ASSERT_FALSE(middle->get<Loaded>(Load{.stage = 1}).error);
  std::vector<Job> jobs;
  for (std::uint32_t i = 0; i < 4; ++i) {
    const MicrobatchId id = conformance_microbatch(i);
    const Buffer input = first.get<ActivationMade>(Begin{.microbatch = id, .slot = 0}).output;
    jobs.emplace_back(Forward{.microbatch = id, .input = input});
    if (i % 2 == 1) jobs.emplace_back(Backward{.microbatch = id, .gradient = input});
  }
  jobs.emplace_back(DropKept{.microbatch = conformance_microbatch(0)});
  jobs.emplace_back(Backward{.microbatch = conformance_microbatch(0), .gradient = nullptr});
  jobs.emplace_back(OptimizerStep{.step = 1, .learning_rate = 1e-3, .body_tokens = 96});
  jobs.emplace_back(Encode{.part = StatePart::theta});
  const auto bytes_of = [](const JobResult& result) -> Buffer {
    if (const auto* made = std::get_if<ActivationMade>(&result)) return made->output;
    if (const auto* made = std::get_if<GradientMade>(&result)) return made->output;
    if (const auto* made = std::get_if<StateMade>(&result)) return made->bytes;
    return nullptr;
  };
  for (std::size_t i = 0; i < jobs.size(); ++i) in_a_row.device().submit(i, jobs[i]);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    waiting.device().submit(i, jobs[i]);
    const Completion alone = waiting.next();
    const Completion beside = in_a_row.next();
    EXPECT_EQ(beside.job, i);
    ASSERT_EQ(beside.result.index(), alone.result.index()) << i;
    const Buffer expected = bytes_of(alone.result);
    const Buffer got = bytes_of(beside.result);
    ASSERT_EQ(got == nullptr, expected == nullptr) << i;
    if (expected != nullptr) {
      EXPECT_TRUE(*got == *expected) << i;
    }
  }
}

class CutParity : public testing::TestWithParam<bool> {};

TEST_P(CutParity, OneTwoAndFourStagesHaveTheSameLosses) {
  const auto run = [](std::int64_t stages) {
    LearnerConfig config = tiny_run(stages);
    config.model.tie_word_embeddings = GetParam();
    return losses(config, 20);
  };
  const std::vector<double> whole = run(1);
  EXPECT_NEAR(whole.front(), std::log(256.0), 0.1);  // fresh weights know nothing
  EXPECT_LT(whole.back(), 4.0);                      // and they learn
  for (const std::int64_t stages : {2, 4}) {
    const std::vector<double> cut = run(stages);
    for (std::size_t k = 0; k < whole.size(); ++k) {
      EXPECT_NEAR(cut[k] / whole[k], 1.0, 1e-5) << stages << " stages, step " << k + 1;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(TiedAndUntied, CutParity, testing::Bool());

TEST(Learner, ThreadsDoNotChangeTheNumbersMuch) {
  LearnerConfig two = tiny_run(1);
  two.threads = 2;
  const std::vector<double> one_thread = losses(tiny_run(1), 5);
  const std::vector<double> two_threads = losses(two, 5);
  for (std::size_t k = 0; k < 5; ++k) EXPECT_NEAR(two_threads[k] / one_thread[k], 1.0, 1e-5);
}

class LearnerTest : public testing::Test {
 protected:
  LearnerTest() : first_(tiny_run(4)), middle_(tiny_run(4)) {
    first_.get<Loaded>(Load{.stage = 0});
    middle_.get<Loaded>(Load{.stage = 1});
  }
  ActivationMade begin(std::uint32_t index, LearnerHarness& at) {
    return at.get<ActivationMade>(Begin{.microbatch = conformance_microbatch(index), .slot = 0});
  }
  static Buffer with_nan(const Buffer& good) {
    Bytes bytes = *good;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes.data() + bytes.size() / 2, &nan, sizeof nan);
    return std::make_shared<const Bytes>(std::move(bytes));
  }
  static Buffer cut_short(const Buffer& good) { return std::make_shared<const Bytes>(good->begin(), good->end() - 4); }
  LearnerHarness first_;
  LearnerHarness middle_;
};

TEST_F(LearnerTest, WhatIsNotFiniteIsRefusedAndLeavesNoTrace) {
  const MicrobatchId id = conformance_microbatch(0);
  const Buffer good = begin(0, first_).output;
  for (const Buffer& bad : {with_nan(good), cut_short(good)}) {
    EXPECT_EQ(middle_.get<ActivationMade>(Forward{.microbatch = id, .input = bad}).output, nullptr);
    EXPECT_FALSE(middle_.get<GradientMade>(Backward{.microbatch = id, .gradient = good}).finite);

    ASSERT_NE(middle_.get<ActivationMade>(Forward{.microbatch = id, .input = good}).output, nullptr);
    EXPECT_FALSE(middle_.get<GradientMade>(Backward{.microbatch = id, .gradient = bad}).finite);
    EXPECT_FALSE(middle_.get<GradientMade>(Backward{.microbatch = id, .gradient = good}).finite);  // its graph is gone

    begin(0, first_);
    EXPECT_FALSE(first_.get<LossMade>(Loss{.microbatch = id, .input = bad}).finite);
    EXPECT_FALSE(first_.get<LossMade>(Loss{.microbatch = id, .input = good}).finite);
  }
  // Nothing was accumulated anywhere: a step on what there is has a gradient of zero.
  EXPECT_EQ(middle_.get<Stepped>(OptimizerStep{.step = 1, .learning_rate = 1e-3, .body_tokens = 1}).gradient_norm, 0.0);
  EXPECT_EQ(first_.get<Stepped>(OptimizerStep{.step = 1, .learning_rate = 1e-3, .body_tokens = 1, .head_tokens = 1})
                .gradient_norm,
            0.0);
}

// A learning rate that throws the weights out of the range of floats: what is made with them is not finite, and it says so.
TEST_F(LearnerTest, DivergedWeightsAreToldFromBadInputAndReloaded) {
  LearnerHarness first(tiny_run(2));
  ASSERT_FALSE(first.get<Loaded>(Load{.stage = 0}).error);
  const auto begin = [&](std::uint32_t index) {
    return first.get<ActivationMade>(Begin{.microbatch = conformance_microbatch(index), .slot = 0});
  };
  const ActivationMade good = begin(0);
  ASSERT_NE(good.output, nullptr);
  const LossMade made = first.get<LossMade>(Loss{.microbatch = conformance_microbatch(0), .input = good.output});
  first.get<GradientMade>(Backward{.microbatch = conformance_microbatch(0), .gradient = made.gradient});
  EXPECT_TRUE(first
                  .get<Stepped>(OptimizerStep{
                      .step = 1, .learning_rate = 1e38, .body_tokens = made.tokens, .head_tokens = made.tokens})
                  .applied);
  const ActivationMade diverged = begin(1);
  EXPECT_EQ(diverged.output, nullptr);
  EXPECT_TRUE(diverged.diverged);

  EXPECT_FALSE(first.get<Loaded>(ReloadSlow{}).error);
  const ActivationMade again = begin(0);
  ASSERT_NE(again.output, nullptr);
  EXPECT_EQ(*again.output, *good.output) << "the weights that the run began with";
  // What a peer sent is its fault, not that of these weights.
  const Buffer bad = std::make_shared<const Bytes>(good.output->size(), std::byte{0xff});
  const LossMade refused = first.get<LossMade>(Loss{.microbatch = conformance_microbatch(0), .input = bad});
  EXPECT_FALSE(refused.finite);
  EXPECT_FALSE(refused.diverged);
}

TEST_F(LearnerTest, SkippingTheMiddleIsTheIdentity) {
  // The same microbatch straight home, and by way of the loop in fp32: what Begin made is what a skipped ring gives back.
  LearnerHarness other(tiny_run(4));
  other.get<Loaded>(Load{.stage = 0});
  const MicrobatchId id = conformance_microbatch(0);
  begin(0, first_);
  const Buffer out = begin(0, other).output;
  const LossMade direct = first_.get<LossMade>(Loss{.microbatch = id});
  const LossMade around = other.get<LossMade>(Loss{.microbatch = id, .input = out});
  EXPECT_EQ(direct.loss_sum, around.loss_sum);
  first_.get<GradientMade>(Backward{.microbatch = id});
  other.get<GradientMade>(Backward{.microbatch = id, .gradient = around.gradient});
  const OptimizerStep step{
      .step = 1, .learning_rate = 1e-3, .body_tokens = direct.tokens, .head_tokens = direct.tokens};
  // Not to the last bit: an accelerator adds in any order.
  EXPECT_NEAR(first_.get<Stepped>(step).gradient_norm / other.get<Stepped>(step).gradient_norm, 1.0, 1e-6);
}

TEST_F(LearnerTest, EvaluationReadsTheHeldOutText) {
  const auto source = small_source(tiny_run(4));
  const auto eval = [&](std::uint32_t window) {
    const MicrobatchId id = conformance_microbatch(window | eval_index_bit, 0);
    const Buffer out = first_.get<ActivationMade>(Begin{.microbatch = id, .pass = Pass::eval}).output;
    return first_.get<LossMade>(Loss{.microbatch = id, .input = nullptr, .pass = Pass::eval}).loss_sum;
  };
  EXPECT_EQ(eval(3), eval(3));
  EXPECT_NE(eval(3), eval(4));
  const auto windows = static_cast<std::uint32_t>(source->validation_windows());
  ASSERT_EQ(windows % 2, 1u);
  EXPECT_EQ(eval(3), eval(3 + windows));  // two windows each: after `windows` calls the text has gone round twice
}

TEST_F(LearnerTest, AWorkerWithoutDataBeginsNothing) {
  const RealClock clock;
  JobRunner runner(tiny_run(4), nullptr);
  EXPECT_FALSE(std::get<Loaded>(runner.run(Load{.stage = 0})).error);
  const JobResult result = runner.run(Begin{.microbatch = conformance_microbatch(0), .slot = 0});
  EXPECT_EQ(std::get<ActivationMade>(result).output, nullptr);
}

TEST_F(LearnerTest, AStepTellsWhatTheDeviceMultipliesAt) {
  const Stepped stepped = first_.get<Stepped>(OptimizerStep{.step = 1, .learning_rate = 1e-3});
  EXPECT_GT(stepped.matrix_flops, 1e8);  // operations a second: the slowest machine that runs this test does more
  EXPECT_EQ(stepped.memory_bytes > 0, test_device() == DeviceType::cuda) << "on a CPU the memory is the process's";
}

TEST_F(LearnerTest, EndsWithJobsWaiting) {
  LearnerHarness busy(tiny_run(4));
  busy.device().submit(1, Load{.stage = 0});
  for (JobId id = 2; id < 200; ++id) busy.device().submit(id, Encode{});
}

TEST_F(LearnerTest, BfloatHalvesWhatTravels) {
  LearnerConfig config = tiny_run(4);
  config.activation_encoding = Encoding::bf16;
  LearnerHarness first(config);
  first.get<Loaded>(Load{.stage = 0});
  const Buffer half = begin(0, first).output;
  const Buffer whole = begin(0, first_).output;
  ASSERT_EQ(2 * half->size(), whole->size());
  std::vector<float> rounded(whole->size() / 4);
  ASSERT_TRUE(decode_values(*half, Encoding::bf16, rounded));
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    float exact = 0.0F;
    std::memcpy(&exact, whole->data() + 4 * i, 4);
    EXPECT_NEAR(rounded[i], exact, std::abs(exact) / 256.0F);
  }
}

// With training.document_attention the originator tells where documents begin, and a stage that is told computes otherwise.
TEST(Learner, TellsWhereDocumentsBegin) {
  const ScratchFolder folder;
  const std::string tokenizer = golden_path("tokenizers/llama3.json");
  const std::int32_t end = *(*Tokenizer::open(tokenizer))->end_of_text();
  std::vector<std::uint16_t> ids;
  for (int i = 0; i < 2000; ++i) ids.push_back(static_cast<std::uint16_t>(i % 7 == 6 ? end : 10 + i % 5));
  LearnerConfig config = tiny_run(2);
  config.model.vocab_size = 906;
  config.training.document_attention = true;
  auto opened = Source::open({.train = {folder.write("a.bin", raw_ids(ids))}, .tokenizer = tokenizer},
                             {config.training.micro_batch_size, config.training.seq_len}, config.model.vocab_size);
  ASSERT_TRUE(opened) << opened.error().message;
  const auto source = std::make_shared<const Source>(std::move(*opened));
  LearnerHarness first(config, source);
  LearnerHarness second(config, source);
  ASSERT_FALSE(first.get<Loaded>(Load{.stage = 0}).error);
  ASSERT_FALSE(second.get<Loaded>(Load{.stage = 1}).error);
  const MicrobatchId id = conformance_microbatch(0);
  const ActivationMade made = first.get<ActivationMade>(Begin{.microbatch = id, .slot = 0});
  EXPECT_EQ(made.borders, source->document_borders(*source->sample(config.seed, 0, id.step, id.index)));
  EXPECT_GE(made.borders.size(), 5U);
  const auto forward = [&](const std::vector<std::uint32_t>& borders) {
    return *second.get<ActivationMade>(Forward{.microbatch = id, .input = made.output, .borders = borders}).output;
  };
  EXPECT_NE(forward(made.borders), forward({}));

  config.training.document_attention = false;
  LearnerHarness whole(config, source);
  ASSERT_FALSE(whole.get<Loaded>(Load{.stage = 0}).error);
  const ActivationMade across = whole.get<ActivationMade>(Begin{.microbatch = id, .slot = 0});
  EXPECT_TRUE(across.borders.empty());
  EXPECT_NE(*across.output, *made.output);
}

TEST(ComputeSizes, MatchWhatIsKept) {
  LearnerConfig config = tiny_run(4);
  const ComputeSizes sizes = compute_sizes(config);
  // Per row: x and x2 (2 D), two rstd, qkv (64), attended (32), log sums (4 heads), gate and up (96): 262 floats.
  EXPECT_EQ(sizes.kept_bytes[1], 48 * 262 * 4);
  config.training.activation_checkpointing = true;
  EXPECT_EQ(compute_sizes(config).kept_bytes[1], 48 * 32 * 4);
  EXPECT_EQ(sizes.activation_bytes, 48 * 32 * 4);
  EXPECT_EQ(sizes.parameters[1], parameter_count(config.model, config.cut[1], 1));
  EXPECT_EQ(sizes.body_flops[1], train_flops_per_token(config.model, config.cut[1], config.training.seq_len));
}

}  // namespace
}  // namespace starling::trainer
