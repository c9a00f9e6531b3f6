#include "launcher/problem.h"

#include <fmt/format.h>

#include <algorithm>

namespace starling::launcher {
namespace {

constexpr std::size_t max_described = 40;

}  // namespace

std::string Problem::text() const {
  const std::string where = at.line > 0 ? fmt::format("{}:{}:{}", source, at.line, at.column) : source;
  return fmt::format("{}: {}{}", where, severity == Severity::warning ? "warning: " : "", message);
}

bool has_errors(const std::vector<Problem>& problems) {
  return std::any_of(problems.begin(), problems.end(),
                     [](const Problem& problem) { return problem.severity == Severity::error; });
}

std::string describe(const std::vector<Problem>& problems) {
  std::string out;
  for (std::size_t i = 0; i < std::min(problems.size(), max_described); ++i) out += problems[i].text() + "\n";
  if (problems.size() > max_described) out += fmt::format("... and {} more\n", problems.size() - max_described);
  return out;
}

}  // namespace starling::launcher
