// What a device multiplies at, measured and not guessed from its name: which type is faster when the run file says `auto`,
// and the speed that a worker's utilization is of.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

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

// bfloat16 when it is clearly faster and as accurate as rounded operands are.
Precision faster_precision(const PrecisionMeasurement& measured);

// Floating-point operations per second of one matrix product on the calling thread's threads, the best of some turns: 512 x
// 512 x 1,024 on a CPU, 4,096 x 4,096 x 4,096 elsewhere. Compute thread; some hundredths of a second.
double measure_matrix_flops(at::Device device, at::ScalarType type, const Clock& clock);

}  // namespace starling::trainer
