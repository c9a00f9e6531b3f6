#include "launcher/inference_commands.h"

#include <utility>

#include "launcher/trained_model.h"

namespace starling::launcher {
namespace {

std::vector<Flag> with_model_flags(std::vector<Flag> flags) {
  for (Flag& flag : trained_model_flags()) flags.push_back(std::move(flag));
  return flags;
}

constexpr const char* exit_codes =
    "Exit code 1: files are missing, damaged or lack tensors, or weights are not finite; 2: the command line, a "
    "prompt\n"
    "that is too long for the model included; 3: config.json is not a model of ours, or the tokenizer does not fit it.";

}  // namespace

Command generate_command() {
  return {
      "generate",
      "go on with a text, as the model of a checkpoint would",
      std::string(
          "Prints the prompt and what follows it, character by character. The same seed gives the same text. CKPT may\n"
          "also be a run's directory: its newest checkpoint that holds is taken. A text ends with an end-of-text "
          "token,\n"
          "with --max-tokens, or where the model has no more positions.\n\n") +
          exit_codes,
      {checkpoint_argument()},
      with_model_flags({{"prompt", Flag::Kind::text, "TEXT", "the beginning of the text", 'p'},
                        {"max-tokens", Flag::Kind::integer, "N", "tokens to generate, at most; default 256"},
                        {"temperature", Flag::Kind::number, "T", "0: always the likeliest token; default 0.8"},
                        {"top-k", Flag::Kind::integer, "K", "draw among the K likeliest tokens; default 0, all"},
                        {"top-p", Flag::Kind::number, "P",
                         "draw among the fewest tokens with a probability of P together; default 1, all"},
                        {"seed", Flag::Kind::integer, "N", "where chance begins; default 0"}}),
      run_generate};
}

Command eval_command() {
  return {
      "eval",
      "measure the validation loss of a checkpoint",
      std::string(
          "The mean over all tokens of windows that do not overlap, in nats. Without --data and --val, the windows and "
          "the\n"
          "data of the run's own evaluation. CKPT may also be a run's directory: its newest checkpoint that holds is\n"
          "taken. With --skip-stages: what the model still knows without them.\n\n") +
          exit_codes,
      {checkpoint_argument()},
      with_model_flags(
          {{"data", Flag::Kind::list, "FILE",
            "text or tokens, of which training holds the last 5 % out: these are used"},
           {"val", Flag::Kind::list, "FILE", "text or tokens, of which all is used"},
           {"format", Flag::Kind::text, "FORMAT", "of these files: auto, bin, uint16 or text; default auto"},
           {"seq-len", Flag::Kind::integer, "T",
            "tokens in a window; default the run's, else 1024 or what the model has"},
           {"windows", Flag::Kind::integer, "N", "windows, at most; default those of the run, else all"}}),
      run_eval};
}

}  // namespace starling::launcher
