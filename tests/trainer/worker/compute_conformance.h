// What every Compute promises (trainer/worker/compute.h), as one suite for the real device and the simulated one.
//
// A test file that has a device includes this and instantiates the suite with a way to make it:
//
//   INSTANTIATE_TEST_SUITE_P(Learner, ComputeConformance, testing::Values(ConformanceParam{"Learner", make_harness}));
//
// All devices that one factory makes belong to one run (one seed) of at least three stages.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "trainer/worker/compute.h"
#include "trainer/worker/slow_weights.h"

namespace starling::trainer {

class ComputeHarness {
 public:
  virtual ~ComputeHarness() = default;
  virtual Compute& device() = 0;
  // The next completion; waits for it, or lets virtual time pass. REQUIRES: one is to come.
  virtual Completion next() = 0;
};

struct ConformanceParam {
  std::string name;
  std::function<std::unique_ptr<ComputeHarness>()> make;
};
inline void PrintTo(const ConformanceParam& param, std::ostream* out) { *out << param.name; }

inline MicrobatchId conformance_microbatch(std::uint32_t index, Step step = 1) {
  MicrobatchId id{.originator = {}, .boot = 1, .step = step, .index = index};
  id.originator.key[0] = std::byte{7};
  return id;
}

class ComputeConformance : public testing::TestWithParam<ConformanceParam> {
 protected:
  // A device with a stage loaded, and typed calls: each submits one job and waits for its answer.
  class Device {
   public:
    Device(const ConformanceParam& param, Stage stage) : harness_(param.make()) {
      EXPECT_FALSE(get<Loaded>(Load{.stage = stage}).error);
    }
    template <typename Answer>
    Answer get(Job job) {
      const JobId id = ++last_;
      harness_->device().submit(id, std::move(job));
      Completion completion = harness_->next();
      EXPECT_EQ(completion.job, id);
      EXPECT_TRUE(std::holds_alternative<Answer>(completion.result)) << completion.result.index();
      return std::get<Answer>(std::move(completion.result));
    }
    ActivationMade begin(const MicrobatchId& id, Pass pass = Pass::train) {
      return get<ActivationMade>(Begin{.microbatch = id, .slot = 0, .pass = pass});
    }
    ActivationMade forward(const MicrobatchId& id, Buffer input, Pass pass = Pass::train) {
      return get<ActivationMade>(Forward{.microbatch = id, .input = std::move(input), .pass = pass});
    }
    LossMade loss(const MicrobatchId& id, Buffer input = nullptr, Pass pass = Pass::train) {
      return get<LossMade>(Loss{.microbatch = id, .input = std::move(input), .pass = pass});
    }
    GradientMade backward(const MicrobatchId& id, Buffer gradient = nullptr) {
      return get<GradientMade>(Backward{.microbatch = id, .gradient = std::move(gradient)});
    }
    Stepped step(std::int64_t body_tokens, std::int64_t head_tokens, Step step = 1) {
      return get<Stepped>(
          OptimizerStep{.step = step, .learning_rate = 1e-2, .body_tokens = body_tokens, .head_tokens = head_tokens});
    }
    // A whole microbatch and a step on it: theta differs from phi afterwards.
    void train_alone(std::uint32_t index) {
      const MicrobatchId id = conformance_microbatch(index);
      begin(id);
      const LossMade made = loss(id);
      EXPECT_TRUE(backward(id).finite);
      EXPECT_TRUE(step(made.tokens, made.tokens).applied);
    }
    Buffer encode(StatePart part, Encoding encoding = Encoding::fp32) {
      return get<StateMade>(Encode{.part = part, .encoding = encoding}).bytes;
    }
    std::vector<float> phi() { return floats(encode(StatePart::phi)); }
    // phi, then delta.
    std::vector<float> snapshot() { return floats(get<StateMade>(Snapshot{.encoding = Encoding::fp32}).bytes); }
    std::vector<float> delta() {
      const std::vector<float> both = snapshot();
      return {both.begin() + static_cast<std::ptrdiff_t>(both.size() / 2), both.end()};
    }
    const ComputeSizes& sizes() { return harness_->device().sizes(); }
    ComputeHarness& harness() { return *harness_; }

   private:
    std::unique_ptr<ComputeHarness> harness_;
    JobId last_ = 0;
  };

  static std::vector<float> floats(const Buffer& bytes) {
    std::vector<float> out(bytes->size() / sizeof(float));
    std::memcpy(out.data(), bytes->data(), bytes->size());
    return out;
  }
  static Buffer buffer_of(const std::vector<float>& values) { return encode_values(values, Encoding::fp32); }
  static float largest(const std::vector<float>& values) {
    float out = 0.0F;
    for (const float value : values) out = std::max(out, std::abs(value));
    return out;
  }
  Device device(Stage stage) const { return Device(GetParam(), stage); }
};

TEST_P(ComputeConformance, AnswersEachJobOnceInTheOrderOfSubmission) {
  Device first = device(0);
  ComputeHarness& harness = first.harness();
  const MicrobatchId id = conformance_microbatch(0);
  const std::vector<Job> jobs = {Begin{.microbatch = id, .slot = 0}, Encode{}, Loss{.microbatch = id},
                                 DropKept{.microbatch = id}, Snapshot{}};
  for (std::size_t i = 0; i < jobs.size(); ++i) harness.device().submit(100 + i, jobs[i]);
  const std::size_t alternatives[] = {0, 5, 1, 3, 5};  // activation, state, loss, done, state
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const Completion completion = harness.next();
    EXPECT_EQ(completion.job, 100 + i);
    EXPECT_EQ(completion.result.index(), alternatives[i]);
    EXPECT_GE(completion.compute_seconds, 0.0);
  }
}

TEST_P(ComputeConformance, BuffersHaveThePromisedSizes) {
  Device first = device(0);
  Device middle = device(1);
  const auto bytes = static_cast<std::size_t>(first.sizes().activation_bytes);
  ASSERT_GE(first.sizes().parameters.size(), 3u);
  EXPECT_EQ(first.sizes().kept_bytes.size(), first.sizes().parameters.size());
  const MicrobatchId id = conformance_microbatch(0);
  const Buffer out = first.begin(id).output;
  ASSERT_EQ(out->size(), bytes);
  const Buffer home = middle.forward(id, out).output;
  ASSERT_EQ(home->size(), bytes);
  const LossMade loss = first.loss(id, home);
  ASSERT_TRUE(loss.finite);
  EXPECT_GT(loss.tokens, 0);
  EXPECT_GT(loss.loss_sum, 0.0);
  ASSERT_EQ(loss.gradient->size(), bytes);
  const GradientMade at_middle = middle.backward(id, loss.gradient);
  ASSERT_TRUE(at_middle.finite);
  EXPECT_EQ(at_middle.tokens, loss.tokens);
  ASSERT_EQ(at_middle.output->size(), bytes);
  const GradientMade at_first = first.backward(id, at_middle.output);
  EXPECT_TRUE(at_first.finite);
  EXPECT_EQ(at_first.tokens, loss.tokens);
  EXPECT_EQ(at_first.output, nullptr);

  const auto count = [&](Device& of, Stage stage, StatePart part) {
    EXPECT_EQ(of.encode(part)->size(),
              4 * static_cast<std::size_t>(of.sizes().parameters[static_cast<std::size_t>(stage)]));
  };
  count(first, 0, StatePart::phi);
  count(middle, 1, StatePart::adam_m);
  count(middle, 1, StatePart::adam_v);
  EXPECT_EQ(2 * middle.encode(StatePart::phi, Encoding::bf16)->size(), middle.encode(StatePart::phi)->size());
}

TEST_P(ComputeConformance, AMicrobatchMayMeetNoMiddleStage) {
  Device first = device(0);
  const MicrobatchId id = conformance_microbatch(0);
  first.begin(id);
  const LossMade loss = first.loss(id);
  EXPECT_TRUE(loss.finite);
  EXPECT_EQ(loss.gradient, nullptr);
  const GradientMade gradient = first.backward(id);
  EXPECT_TRUE(gradient.finite);
  EXPECT_EQ(gradient.output, nullptr);
  EXPECT_TRUE(first.step(gradient.tokens, loss.tokens).applied);
  EXPECT_GT(largest(first.delta()), 0.0F);
}

TEST_P(ComputeConformance, WhatIsNotKeptIsNotAccumulated) {
  Device first = device(0);
  Device middle = device(1);
  const MicrobatchId id = conformance_microbatch(0);
  const Buffer out = first.begin(id).output;
  first.get<Done>(DropKept{.microbatch = id});
  EXPECT_FALSE(first.loss(id).finite);
  EXPECT_FALSE(first.backward(id, out).finite);

  middle.forward(id, out);
  EXPECT_TRUE(middle.backward(id, out).finite);
  const GradientMade again = middle.backward(id, out);  // its graph is gone
  EXPECT_FALSE(again.finite);
  EXPECT_EQ(again.tokens, 0);
  EXPECT_EQ(again.output, nullptr);
  middle.get<Done>(DropKept{.microbatch = id});  // nothing there: nothing happens
}

TEST_P(ComputeConformance, EvaluationKeepsNothing) {
  Device first = device(0);
  Device middle = device(1);
  const MicrobatchId id = conformance_microbatch(eval_index_bit, 0);
  const Buffer out = first.begin(id, Pass::eval).output;
  const Buffer home = middle.forward(id, out, Pass::eval).output;
  const LossMade loss = first.loss(id, home, Pass::eval);
  EXPECT_TRUE(loss.finite);
  EXPECT_GT(loss.tokens, 0);
  EXPECT_EQ(loss.gradient, nullptr);
  EXPECT_FALSE(middle.backward(id, home).finite);
  EXPECT_FALSE(first.backward(id, home).finite);
}

TEST_P(ComputeConformance, AStepWithoutTokensIsNoStep) {
  Device first = device(0);
  EXPECT_FALSE(first.step(0, 0).applied);
  EXPECT_EQ(largest(first.delta()), 0.0F);
}

TEST_P(ComputeConformance, AnOpenGraphKeepsItsWeights) {
  // Both devices see the same microbatch; on one of them a step comes between its passes.
  Device plain = device(1);
  Device stepping = device(1);
  const MicrobatchId open = conformance_microbatch(0);
  const MicrobatchId other = conformance_microbatch(1);
  Device first = device(0);
  const Buffer input = first.begin(open).output;
  const Buffer other_input = first.begin(other).output;
  EXPECT_EQ(*plain.forward(open, input).output, *stepping.forward(open, input).output);
  stepping.forward(other, other_input);
  const GradientMade made = stepping.backward(other, other_input);
  ASSERT_TRUE(stepping.step(made.tokens, 0).applied);
  ASSERT_GT(largest(stepping.delta()), 0.0F);
  EXPECT_EQ(*plain.backward(open, input).output, *stepping.backward(open, input).output);
}

TEST_P(ComputeConformance, AllReplicasDrawTheSameWeights) {
  Device one = device(1);
  Device two = device(1);
  Device elsewhere = device(2);
  EXPECT_EQ(one.phi(), two.phi());
  EXPECT_NE(one.phi(), elsewhere.phi());
  EXPECT_GT(largest(one.phi()), 0.0F);
}

TEST_P(ComputeConformance, WhatIsLoadedComesBack) {
  Device from = device(0);
  from.train_alone(0);
  from.get<OuterStepped>(OuterStep{});
  from.train_alone(1);  // theta is not phi
  Device to = device(1);
  const Loaded loaded = to.get<Loaded>(Load{.stage = 0,
                                            .phi = EncodedPart{.bytes = from.encode(StatePart::phi)},
                                            .adam_m = EncodedPart{.bytes = from.encode(StatePart::adam_m)},
                                            .adam_v = EncodedPart{.bytes = from.encode(StatePart::adam_v)},
                                            .momentum = EncodedPart{.bytes = from.encode(StatePart::momentum)},
                                            .theta = EncodedPart{.bytes = from.encode(StatePart::theta)},
                                            .adam_steps = 2});
  EXPECT_FALSE(loaded.error);
  EXPECT_EQ(loaded.stage, 0);
  EXPECT_EQ(*to.encode(StatePart::momentum), *from.encode(StatePart::momentum));
  EXPECT_EQ(to.phi(), from.phi());
  EXPECT_EQ(*to.encode(StatePart::adam_m), *from.encode(StatePart::adam_m));
  EXPECT_EQ(*to.encode(StatePart::adam_v), *from.encode(StatePart::adam_v));
  EXPECT_GT(largest(to.delta()), 0.0F);
  EXPECT_EQ(to.delta(), from.delta());
  to.get<Loaded>(Load{.stage = 0, .phi = EncodedPart{.bytes = from.encode(StatePart::phi)}});
  EXPECT_EQ(largest(to.delta()), 0.0F) << "without theta: theta = phi";
}

TEST_P(ComputeConformance, LoadingForgetsGraphsAndGradients) {
  Device first = device(0);
  const MicrobatchId id = conformance_microbatch(0);
  const Buffer out = first.begin(id).output;
  EXPECT_FALSE(first.get<Loaded>(Load{.stage = 0}).error);
  EXPECT_FALSE(first.backward(id, out).finite);
}

TEST_P(ComputeConformance, ABadLoadChangesNothing) {
  Device middle = device(1);
  const std::vector<float> before = middle.phi();
  const MicrobatchId id = conformance_microbatch(0);
  Device first = device(0);
  const Buffer input = first.begin(id).output;
  middle.forward(id, input);

  std::vector<float> bad = before;
  bad.back() = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(middle.get<Loaded>(Load{.stage = 1, .phi = EncodedPart{.bytes = buffer_of(bad)}}).error);
  bad.pop_back();
  EXPECT_TRUE(middle.get<Loaded>(Load{.stage = 1, .phi = EncodedPart{.bytes = buffer_of(bad)}}).error);
  EXPECT_TRUE(middle.get<Loaded>(Load{.stage = 1, .adam_m = EncodedPart{.bytes = buffer_of(bad)}}).error);
  EXPECT_TRUE(middle.get<Loaded>(LoadFromNeighbours{.stage = 2, .left = {.bytes = buffer_of(bad)}}).error);
  EXPECT_EQ(middle.phi(), before);
  EXPECT_TRUE(middle.backward(id, input).finite);
}

TEST_P(ComputeConformance, TheLastStageCanBeACopyOfTheOneBefore) {
  Device from = device(1);
  Device to = device(0);
  const auto last = static_cast<Stage>(to.sizes().parameters.size() - 1);
  EXPECT_FALSE(to.get<Loaded>(LoadFromNeighbours{.stage = last, .left = {.bytes = from.encode(StatePart::phi)}}).error);
  EXPECT_EQ(to.phi(), from.phi());
}

TEST_P(ComputeConformance, ASnapshotIsPhiThenDelta) {
  Device first = device(0);
  const std::vector<float> phi = first.phi();
  first.train_alone(0);
  const std::vector<float> both = first.snapshot();
  ASSERT_EQ(both.size(), 2 * phi.size());
  EXPECT_TRUE(std::equal(phi.begin(), phi.end(), both.begin()));
  EXPECT_GT(largest(first.delta()), 0.0F);
}

TEST_P(ComputeConformance, ASoloOuterStepFollowsItsEquation) {
  Device first = device(0);
  first.train_alone(0);
  const std::vector<float> phi = first.phi();
  const std::vector<float> delta = first.delta();
  const OuterStepped out = first.get<OuterStepped>(OuterStep{.alpha = 0.5, .beta = 0.25, .gamma = 0.7});
  EXPECT_EQ(out.averaged_with, 0);
  const std::vector<float> after = first.phi();
  for (std::size_t i = 0; i < phi.size(); ++i) EXPECT_FLOAT_EQ(after[i], phi[i] + 0.25F * delta[i]) << i;
  EXPECT_EQ(largest(first.delta()), 0.0F);  // theta restarts at phi
}

TEST_P(ComputeConformance, AnOuterStepUsesTheDeltaOfItsSnapshot) {
  Device first = device(0);
  first.train_alone(0);
  const std::vector<float> phi = first.phi();
  const std::vector<float> delta = first.delta();
  first.train_alone(1);  // theta moves on after the snapshot
  first.get<OuterStepped>(OuterStep{.alpha = 0.5, .beta = 1.0, .gamma = 0.7});
  const std::vector<float> after = first.phi();
  for (std::size_t i = 0; i < phi.size(); ++i) EXPECT_FLOAT_EQ(after[i], phi[i] + delta[i]) << i;
}

TEST_P(ComputeConformance, APairAveragesAndRefusesWhatCannotBe) {
  Device first = device(0);
  first.train_alone(0);
  const std::vector<float> own = first.snapshot();
  const std::size_t count = own.size() / 2;
  std::vector<float> other = own;
  for (std::size_t i = 0; i < count; ++i) other[i] *= 1.25F;          // phi
  for (std::size_t i = count; i < 2 * count; ++i) other[i] *= -0.5F;  // delta
  std::vector<float> broken = other;
  broken[count] = std::numeric_limits<float>::infinity();
  std::vector<float> absurd = other;
  for (std::size_t i = 0; i < count; ++i) absurd[i] *= 1000.0F;
  const OuterStepped out =
      first.get<OuterStepped>(OuterStep{.others = {buffer_of(broken), buffer_of(absurd), buffer_of(other)},
                                        .encoding = Encoding::fp32,
                                        .alpha = 0.5,
                                        .beta = 0.7,
                                        .gamma = 0.6});
  EXPECT_EQ(out.averaged_with, 1);
  EXPECT_EQ(out.rejected_non_finite, 1);
  EXPECT_EQ(out.rejected_norm, 1);
  EXPECT_NEAR(out.divergence, 0.25, 1e-5);
  const std::vector<float> after = first.phi();
  for (std::size_t i = 0; i < count; ++i) {
    // phi + beta mean(Delta) - gamma (phi - mean(phi)), momentum zero before.
    const float expected = own[i] + 0.7F * 0.25F * own[count + i] - 0.6F * (own[i] - 1.125F * own[i]);
    EXPECT_NEAR(after[i], expected, 1e-5F * (1.0F + std::abs(expected))) << i;
  }
}

TEST_P(ComputeConformance, ReloadingGoesBackToTheSlowWeights) {
  Device first = device(0);
  first.train_alone(0);
  first.snapshot();
  ASSERT_NE(first.encode(StatePart::theta), nullptr);
  ASSERT_GT(largest(floats(first.encode(StatePart::adam_m))), 0.0F);
  const std::vector<float> phi = first.phi();
  // A microbatch that is open keeps its graph, and what has been accumulated is gone.
  const MicrobatchId open = conformance_microbatch(1);
  first.begin(open);
  const LossMade made = first.loss(open);
  EXPECT_FALSE(first.get<Loaded>(ReloadSlow{}).error);
  EXPECT_EQ(first.phi(), phi);
  EXPECT_EQ(floats(first.encode(StatePart::theta)), phi);
  EXPECT_EQ(largest(floats(first.encode(StatePart::adam_m))), 0.0F);
  EXPECT_EQ(largest(floats(first.encode(StatePart::adam_v))), 0.0F);
  EXPECT_TRUE(first.backward(open).finite);
  EXPECT_TRUE(first.step(made.tokens, 0).applied);
  // The snapshot is dropped: its delta is not that of the weights any more.
  const std::vector<float> theta = floats(first.encode(StatePart::theta));
  first.get<OuterStepped>(OuterStep{.alpha = 0.0, .beta = 1.0, .gamma = 0.0});
  const std::vector<float> after = first.phi();
  for (std::size_t i = 0; i < phi.size(); ++i) EXPECT_FLOAT_EQ(after[i], theta[i]) << i;
}

}  // namespace starling::trainer
