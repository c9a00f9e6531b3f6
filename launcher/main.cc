// The process: argv, environment and streams go in, an exit code comes out. The only file that looks at the environment.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
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

// Threads of a matrix product wait for the next one by spinning, by default for some 15 ms: on a machine that has other
// work, that work then stands still, and they with it. GNU's OpenMP reads how long before main() begins, so a command that
// computes with several threads starts once more; the workers that it starts inherit the setting.
void spin_briefly(const std::vector<std::string>& arguments, char** argv) {
  constexpr const char* spins = "3000";  // some 150 us
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.starts_with("OMP_WAIT_POLICY=") || text.starts_with("GOMP_SPINCOUNT=")) return;
  }
  if (::setenv("GOMP_SPINCOUNT", spins, 1) != 0 || arguments.empty()) return;
  const std::string& command = arguments.front();
  // Where /proc is missing the command goes on as it is: slower, no more.
  if (command == "join" || command == "eval" || command == "generate") ::execv("/proc/self/exe", argv);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
    spin_briefly(arguments, argv);
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
