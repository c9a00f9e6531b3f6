// The sections data and tokenizer of the run file.
#pragma once

#include <string>
#include <vector>

namespace starling::trainer {

struct DataConfig {
  std::vector<std::string> train;  // paths, globs and URLs
  std::vector<std::string> val;    // empty: the last 5 % of the training text is held out
  std::string format = "auto";     // auto | bin (llm.c) | uint16 | uint32 | text (byte tokenizer)
  std::string tokenizer = "byte";  // tokenizer.path: byte, or a tokenizer.json or *.model
};

}  // namespace starling::trainer
