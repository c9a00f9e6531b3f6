// The process: argv, environment and streams go in, an exit code comes out. The only file that looks at the environment.
#include <unistd.h>

#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/commands.h"

namespace {

using starling::launcher::Environment;
using starling::launcher::ExitCode;

Environment own_environment() {
  Environment out;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (!text.starts_with("STARLING_") || equals == std::string_view::npos) continue;
    out.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
    ExitCode code = starling::launcher::run_command_line(starling::launcher::all_commands(), arguments,
                                                         own_environment(), std::cout, std::cerr);
    std::cout.flush();
    if (!std::cout && code == ExitCode::ok) {
      std::cerr << "starling: the result could not be written to stdout\n";
      code = ExitCode::failed;
    }
    return static_cast<int>(code);
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "starling: %s\n", failure.what());
    return static_cast<int>(ExitCode::failed);
  }
}
