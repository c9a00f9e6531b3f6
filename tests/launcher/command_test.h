// Runs the program's own commands in a directory of the test's own.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "launcher/init.h"
#include "launcher/validate.h"

namespace starling::launcher {

class CommandTest : public testing::Test {
 protected:
  struct Outcome {
    ExitCode code = ExitCode::ok;
    std::string out;
    std::string err;
  };

  CommandTest() { std::filesystem::create_directories(directory_); }
  ~CommandTest() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
    return path(name);
  }

  std::string read(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path(name), std::ios::binary).rdbuf();
    return text.str();
  }

  static Outcome run(const std::vector<std::string>& arguments, const Environment& environment = {}) {
    std::ostringstream out;
    std::ostringstream err;
    const std::vector<Command> commands{init_command(), validate_command()};
    const ExitCode code = run_command_line(commands, arguments, environment, out, err);
    return {code, out.str(), err.str()};
  }

 private:
  std::filesystem::path directory_ =
      std::filesystem::temp_directory_path() / ("starling_command_test." + std::to_string(::getpid()));
};

}  // namespace starling::launcher
