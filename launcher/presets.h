// The run files of configs/ that `starling init` can write. They are built into the program, so it needs no folder of its
// own once it is installed.
#pragma once

#include <span>
#include <string_view>

namespace starling::launcher {

struct Preset {
  std::string_view name;
  std::string_view text;

  // The first line of its text, which says what it is for.
  std::string_view summary() const;
};

// The first is the default. (The table is generated from the files: presets.cc.in.)
std::span<const Preset> presets();

}  // namespace starling::launcher
