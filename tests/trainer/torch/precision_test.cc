#include "trainer/torch/precision.h"

#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <limits>

namespace starling::trainer {
namespace {

// Every other look is the end of a turn: fp32 takes three times what bf16 takes, and the first turn of each far more.
class ScriptedClock final : public Clock {
 public:
  TimePoint now() const override {
    const int look = looks_++;
    if (look % 2 == 1) now_ += std::chrono::milliseconds((look % 4 == 1 ? 30 : 10) + (look < 4 ? 500 : 0));
    return now_;
  }
  double unix_seconds() const override { return 0.0; }

 private:
  mutable int looks_ = 0;
  mutable TimePoint now_{};
};

TEST(Precision, IsMeasuredAsTheBestOfSeveralTurns) {
  const c10::InferenceMode no_autograd;
  const ModelConfig model{.hidden_size = 64,
                          .intermediate_size = 128,
                          .num_hidden_layers = 3,
                          .num_attention_heads = 4,
                          .num_key_value_heads = 2,
                          .vocab_size = 50,
                          .max_position_embeddings = 512};
  TrainingConfig training;
  training.seq_len = 512;
  const ScriptedClock clock;
  const PrecisionMeasurement measured = measure_precision(model, training, clock);
  EXPECT_DOUBLE_EQ(measured.speedup, 3.0);
  EXPECT_GT(measured.error, 1e-4) << "bf16 products round their operands";
  EXPECT_LT(measured.error, 0.02);
}

TEST(Precision, TakesBf16WhenItIsClearlyFasterAndAccurate) {
  EXPECT_EQ(faster_precision({.speedup = 1.8, .error = 0.005}), Precision::bfloat16);
  EXPECT_EQ(faster_precision({.speedup = 1.1, .error = 0.005}), Precision::float32);
  EXPECT_EQ(faster_precision({.speedup = 0.4, .error = 0.005}), Precision::float32);
  EXPECT_EQ(faster_precision({.speedup = 5.0, .error = 0.1}), Precision::float32);
  EXPECT_EQ(faster_precision({.speedup = 5.0, .error = std::numeric_limits<double>::quiet_NaN()}), Precision::float32);
}

}  // namespace
}  // namespace starling::trainer
