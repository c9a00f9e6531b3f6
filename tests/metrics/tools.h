// Programs of Prometheus that tests run. launcher/setup.sh unpacks them beside the sources; any on the PATH will do.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace starling::metrics {

// "promtool", "prometheus": where it lies, or "" when it is not installed.
inline std::string find_tool(const std::string& name) {
  const char* source = std::getenv("STARLING_TEST_SOURCE_DIR");
  if (source != nullptr) {
    const std::filesystem::path ours = std::filesystem::path(source) / ".deps" / "prometheus" / name;
    if (std::filesystem::exists(ours)) return ours.string();
  }
  return std::system(("command -v " + name + " > /dev/null").c_str()) == 0 ? name : "";
}

}  // namespace starling::metrics
