// What the device needs to know of the run file. Torch-free; only a build with LibTorch defines it.
#pragma once

#include "launcher/run_config.h"
#include "trainer/torch/job_runner.h"

namespace starling::launcher {

// REQUIRES: config.validate() finds no error. `threads`: for one job of the device.
trainer::LearnerConfig learner_config(const RunConfig& config, trainer::DeviceType type, int threads);

}  // namespace starling::launcher
