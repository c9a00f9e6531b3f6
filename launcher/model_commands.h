// starling export and starling import: between runs and model directories as transformers keeps them.
#pragma once

#include "launcher/options.h"

namespace starling::launcher {

Command export_command();
Command import_command();

}  // namespace starling::launcher
