// starling tokenize IN... --out PREFIX [--tokenizer PATH] [--format bin|uint16|uint32] [--documents file|line|jsonl]
//   [--separator TEXT] [--shard-tokens N] [--special-names] [--threads N] [--fresh] [--json]
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command tokenize_command();

}  // namespace starling::launcher
