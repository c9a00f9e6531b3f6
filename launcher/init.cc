#include "launcher/init.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "gossip/base/printable.h"
#include "launcher/nearest.h"
#include "launcher/presets.h"

namespace starling::launcher {
namespace {

constexpr const char* default_output = "run.yaml";

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Creates `path`; a file that is there already is never touched.
Status write_new(const std::string& path, std::string_view text) {
  const auto os_error = [&] {
    return fail(ErrorCode::io, fmt::format("cannot write '{}': {}", path, std::strerror(errno)));
  };
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "wx"));  // x: fails when it exists
  if (!file && errno == EEXIST) {
    return fail(ErrorCode::failed,
                fmt::format("'{}' is there already and is left as it is; name another file with --output FILE", path));
  }
  if (!file) return os_error();
  if (std::fwrite(text.data(), 1, text.size(), file.get()) != text.size() || std::fflush(file.get()) != 0) {
    auto error = os_error();
    std::remove(path.c_str());
    return error;
  }
  return {};
}

std::string list_of_presets() {
  std::string out = "Presets:\n";
  for (const Preset& preset : presets()) out += fmt::format("  {:<12}  {}\n", preset.name, preset.summary());
  out.pop_back();
  return out;
}

ExitCode run_init(const Options& options) {
  const std::string name = options.text("preset").value_or(std::string(presets().front().name));
  const auto preset =
      std::find_if(presets().begin(), presets().end(), [&](const Preset& each) { return each.name == name; });
  if (preset == presets().end()) {
    std::vector<std::string> names;
    for (const Preset& each : presets()) names.emplace_back(each.name);
    options.err() << fmt::format("starling init: unknown preset '{}'{}\n{}\n", printable(name, 60),
                                 did_you_mean(name, names), list_of_presets());
    return ExitCode::usage;
  }
  const std::string output = options.text("output").value_or(default_output);
  if (output == "-") {
    options.out() << preset->text;
    return ExitCode::ok;
  }
  if (const Status written = write_new(output, preset->text); !written) {
    options.err() << "starling init: " << written.error().message << "\n";
    return exit_code_of(written.error().code);
  }
  options.out() << output << "\n";
  options.err() << fmt::format("wrote the preset {}; next: starling validate {}\n", preset->name, output);
  return ExitCode::ok;
}

}  // namespace

Command init_command() {
  return {"init",
          "write a commented run file to begin with",
          list_of_presets() + "\n\nA file that is there already is never overwritten.",
          {},
          {{"preset", Flag::Kind::text, "NAME", fmt::format("which run file to write ({})", presets().front().name)},
           {"output", Flag::Kind::text, "FILE", fmt::format("where to ({}); - for stdout", default_output)}},
          run_init};
}

}  // namespace starling::launcher
