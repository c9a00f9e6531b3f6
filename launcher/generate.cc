// What starling generate does, on a device.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "gossip/base/printable.h"
#include "gossip/base/real_env.h"
#include "launcher/inference_commands.h"
#include "launcher/trained_model.h"
#include "trainer/torch/generator.h"
#include "trainer/torch/sampler.h"

namespace starling::launcher {
namespace {

using trainer::TokenIds;
using trainer::Tokenizer;

constexpr std::int64_t default_max_tokens = 256;
// Below this a thread has less to do between two meetings than a meeting costs on a machine that has other work.
constexpr std::size_t parameters_per_thread = 4'000'000;

struct Request {
  std::string prompt;
  std::int64_t max_tokens = default_max_tokens;
  trainer::SamplingConfig sampling;
};

Result<Request> request_of(const Options& options) {
  Request out;
  const auto prompt = options.text("prompt");
  if (!prompt) return fail(ErrorCode::usage, "--prompt (or -p) is missing: the beginning of the text");
  out.prompt = *prompt;
  out.max_tokens = options.integer("max-tokens").value_or(default_max_tokens);
  if (out.max_tokens < 1) {
    return fail(ErrorCode::usage, fmt::format("--max-tokens: expected a number from 1 up, got {}", out.max_tokens));
  }
  const std::int64_t seed = options.integer("seed").value_or(0);
  if (seed < 0) return fail(ErrorCode::usage, fmt::format("--seed: expected a number from 0 up, got {}", seed));
  out.sampling.seed = static_cast<std::uint64_t>(seed);
  out.sampling.temperature = options.number("temperature").value_or(out.sampling.temperature);
  out.sampling.top_k = options.integer("top-k").value_or(out.sampling.top_k);
  out.sampling.top_p = options.number("top-p").value_or(out.sampling.top_p);
  if (const auto problems = out.sampling.validate(); !problems.empty()) {
    return fail(ErrorCode::usage, "--" + problems.front());
  }
  return out;
}

// The prompt's tokens, after the one that begins a text where the tokenizer has such a one.
Result<TokenIds> prompt_ids(const Tokenizer& tokenizer, const std::string& prompt, const trainer::ModelConfig& model) {
  auto ids = tokenizer.encode(prompt);
  if (!ids) return fail(ErrorCode::usage, "--prompt: " + ids.error().message);
  const auto begin = tokenizer.begin_of_text();
  if (begin && (ids->empty() || ids->front() != *begin)) ids->insert(ids->begin(), *begin);
  if (ids->empty()) return fail(ErrorCode::usage, "--prompt: expected a text, got none");
  const auto count = static_cast<std::int64_t>(ids->size());
  if (count >= model.max_position_embeddings) {
    return fail(ErrorCode::usage,
                fmt::format("--prompt: its {} tokens leave no room for another: the model has {} positions "
                            "(max_position_embeddings); give at most {} tokens",
                            count, model.max_position_embeddings, model.max_position_embeddings - 1));
  }
  return ids;
}

enum class Stopped { end_of_text, max_tokens, positions, no_reader };
std::string_view to_string(Stopped why) {
  switch (why) {
    case Stopped::end_of_text:
      return "end_of_text";
    case Stopped::max_tokens:
      return "max_tokens";
    case Stopped::positions:
      return "max_position_embeddings";
    case Stopped::no_reader:
      return "no_reader";
  }
  return "";
}

struct Generated {
  TokenIds ids;  // with the end of text
  std::string text;
  Stopped stopped = Stopped::max_tokens;
  double prompt_seconds = 0.0;  // to the first token
  double seconds = 0.0;         // for all that follow it
  double tokens_per_second() const {
    return ids.size() > 1 && seconds > 0.0 ? static_cast<double>(ids.size() - 1) / seconds : 0.0;
  }
};

bool ends_text(const Tokenizer& tokenizer, const trainer::SpecialIds& special, std::int32_t id) {
  if (!special.eos.empty()) return std::ranges::count(special.eos, id) > 0;
  return tokenizer.end_of_text() == id;
}

// What a model writes may be anything; a terminal obeys control characters.
std::string for_terminal(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t bytes = std::max<std::size_t>(utf8_length(text), 1);
    const auto first = static_cast<unsigned char>(text[0]);
    const bool control = (first < 0x20 && first != '\n' && first != '\t') || first == 0x7f ||
                         (first == 0xc2 && static_cast<unsigned char>(text[1]) < 0xa0);
    out += control ? "\xef\xbf\xbd" : text.substr(0, bytes);
    text.remove_prefix(bytes);
  }
  return out;
}

// Shows a text as it comes. `out` null: it is only gathered.
class Printer {
 public:
  explicit Printer(std::ostream* out) : out_(out), terminal_(out != nullptr && ::isatty(STDOUT_FILENO) == 1) {}
  // False: nobody reads any more.
  bool print(std::string_view text) {
    if (out_ == nullptr || text.empty()) return true;
    *out_ << (terminal_ ? for_terminal(text) : text) << std::flush;
    return static_cast<bool>(*out_);
  }

 private:
  std::ostream* out_;
  bool terminal_;
};

Result<Generated> generate(const TrainedModel& trained, const Tokenizer& tokenizer, const TokenIds& prompt,
                           const Request& request, int threads, Printer printer) {
  const auto read = static_cast<std::int64_t>(prompt.size());
  const std::int64_t room = trained.model.max_position_embeddings - read;
  const std::int64_t most = std::min(request.max_tokens, room);
  Generated out;
  out.stopped = most < request.max_tokens ? Stopped::positions : Stopped::max_tokens;
  trainer::Generator generator(trained.model, trained.weights, read + most, threads);
  trainer::Sampler sampler(request.sampling);
  trainer::TextStream stream(tokenizer);
  std::string shown;
  for (const std::int32_t id : prompt) shown += stream.next(id);
  if (!printer.print(shown)) out.stopped = Stopped::no_reader;

  const RealClock clock;
  const TimePoint begin = clock.now();
  TimePoint first_token = begin;
  std::span<const float> logits = generator.begin(prompt);
  while (out.stopped != Stopped::no_reader) {
    const auto id = sampler.next(logits);
    if (!id) return tl::unexpected(id.error());
    if (out.ids.empty()) first_token = clock.now();
    out.ids.push_back(*id);
    if (ends_text(tokenizer, trained.special, *id)) {
      out.stopped = Stopped::end_of_text;
      break;
    }
    const std::string text = stream.next(*id);
    out.text += text;
    if (!printer.print(text)) out.stopped = Stopped::no_reader;
    if (static_cast<std::int64_t>(out.ids.size()) == most) break;
    logits = generator.next(*id);
  }
  out.prompt_seconds = seconds(first_token - begin);
  out.seconds = seconds(clock.now() - first_token);
  const std::string rest = stream.finish();
  out.text += rest;
  if (!printer.print(rest + "\n")) out.stopped = Stopped::no_reader;
  return out;
}

std::string to_json(const TrainedModel& trained, const Request& request, const TokenIds& prompt,
                    const Generated& made) {
  nlohmann::ordered_json out;
  out["checkpoint"] = trained.directory.string();
  if (trained.step) out["step"] = *trained.step;
  out["stages"] = trained.stages;
  out["skipped_stages"] = trained.skipped;
  out["prompt"] = request.prompt;
  out["text"] = made.text;
  out["prompt_tokens"] = prompt;
  out["tokens"] = made.ids;
  out["stopped"] = to_string(made.stopped);
  out["temperature"] = request.sampling.temperature;
  out["top_k"] = request.sampling.top_k;
  out["top_p"] = request.sampling.top_p;
  out["seed"] = request.sampling.seed;
  out["prompt_seconds"] = made.prompt_seconds;
  out["seconds"] = made.seconds;
  out["tokens_per_second"] = made.tokens_per_second();
  // A prompt and a path need not be UTF-8.
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

ExitCode run_generate(const Options& options) {
  const auto request = request_of(options);
  if (!request) return complain(options, "generate", request.error());
  const auto threads = threads_of(options);
  if (!threads) return complain(options, "generate", threads.error());
  const auto trained = open_trained_model(options);
  if (!trained) return complain(options, "generate", trained.error());
  const auto tokenizer = tokenizer_of(options, *trained);
  if (!tokenizer) return complain(options, "generate", tokenizer.error());
  const auto prompt = prompt_ids(**tokenizer, request->prompt, trained->model);
  if (!prompt) return complain(options, "generate", prompt.error());

  const int useful = static_cast<int>(std::max<std::size_t>(1, trained->weights.size() / parameters_per_thread));
  const int used_threads = options.has("threads") ? *threads : std::min(*threads, useful);
  const bool json = options.has("json");
  if (!json) options.err() << trained->text() << "\n";
  const auto made =
      generate(*trained, **tokenizer, *prompt, *request, used_threads, Printer(json ? nullptr : &options.out()));
  if (!made) return complain(options, "generate", made.error());
  if (json) {
    options.out() << to_json(*trained, *request, *prompt, *made);
  } else {
    options.err() << fmt::format("{} tokens, ended by {}; prompt of {} tokens {:.3f} s, then {:.1f} tokens/s\n",
                                 made->ids.size(), to_string(made->stopped), prompt->size(), made->prompt_seconds,
                                 made->tokens_per_second());
  }
  return made->stopped == Stopped::no_reader ? ExitCode::failed : ExitCode::ok;
}

}  // namespace starling::launcher
