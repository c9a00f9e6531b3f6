// In what type a worker multiplies when the run file says `auto`: measured, not guessed from the processor's name.
#pragma once

#include "gossip/base/env.h"
#include "trainer/torch/job_runner.h"

namespace starling::trainer {

// One block of the run's model both ways, over one sequence of at most 128 tokens, in fp32 and with bf16 products.
struct PrecisionMeasurement {
  double speedup = 1.0;  // time in fp32 / time with bf16 products, the best of three turns each
  double error = 0.0;    // norm of the difference of what the block adds to its input, of that in fp32
};
// Compute thread, under c10::InferenceMode; some tenths of a second at a billion parameters.
PrecisionMeasurement measure_precision(const ModelConfig& model, const TrainingConfig& training, const Clock& clock);

// bfloat16 when it is clearly faster and as accurate as rounded operands are. REQUIRES: nothing; pure.
Precision faster_precision(const PrecisionMeasurement& measured);

// Below this width the time goes elsewhere than to products, and the choice would hang on chance: float32.
inline constexpr std::int64_t narrowest_for_bf16 = 256;

}  // namespace starling::trainer
