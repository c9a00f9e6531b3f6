#include "launcher/commands.h"

#include "launcher/init.h"
#include "launcher/validate.h"

namespace starling::launcher {

std::span<const Command> all_commands() {
  static const std::vector<Command> commands{
      init_command(),
      validate_command(),
  };
  return commands;
}

}  // namespace starling::launcher
