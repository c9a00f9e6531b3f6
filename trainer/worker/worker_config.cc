#include "trainer/worker/worker_config.h"

#include <limits>

namespace starling::trainer {

Step WorkerConfig::last_step() const {
  if (training.max_steps) return *training.max_steps;
  if (!training.max_tokens) return std::numeric_limits<Step>::max() / 2;
  const std::int64_t per_step = training.tokens_per_microbatch() * training.microbatches * parallelism.replicas;
  return (*training.max_tokens + per_step - 1) / per_step;
}

}  // namespace starling::trainer
