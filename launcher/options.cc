#include "launcher/options.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <system_error>
#include <utility>

#include "gossip/base/printable.h"
#include "launcher/nearest.h"
#include "launcher/version.h"

namespace starling::launcher {
namespace {

namespace po = boost::program_options;

constexpr std::size_t max_shown_bytes = 60;
constexpr const char* arguments_name = " arguments";  // no flag can be called that

std::string shown(std::string_view text) { return printable(text, max_shown_bytes); }

template <typename T>
std::optional<T> parse(std::string_view text) {
  T out{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return out;
}

std::string synopsis(const Command& command) {
  std::string out = "starling " + command.name;
  for (const Argument& argument : command.arguments) {
    const bool optional = argument.presence == Argument::Presence::optional;
    out += optional ? " [" + argument.name + "]" : " " + argument.name;
    if (argument.presence == Argument::Presence::repeated) out += "...";
  }
  for (const Flag& flag : command.flags) {
    out += fmt::format(" [--{}{}]{}", flag.name, flag.value_name.empty() ? "" : " " + flag.value_name,
                       flag.kind == Flag::Kind::list ? "..." : "");
  }
  return out;
}

// Two columns, the first as wide as its widest entry.
std::string columns(const std::vector<std::pair<std::string, std::string>>& rows) {
  std::size_t width = 0;
  for (const auto& [left, right] : rows) width = std::max(width, left.size());
  std::string out;
  for (const auto& [left, right] : rows) out += fmt::format("  {:<{}}  {}\n", left, width, right);
  return out;
}

std::string help_of(const Command& command) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Argument& argument : command.arguments) rows.emplace_back(argument.name, argument.help);
  for (const Flag& flag : command.flags) {
    const std::string letter = flag.letter == '\0' ? "" : fmt::format("-{}, ", flag.letter);
    rows.emplace_back(
        fmt::format("{}--{}{}", letter, flag.name, flag.value_name.empty() ? "" : " " + flag.value_name), flag.help);
  }
  rows.emplace_back("--help", "print this");
  return fmt::format("{}\n\n{}\n\n{}{}", synopsis(command), command.summary, columns(rows),
                     command.details.empty() ? "" : "\n" + command.details + "\n");
}

std::string help_of(std::span<const Command> commands) {
  std::vector<std::pair<std::string, std::string>> rows;
  for (const Command& command : commands) rows.emplace_back(command.name, command.summary);
  return fmt::format(
      "starling trains language models on machines that come and go.\n\nstarling COMMAND ...\n\n{}\n"
      "'starling COMMAND --help' says what a command takes; 'starling --version' prints the version.\n"
      "Exit codes: 0 ok, 1 failed, 2 wrong command line, 3 wrong configuration, 4 cannot reach or authenticate,\n"
      "5 a check found problems, 130 interrupted.\n",
      columns(rows));
}

}  // namespace

// Parses what follows a command's name. Everything wrong with it is found in one go, as problems().
class CommandLine {
 public:
  CommandLine(const Command& command, Options& options) : command_(command), options_(options) {}

  void read(const std::vector<std::string>& arguments) {
    try {
      po::options_description known;
      known.add_options()("help,h", po::bool_switch());
      known.add_options()(arguments_name, po::value<std::vector<std::string>>());
      for (const Flag& flag : command_.flags) declare(flag, known);
      po::positional_options_description positional;
      positional.add(arguments_name, -1);
      const int style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
      const auto parsed = po::command_line_parser(arguments)
                              .options(known)
                              .positional(positional)
                              .style(style)
                              .allow_unregistered()
                              .run();
      refuse_unknown(parsed);
      po::variables_map values;
      po::store(parsed, values);
      wants_help_ = values["help"].as<bool>();
      if (wants_help_ || !problems_.empty()) return;
      take_flags(values);
      take_arguments(values);
    } catch (const po::error& failure) {
      problems_.push_back(shown_error(failure));
    }
  }

  bool wants_help() const { return wants_help_; }
  const std::vector<std::string>& problems() const { return problems_; }

 private:
  static void declare(const Flag& flag, po::options_description& known) {
    const std::string name = flag.letter == '\0' ? flag.name : fmt::format("{},{}", flag.name, flag.letter);
    if (flag.kind == Flag::Kind::toggle) {
      known.add_options()(name.c_str(), po::bool_switch());
    } else if (flag.kind == Flag::Kind::list) {
      known.add_options()(name.c_str(), po::value<std::vector<std::string>>());
    } else {
      known.add_options()(name.c_str(), po::value<std::string>());
    }
  }

  static std::string shown_error(const po::error& failure) { return printable(failure.what(), 200); }

  void refuse_unknown(const po::parsed_options& parsed) {
    std::vector<std::string> names{"--help"};
    for (const Flag& flag : command_.flags) names.push_back("--" + flag.name);
    for (const auto& option : parsed.options) {
      if (!option.unregistered) continue;
      std::string name = option.original_tokens.empty() ? option.string_key : option.original_tokens.front();
      name.resize(std::min(name.find('='), name.size()));
      problems_.push_back(fmt::format("unknown flag '{}'{}", shown(name), did_you_mean(name, names)));
    }
  }

  void take_flags(const po::variables_map& values) {
    for (const Flag& flag : command_.flags) {
      auto& given = options_.flags_[flag.name];
      const auto& value = values[flag.name];
      if (flag.kind == Flag::Kind::toggle) {
        if (value.as<bool>()) given.emplace_back();
      } else if (value.empty()) {
        continue;
      } else if (flag.kind == Flag::Kind::list) {
        given = value.as<std::vector<std::string>>();
      } else {
        given = {value.as<std::string>()};
        check_value(flag, given.front());
      }
    }
  }

  void check_value(const Flag& flag, const std::string& text) {
    if (flag.kind == Flag::Kind::integer && !parse<std::int64_t>(text)) {
      problems_.push_back(fmt::format("--{}: expected an integer, got '{}'", flag.name, shown(text)));
    }
    if (flag.kind == Flag::Kind::number && !parse<double>(text)) {
      problems_.push_back(fmt::format("--{}: expected a number, got '{}'", flag.name, shown(text)));
    }
  }

  void take_arguments(const po::variables_map& values) {
    std::vector<std::string> given;
    if (const auto& value = values[arguments_name]; !value.empty()) given = value.as<std::vector<std::string>>();
    for (std::size_t i = 0; i < command_.arguments.size(); ++i) {
      const Argument& argument = command_.arguments[i];
      auto& values_of = options_.arguments_[argument.name];
      if (i < given.size()) values_of = {given[i]};
      if (i >= given.size() && argument.presence != Argument::Presence::optional) {
        problems_.push_back(fmt::format("{} is missing: {}", argument.name, argument.help));
      }
      if (argument.presence == Argument::Presence::repeated && i < given.size()) {
        values_of.assign(given.begin() + static_cast<std::ptrdiff_t>(i), given.end());
        return;
      }
    }
    for (std::size_t i = command_.arguments.size(); i < given.size(); ++i) {
      problems_.push_back(fmt::format("unexpected argument '{}'", shown(given[i])));
    }
  }

  const Command& command_;
  Options& options_;
  std::vector<std::string> problems_;
  bool wants_help_ = false;
};

const std::vector<std::string>& Options::given(std::string_view flag) const {
  const auto found = flags_.find(flag);
  STARLING_CHECK(found != flags_.end(), "a command asks only for flags that it declares");
  return found->second;
}

bool Options::has(std::string_view flag) const { return !given(flag).empty(); }

std::optional<std::string> Options::text(std::string_view flag) const {
  const auto& values = given(flag);
  return values.empty() ? std::nullopt : std::optional(values.front());
}

std::optional<std::int64_t> Options::integer(std::string_view flag) const {
  const auto value = text(flag);
  return value ? parse<std::int64_t>(*value) : std::nullopt;
}

std::optional<double> Options::number(std::string_view flag) const {
  const auto value = text(flag);
  return value ? parse<double>(*value) : std::nullopt;
}

std::vector<std::string> Options::list(std::string_view flag) const { return given(flag); }

std::string Options::argument(std::string_view name) const {
  const auto found = arguments_.find(name);
  STARLING_CHECK(found != arguments_.end(), "a command asks only for arguments that it declares");
  return found->second.empty() ? std::string() : found->second.front();
}

std::vector<std::string> Options::arguments(std::string_view name) const {
  const auto found = arguments_.find(name);
  STARLING_CHECK(found != arguments_.end(), "a command asks only for arguments that it declares");
  return found->second;
}

Flag set_flag() {
  return {"set", Flag::Kind::list, "KEY=VALUE", "overrides a value of the run file, such as training.max_steps=100"};
}

ExitCode run_command_line(std::span<const Command> commands, const std::vector<std::string>& arguments,
                          const Environment& environment, std::ostream& out, std::ostream& err) {
  if (arguments.empty()) {
    err << help_of(commands);
    return ExitCode::usage;
  }
  const std::string& name = arguments.front();
  if (name == "--help" || name == "-h" || name == "help") {
    out << help_of(commands);
    return ExitCode::ok;
  }
  if (name == "--version") {
    out << "starling " << version() << "\n";
    return ExitCode::ok;
  }
  const auto command = std::find_if(commands.begin(), commands.end(), [&](const Command& c) { return c.name == name; });
  if (command == commands.end()) {
    std::vector<std::string> names{"--help", "--version"};
    for (const Command& each : commands) names.push_back(each.name);
    err << fmt::format("starling: unknown {} '{}'{}\n'starling --help' lists the commands\n",
                       name.starts_with('-') ? "flag" : "command", shown(name), did_you_mean(name, names));
    return ExitCode::usage;
  }
  Options options(environment, out, err);
  CommandLine line(*command, options);
  line.read({arguments.begin() + 1, arguments.end()});
  if (line.wants_help()) {
    out << help_of(*command);
    return ExitCode::ok;
  }
  if (line.problems().empty()) return command->run(options);
  for (const std::string& problem : line.problems()) err << fmt::format("starling {}: {}\n", command->name, problem);
  err << fmt::format("'starling {} --help' says what it takes\n", command->name);
  return ExitCode::usage;
}

}  // namespace starling::launcher
