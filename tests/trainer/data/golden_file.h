// A file of tests/golden, as text.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace starling::trainer {

inline std::string golden_path(const std::string& name) {
  return (std::filesystem::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden" / name).string();
}

inline std::string golden_text(const std::string& name) {
  std::ifstream file(golden_path(name), std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace starling::trainer
