#include "launcher/trained_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <system_error>
#include <utility>

#include "gossip/base/printable.h"
#include "gossip/base/real_env.h"
#include "launcher/plan_search.h"
#include "trainer/checkpoint/checkpoint_directory.h"
#include "trainer/checkpoint/partial_model.h"
#include "trainer/data/byte_tokenizer.h"

namespace starling::launcher {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t max_threads = 1024;
constexpr std::array tokenizer_files{"tokenizer.json", "tokenizer.model"};  // in this order
constexpr const char* manifest_file = "manifest.json";
constexpr const char* run_file = "run.yaml";
constexpr std::uint64_t max_run_file_bytes = 1 << 20;

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// "2,4"
Result<std::vector<Stage>> stage_list(const std::string& text) {
  std::vector<Stage> out;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data();;) {
    std::int64_t stage = 0;
    const auto [next, failure] = std::from_chars(at, end, stage);
    if (failure != std::errc{} || (next != end && *next != ',')) {
      return fail(ErrorCode::usage,
                  fmt::format("--skip-stages: expected numbers of stages, such as 2,4, got '{}'", printable(text, 60)));
    }
    out.push_back(static_cast<Stage>(stage));
    if (next == end) return out;
    at = next + 1;
  }
}

// A directory whose files were opened: a checkpoint, or a model of others.
struct Opened {
  fs::path directory;
  trainer::HfConfig config;
  std::vector<trainer::StageLayers> cut;
  std::optional<trainer::Checkpoint> checkpoint;
  std::optional<trainer::ModelReader> model;
  const trainer::ModelReader& files() const { return checkpoint ? checkpoint->weights() : *model; }
};

Opened opened(trainer::Checkpoint checkpoint) {
  return {.directory = checkpoint.path(),
          .config = {.model = checkpoint.model(), .special = checkpoint.special()},
          .cut = checkpoint.manifest().cut,
          .checkpoint = std::move(checkpoint),
          .model = std::nullopt};
}

Result<Opened> open_checkpoint(const fs::path& directory) {
  auto checkpoint = trainer::Checkpoint::open(directory);
  if (!checkpoint) return tl::unexpected(checkpoint.error());
  return opened(std::move(*checkpoint));
}

// A model directory says nothing of stages; the user does.
Result<Opened> open_model_directory(const fs::path& directory, trainer::HfConfig config, std::int64_t stages) {
  auto cut = trainer::cut_into_stages(config.model, stages, {});
  if (!cut) {
    return fail(ErrorCode::usage, fmt::format("--stages: expected 1 to {}, the blocks of the model, got {}",
                                              config.model.num_hidden_layers, stages));
  }
  auto files = trainer::ModelReader::open(directory, config.model);
  if (!files) return tl::unexpected(files.error());
  return Opened{.directory = directory,
                .config = std::move(config),
                .cut = std::move(*cut),
                .checkpoint = std::nullopt,
                .model = std::move(*files)};
}

Result<Opened> open_directory(const Options& options, const fs::path& path) {
  const auto stages = options.integer("stages");
  if (is_there(path / trainer::config_file) || is_there(path / manifest_file)) {
    auto config = trainer::read_hf_config(path);
    if (!config) {
      const bool unsupported = config.error().code == ErrorCode::bad_input;
      return fail(unsupported ? ErrorCode::bad_config : config.error().code, config.error().message);
    }
    if (!is_there(path / manifest_file)) return open_model_directory(path, std::move(*config), stages.value_or(1));
    if (!stages) return open_checkpoint(path);
    return fail(ErrorCode::usage, "--stages is for model directories of others; this checkpoint knows its stages");
  }
  if (!is_there(path)) {
    return fail(ErrorCode::not_found, fmt::format("'{}' does not exist; name a checkpoint's directory", path.string()));
  }
  auto newest = trainer::newest_good(is_there(path / "checkpoints") ? path / "checkpoints" : path);
  if (!newest) {
    return fail(newest.error().code, fmt::format("expected config.json and *.safetensors, or checkpoints of a run; {}",
                                                 newest.error().message));
  }
  if (stages) return fail(ErrorCode::usage, "--stages is for model directories of others; this run knows its stages");
  for (const std::string& why : newest->passed_over) options.err() << "passed over: " << why << "\n";
  return opened(std::move(newest->checkpoint));
}

Result<std::optional<RunConfig>> run_of(const fs::path& directory) {
  const fs::path path = directory / run_file;
  if (!is_there(path)) return std::optional<RunConfig>();
  const auto text = read_file(path, max_run_file_bytes);
  if (!text) return tl::unexpected(text.error());
  const ConfigReading reading = read_config(as_text(*text), path.string(), {});
  if (!reading.ok()) return fail(ErrorCode::bad_config, describe(reading.problems));
  return reading.config;
}

}  // namespace

std::string TrainedModel::text() const {
  std::string out = directory.string() + ": ";
  if (step) out += fmt::format("step {}, ", *step);
  out += fmt::format("{} parameters", weights.size());
  if (!skipped.empty()) out += fmt::format("; stages {} of 0 to {} left out", fmt::join(skipped, ", "), stages - 1);
  return out;
}

Argument checkpoint_argument() {
  return {"CKPT", Argument::Presence::required, "a checkpoint, a run's directory or a model directory of transformers"};
}

std::vector<Flag> trained_model_flags() {
  return {{"skip-stages", Flag::Kind::text, "2,4", "leave these stages of the model out"},
          {"stages", Flag::Kind::integer, "N",
           "a model directory that is no run's checkpoint counts as N stages; default 1"},
          {"tokenizer", Flag::Kind::text, "PATH", "default: the checkpoint's own, or byte where 256 tokens are known"},
          {"threads", Flag::Kind::integer, "N", "default: one a core; to generate with a small model, fewer"},
          {"json", Flag::Kind::toggle, "", "print one JSON object instead"}};
}

Result<TrainedModel> open_trained_model(const Options& options) {
  TrainedModel out;
  if (const auto text = options.text("skip-stages")) {
    auto skipped = stage_list(*text);
    if (!skipped) return tl::unexpected(skipped.error());
    out.skipped = std::move(*skipped);
  }
  auto found = open_directory(options, options.argument("CKPT"));
  if (!found) return tl::unexpected(found.error());
  auto run = run_of(found->directory);
  if (!run) return tl::unexpected(run.error());
  auto whole = trainer::read_without(found->files(), found->config.model, found->cut, out.skipped);
  if (!whole) {
    const bool flag = whole.error().code == ErrorCode::usage;
    return fail(whole.error().code, (flag ? "--skip-stages: " : "") + whole.error().message);
  }
  out.directory = std::move(found->directory);
  out.model = std::move(whole->model);
  out.weights = std::move(whole->weights);
  out.special = std::move(found->config.special);
  out.stages = static_cast<std::int64_t>(found->cut.size());
  if (found->checkpoint) out.step = found->checkpoint->manifest().step;
  out.run = std::move(*run);
  return out;
}

std::string tokenizer_path(const Options& options, const TrainedModel& trained) {
  if (const auto path = options.text("tokenizer")) return *path;
  for (const char* name : tokenizer_files) {
    if (is_there(trained.directory / name)) return (trained.directory / name).string();
  }
  if (trained.run) return trained.run->data.tokenizer;
  return trained.model.vocab_size == trainer::ByteTokenizer::size ? "byte" : "";
}

Result<std::shared_ptr<const trainer::Tokenizer>> tokenizer_of(const Options& options, const TrainedModel& trained) {
  const std::string path = tokenizer_path(options, trained);
  if (path.empty()) {
    return fail(
        ErrorCode::bad_config,
        fmt::format("{} has no {}, and a vocabulary of {} is not the byte tokenizer's 256; name one with --tokenizer",
                    trained.directory.string(), fmt::join(tokenizer_files, " or "), trained.model.vocab_size));
  }
  auto tokenizer = trainer::Tokenizer::open(path);
  if (!tokenizer) return tokenizer;
  if ((*tokenizer)->vocab_size() > trained.model.vocab_size) {
    return fail(
        ErrorCode::bad_config,
        fmt::format("the tokenizer {} has {} tokens, but the model's vocab_size is {}; name the tokenizer that the "
                    "model was trained with: --tokenizer PATH",
                    path, (*tokenizer)->vocab_size(), trained.model.vocab_size));
  }
  return tokenizer;
}

Result<int> threads_of(const Options& options) {
  const std::int64_t threads = options.integer("threads").value_or(all_cores());
  if (threads < 1 || threads > max_threads) {
    return fail(ErrorCode::usage, fmt::format("--threads: expected 1 to {}, got {}", max_threads, threads));
  }
  return static_cast<int>(threads);
}

ExitCode complain(const Options& options, std::string_view command, const Error& error) {
  options.err() << "starling " << command << ": " << error.message << (error.message.ends_with('\n') ? "" : "\n");
  return exit_code_of(error.code);
}

}  // namespace starling::launcher
