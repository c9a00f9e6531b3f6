// The command line: a table of commands, each with its arguments and flags, read by one parser. A command declares what it
// takes and gets an Options in which every value has been checked; it never sees argv, and nothing else here knows
// Boost.Program_options.
//
// Results go to `out`, everything else (progress, warnings, errors) to `err`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/config_yaml.h"
#include "launcher/exit_code.h"

namespace starling::launcher {

struct Flag {
  enum class Kind { toggle, text, integer, number, list };  // list: may be given more than once
  std::string name;                                         // without the dashes
  Kind kind = Kind::toggle;
  std::string value_name;  // "N", for the help; empty for a toggle
  std::string help;
  char letter = '\0';  // 'p' for -p
};

struct Argument {
  enum class Presence { required, optional, repeated };  // repeated: once or more often, as the last one
  std::string name;
  Presence presence = Presence::required;
  std::string help;
};

// What the user gave to one command. Asking for a flag that the command does not declare is a bug.
class Options {
 public:
  Options(const Environment& environment, std::ostream& out, std::ostream& err)
      : environment_(environment), out_(out), err_(err) {}

  bool has(std::string_view flag) const;
  std::optional<std::string> text(std::string_view flag) const;
  std::optional<std::int64_t> integer(std::string_view flag) const;
  std::optional<double> number(std::string_view flag) const;
  std::vector<std::string> list(std::string_view flag) const;
  // The value of an argument; empty when an optional one was left out.
  std::string argument(std::string_view name) const;
  // All values of a repeated argument.
  std::vector<std::string> arguments(std::string_view name) const;

  const Environment& environment() const { return environment_; }
  // Of a command that reads a run file and has the flag `set`.
  Overrides overrides() const { return {environment_, list("set")}; }
  std::ostream& out() const { return out_; }
  std::ostream& err() const { return err_; }

 private:
  friend class CommandLine;
  const std::vector<std::string>& given(std::string_view flag) const;

  std::map<std::string, std::vector<std::string>, std::less<>> flags_;      // every declared flag
  std::map<std::string, std::vector<std::string>, std::less<>> arguments_;  // every declared argument
  const Environment& environment_;
  std::ostream& out_;
  std::ostream& err_;
};

struct Command {
  std::string name;
  std::string summary;  // one line, for the list of commands
  std::string details;  // paragraphs below it in the command's own help; may be empty
  std::vector<Argument> arguments;
  std::vector<Flag> flags;
  ExitCode (*run)(const Options&) = nullptr;
};

// The flag of every command that reads a run file: --set section.key=value.
Flag set_flag();

// Reads `arguments` (without the program's name), runs what they ask for and returns its exit code. `--help`, `--version`
// and mistakes on the command line (exit code 2, with the nearest name) are dealt with here.
ExitCode run_command_line(std::span<const Command> commands, const std::vector<std::string>& arguments,
                          const Environment& environment, std::ostream& out, std::ostream& err);

}  // namespace starling::launcher
