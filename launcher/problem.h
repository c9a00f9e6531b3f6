// What is wrong with a run file, an override or the configuration as a whole, and where.
#pragma once

#include <string>
#include <vector>

namespace starling::launcher {

// A place in a text; both count from 1. 0: the text as a whole.
struct Position {
  int line = 0;
  int column = 0;
  auto operator<=>(const Position&) const = default;
};

enum class Severity { error, warning };

// An error means that nothing starts. A warning is printed, and the run starts.
struct Problem {
  Severity severity = Severity::error;
  std::string source;  // "run.yaml", "STARLING_OUTER_LR=x" or "--set outer.lr=x"
  Position at;         // inside of a file only
  std::string message;

  // "run.yaml:37:3: unknown key 'optimizer.learning_rate' (did you mean 'lr'?)"
  std::string text() const;
};

bool has_errors(const std::vector<Problem>& problems);

// One problem a line, warnings marked as such. More than 40 are cut, and it says how many were.
std::string describe(const std::vector<Problem>& problems);

}  // namespace starling::launcher
