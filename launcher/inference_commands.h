// starling generate CKPT -p TEXT and starling eval CKPT: what they take. What they do stands in generate.cc and eval.cc,
// which only a build with LibTorch has.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command generate_command();
Command eval_command();

ExitCode run_generate(const Options& options);
ExitCode run_eval(const Options& options);

}  // namespace starling::launcher
