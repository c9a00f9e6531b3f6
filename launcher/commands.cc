#include "launcher/commands.h"

#include "launcher/inference_commands.h"
#include "launcher/init.h"
#include "launcher/join.h"
#include "launcher/launch.h"
#include "launcher/plan_command.h"
#include "launcher/status_command.h"
#include "launcher/tokenize_command.h"
#include "launcher/validate.h"

namespace starling::launcher {

std::span<const Command> all_commands() {
  static const std::vector<Command> commands{
      init_command(),
      validate_command(),
      launch_command(),
      join_command(),
      status_command(),
      plan_command(),
      tokenize_command(),
      generate_command(),
      eval_command(),
  };
  return commands;
}

}  // namespace starling::launcher
