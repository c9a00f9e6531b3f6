// LibTorch's kernels against ours, which finite differences and autograd have checked, on the device of test_device.h.
#include "trainer/torch/library_ops.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "gossip/base/random.h"
#include "tests/trainer/torch/test_device.h"
#include "trainer/torch/init.h"
#include "trainer/torch/stage.h"

namespace starling::trainer {
namespace {

at::Device device_of_the_test() {
  return test_device() == DeviceType::cuda ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
}

class LibraryOps : public testing::Test {
 protected:
  static constexpr kernels::Attention shape{.tokens = 96, .heads = 4, .kv_heads = 2, .head_dim = 32};
  static constexpr std::int64_t rows = 2 * 96;
  static constexpr std::int64_t width = 128;

  at::Tensor random(std::vector<std::int64_t> sizes) {
    const at::Tensor out = at::empty(sizes, at::kFloat);
    for (std::int64_t i = 0; i < out.numel(); ++i)
      out.mutable_data_ptr<float>()[i] = static_cast<float>(stream_.normal());
    return out;
  }
  // Copies: what an operation changes in place on one side must not change on the other.
  static at::Tensor there(const at::Tensor& x) { return x.clone().to(device_of_the_test()); }
  static void expect_near(const at::Tensor& there, const at::Tensor& here, double relative, const char* what) {
    const at::Tensor difference = there.to(at::kCPU, at::kFloat).reshape(here.sizes()).sub(here).abs();
    const double scale = here.abs().max().item<double>();
    EXPECT_LE(difference.max().item<double>(), relative * scale) << what;
  }
  std::vector<std::int32_t> ids(std::int64_t count, std::uint64_t bound) {
    std::vector<std::int32_t> out;
    for (std::int64_t i = 0; i < count; ++i) out.push_back(static_cast<std::int32_t>(stream_.below(bound)));
    return out;
  }

  c10::InferenceMode no_autograd_;
  Stream stream_{3};
};

TEST_F(LibraryOps, RmsNorm) {
  const at::Tensor x = random({rows, width});
  const at::Tensor w = random({width});
  const ops::Normed ours = ops::rms_norm(x, w, 1e-5, at::kFloat);
  const ops::Normed theirs = ops::library::rms_norm(there(x), there(w), 1e-5);
  expect_near(theirs.y, ours.y, 1e-5, "y");
  expect_near(theirs.rstd, ours.rstd, 1e-5, "rstd");

  at::Tensor dy = random({rows, width});
  at::Tensor dx = random({rows, width});
  at::Tensor dw = random({width});
  at::Tensor dy_there = there(dy);
  at::Tensor dx_there = there(dx);
  at::Tensor dw_there = there(dw);
  ops::rms_norm_backward(x, w, ours.rstd, dy, dx, dw, at::kFloat);
  ops::library::rms_norm_backward(there(x), there(w), theirs.rstd, dy_there, dx_there, dw_there);
  expect_near(dy_there, dy, 1e-5, "y again");
  expect_near(dx_there, dx, 1e-5, "dx");
  expect_near(dw_there, dw, 1e-5, "dw");
}

TEST_F(LibraryOps, RotateThereAndBack) {
  const ops::RotaryTable table = ops::rotary_table(shape.tokens, shape.head_dim, 10000.0, {});
  const ops::RotaryTable table_there{there(table.cosine), there(table.sine)};
  for (const auto rotation : {kernels::Rotation::forward, kernels::Rotation::backward}) {
    at::Tensor here = random({rows, shape.qkv_width()});
    at::Tensor other = there(here);
    ops::rotate(here, shape, table, rotation);
    ops::library::rotate(other, shape, table_there, rotation);
    expect_near(other, here, 1e-5, "qkv");
  }
}

TEST_F(LibraryOps, Attention) {
  const at::Tensor qkv = random({rows, shape.qkv_width()});
  const at::Tensor dout = random({rows, shape.out_width()});
  const ops::Attended ours = ops::attention(qkv, shape);
  const at::Tensor d_ours = ops::attention_backward(qkv, ours, dout, shape);
  const at::Tensor qkv_there = there(qkv);
  const ops::Attended theirs = ops::library::attention(qkv_there, shape);
  expect_near(theirs.out, ours.out, 1e-5, "out");
  expect_near(theirs.log_sum, ours.log_sum, 1e-5, "log_sum");
  expect_near(ops::library::attention_backward(qkv_there, theirs, there(dout), shape), d_ours, 1e-5, "dqkv");

  // bf16: on CUDA another kernel.
  const at::Tensor half = qkv_there.to(at::kBFloat16);
  const ops::Attended rounded = ops::library::attention(half, shape);
  expect_near(rounded.out, ours.out, 0.02, "out in bf16");
  expect_near(ops::library::attention_backward(half, rounded, there(dout).to(at::kBFloat16), shape), d_ours, 0.02,
              "dqkv in bf16");
}

// Documents of several lengths in two sequences: each as if it were alone, with our kernels and with LibTorch's.
TEST_F(LibraryOps, AttentionStaysInsideOfDocuments) {
  const std::vector<std::uint32_t> borders{1, 40, 41, 96, 150};  // 96: where the second sequence begins anyway
  const std::vector<std::pair<std::int64_t, std::int64_t>> documents{{0, 1}, {1, 39}, {40, 1}, {41, 55}, {96, 54}, {150, 42}};
  const at::Tensor qkv = random({rows, shape.qkv_width()});
  const at::Tensor dout = random({rows, shape.out_width()});
  const ops::Attended packed = ops::attention(qkv, shape, borders);
  const at::Tensor d_packed = ops::attention_backward(qkv, packed, dout, shape, borders);
  const at::Tensor qkv_there = there(qkv);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (type == at::kBFloat16 && test_device() == DeviceType::cpu) continue;
    const double tolerance = type == at::kFloat ? 1e-5 : 0.02;
    const ops::Attended theirs = test_device() == DeviceType::cpu ? packed : ops::attention(qkv_there.to(type), shape, borders);
    expect_near(theirs.out, packed.out, tolerance, "out elsewhere");
    expect_near(ops::attention_backward(qkv_there.to(type), theirs, there(dout).to(type), shape, borders), d_packed,
                tolerance, "dqkv elsewhere");
  }
  for (const auto& [first, count] : documents) {
    kernels::Attention alone = shape;
    alone.tokens = count;
    const at::Tensor part = qkv.narrow(0, first, count).contiguous();
    const ops::Attended out = ops::library::attention(part, alone);
    expect_near(packed.out.narrow(0, first, count), out.out, 1e-5, "out");
    expect_near(d_packed.narrow(0, first, count),
                ops::library::attention_backward(part, out, dout.narrow(0, first, count), alone), 1e-5, "dqkv");
  }
}

TEST_F(LibraryOps, Swiglu) {
  const at::Tensor gate_up = random({rows, 2 * width});
  expect_near(ops::library::swiglu(there(gate_up)), ops::swiglu(gate_up, at::kFloat), 1e-5, "out");
  at::Tensor dout = random({rows, width});
  at::Tensor dout_there = there(dout);
  const at::Tensor d_there = ops::library::swiglu_backward(there(gate_up), dout_there);
  expect_near(d_there, ops::swiglu_backward(gate_up, dout, at::kFloat), 1e-5, "dgate_up");
  expect_near(dout_there, dout, 1e-5, "out again");
}

TEST_F(LibraryOps, EmbeddingAndLoss) {
  const at::Tensor weight = random({300, width});
  const std::vector<std::int32_t> tokens = ids(rows, 300);
  expect_near(ops::library::embed(there(weight), tokens, at::kFloat), ops::embed(weight, tokens, at::kFloat), 1e-7,
              "rows");
  const at::Tensor dout = random({rows, width});
  at::Tensor dw = random({300, width});
  at::Tensor dw_there = there(dw);
  ops::embed_backward(dout, tokens, dw);
  ops::library::embed_backward(there(dout), tokens, dw_there);
  expect_near(dw_there, dw, 1e-5, "dweight");

  at::Tensor logits = random({rows, 300});
  at::Tensor logits_there = there(logits);
  const double only = ops::library::cross_entropy(logits_there, tokens, ops::Gradient::none);
  expect_near(logits_there, logits, 1e-7, "logits stay");
  const double sum = ops::cross_entropy(logits, tokens, ops::Gradient::in_place);
  EXPECT_NEAR(only, sum, 1e-5 * sum);
  EXPECT_NEAR(ops::library::cross_entropy(logits_there, tokens, ops::Gradient::in_place), sum, 1e-5 * sum);
  expect_near(logits_there, logits, 1e-5, "gradient");
}

TEST_F(LibraryOps, AdamWAndTheNorm) {
  const AdamWStep step{.learning_rate = 1e-2, .weight_decay = 0.1, .steps = 3, .gradient_scale = 0.25};
  std::vector<at::Tensor> here;
  std::vector<at::Tensor> other;
  for (int i = 0; i < 5; ++i) {
    here.push_back(i == 3 ? random({1000}).abs() : random({1000}));  // v is not negative
    other.push_back(there(here.back()));
  }
  EXPECT_NEAR(ops::library::sum_of_squares(other[1]), here[1].square().sum(at::kDouble).item<double>(), 1e-3);
  const auto floats = [](const at::Tensor& x) { return std::span(x.mutable_data_ptr<float>(), 1000); };
  adamw_step(adamw(step), floats(here[0]), floats(here[1]), floats(here[2]), floats(here[3]), floats(here[4]));
  ops::library::adamw_step(step, other[0], other[1], other[2], other[3], other[4]);
  for (std::size_t i = 0; i < 5; ++i) expect_near(other[i], here[i], i == 1 ? 1.0 : 1e-5, "theta, g, m, v, theta'");
  EXPECT_EQ(other[1].abs().max().item<float>(), 0.0F) << "the gradient is left at zero";
}

// On a CPU: bf16 operands, everything else fp32.
class Bf16Products : public LibraryOps {
 protected:
  static constexpr at::ScalarType bf16 = at::kBFloat16;
  static at::Tensor wide(const at::Tensor& x) { return x.to(at::kFloat); }
};

TEST_F(Bf16Products, AreThoseOfTheRoundedOperandsWithSumsInFp32) {
  const at::Tensor x = ops::operand(random({rows, width}), bf16);
  const at::Tensor w = ops::operand(random({96, width}), bf16);
  const at::Tensor dy = ops::operand(random({rows, 96}), bf16);
  const at::Tensor y = random({rows, 96});
  expect_near(ops::product(x, w), ops::product(wide(x), wide(w)), 1e-5, "x w^T");
  expect_near(ops::sum_and_product(y, x, w), ops::sum_and_product(y, wide(x), wide(w)), 1e-5, "y + x w^T");
  expect_near(ops::input_gradient(dy, w), ops::input_gradient(wide(dy), wide(w)), 1e-5, "dy w");
  at::Tensor exact = random({96, width});
  at::Tensor made = exact.clone();
  ops::weight_gradient(exact, wide(dy), wide(x), -1.0);
  ops::weight_gradient(made, dy, x, -1.0);
  expect_near(made, exact, 1e-5, "dw");
}

TEST_F(Bf16Products, OperandsAreRoundedToNearest) {
  at::Tensor x = random({3, 70});
  float* const values = x.mutable_data_ptr<float>();
  values[0] = 1.0F + 0x1p-8F;      // halfway: to even, down
  values[1] = 1.0F + 3 * 0x1p-8F;  // halfway: to even, up
  values[2] = 3.4028235e38F;       // beyond the largest
  values[3] = -std::numeric_limits<float>::infinity();
  values[4] = std::numeric_limits<float>::quiet_NaN();
  values[5] = -0.0F;
  const at::Tensor rounded = wide(ops::operand(x, bf16));
  EXPECT_TRUE(at::allclose(rounded, wide(x.to(bf16)), 0.0, 0.0, /*equal_nan=*/true)) << "as LibTorch rounds";
  EXPECT_EQ(rounded.const_data_ptr<float>()[0], 1.0F);
  EXPECT_TRUE(std::isinf(rounded.const_data_ptr<float>()[2]));
  EXPECT_TRUE(std::isnan(rounded.const_data_ptr<float>()[4]));
  EXPECT_EQ(ops::operand(x, at::kFloat).const_data_ptr(), x.const_data_ptr()) << "nothing to round";
}

// What makes an operand rounds what it would have made in fp32, and all else it makes is the same.
TEST_F(Bf16Products, OperandsAreMadeRounded) {
  const auto same = [](const at::Tensor& rounded_one, const at::Tensor& exact) {
    EXPECT_EQ(rounded_one.scalar_type(), bf16);
    EXPECT_TRUE(at::equal(rounded_one, exact.to(bf16)));
  };
  const at::Tensor x = random({rows, width});
  const at::Tensor w = random({width});
  const ops::Normed exact = ops::rms_norm(x, w, 1e-5, at::kFloat);
  same(ops::rms_norm(x, w, 1e-5, bf16).y, exact.y);
  at::Tensor dy = random({rows, width});
  at::Tensor dx = random({rows, width});
  at::Tensor dw = random({width});
  at::Tensor dy2 = dy.clone();
  at::Tensor dx2 = dx.clone();
  at::Tensor dw2 = dw.clone();
  ops::rms_norm_backward(x, w, exact.rstd, dy, dx, dw, at::kFloat);
  ops::rms_norm_backward(x, w, exact.rstd, dy2, dx2, dw2, bf16);
  same(dy2, dy);
  EXPECT_TRUE(at::equal(dx2, dx));
  EXPECT_TRUE(at::equal(dw2, dw));

  const at::Tensor gate_up = random({rows, 2 * width});
  same(ops::swiglu(gate_up, bf16), ops::swiglu(gate_up, at::kFloat));
  at::Tensor dout = random({rows, width});
  at::Tensor dout2 = dout.clone();
  same(ops::swiglu_backward(gate_up, dout2, bf16), ops::swiglu_backward(gate_up, dout, at::kFloat));
  same(dout2, dout);

  const std::vector<std::int32_t> targets = ids(rows, 300);
  at::Tensor logits = random({rows, 300});
  at::Tensor logits2 = logits.clone();
  const double sum = ops::cross_entropy(logits, targets, ops::Gradient::in_place, at::kFloat);
  EXPECT_EQ(ops::cross_entropy(logits2, targets, ops::Gradient::in_place, bf16), sum);
  same(logits2, logits);
}

// A whole stage on the device and in each precision against the same stage in fp32 on the CPU.
class StageElsewhere : public LibraryOps, public testing::WithParamInterface<at::ScalarType> {};

TEST_P(StageElsewhere, LearnsAsOnACpu) {
  ModelConfig model{.hidden_size = 64,
                    .intermediate_size = 96,
                    .num_hidden_layers = 2,
                    .num_attention_heads = 4,
                    .num_key_value_heads = 2,
                    .vocab_size = 200,
                    .max_position_embeddings = 64};
  model.tie_word_embeddings = true;
  StageConfig config{.model = model,
                     .layers = {0, 2},
                     .stage = 0,
                     .batch = {.sequences = 2, .seq_len = 64},
                     .optimizer = {.weight_decay = 0.1}};
  const std::vector<float> weights = draw_parameters(model, config.layers, 0, 5);
  StageModel here(config, weights, {});
  config.device = device_of_the_test();
  config.products = GetParam();
  StageModel elsewhere(config, weights, {});
  const double tolerance = GetParam() == at::kBFloat16 ? 1e-2 : 1e-5;
  for (Step step = 1; step <= 5; ++step) {
    const MicrobatchId id{.originator = {}, .boot = 1, .step = step, .index = 0};
    const TokenBatch tokens = ids(130, 200);
    double losses[2];
    double norms[2];
    for (int i = 0; i < 2; ++i) {
      StageModel& stage = i == 0 ? here : elsewhere;
      stage.begin(id, tokens, Pass::train);
      losses[i] = stage.loss(id, {}).sum;
      EXPECT_TRUE(stage.backward(id, {}).kept);
      const Stepped stepped = stage.step({.step = step, .learning_rate = 1e-3, .body_tokens = 128, .head_tokens = 128});
      EXPECT_TRUE(stepped.applied);
      norms[i] = stepped.gradient_norm;
    }
    EXPECT_NEAR(losses[1], losses[0], tolerance * losses[0]) << "step " << step;
    EXPECT_NEAR(norms[1], norms[0], 5 * tolerance * norms[0]) << "step " << step;
  }
  EXPECT_EQ(here.theta().size(), elsewhere.theta().size());
}

INSTANTIATE_TEST_SUITE_P(Precisions, StageElsewhere, testing::Values(at::kFloat, at::kBFloat16));

}  // namespace
}  // namespace starling::trainer
