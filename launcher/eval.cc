// What starling eval does, on a device.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>

#include "gossip/base/real_env.h"
#include "launcher/inference_commands.h"
#include "launcher/trained_model.h"
#include "trainer/data/source.h"
#include "trainer/torch/evaluator.h"

namespace starling::launcher {
namespace {

constexpr std::int64_t default_seq_len = 1024;
// Tokens that go through the model at once: enough for its matrix products, little enough for their results.
constexpr std::int64_t batch_tokens = 2048;

struct Windows {
  trainer::Source source;
  std::int64_t count = 0;
};

bool may_be_text(const trainer::DataConfig& data) {
  const auto has_ids = [](const std::string& path) { return path.ends_with(".bin"); };
  return data.format == "text" || (data.format == "auto" && !std::ranges::all_of(data.train, has_ids));
}

Result<Windows> windows_of(const Options& options, const TrainedModel& trained) {
  const std::int64_t positions = trained.model.max_position_embeddings;
  std::int64_t seq_len = std::min(default_seq_len, positions);
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
  trainer::DataConfig data;
  const bool own_data = !options.list("data").empty() || !options.list("val").empty();
  if (trained.run) {
    seq_len = trained.run->training.seq_len;
    if (!own_data) data = trained.run->data;
    if (!own_data) most = trained.run->eval.batches * trained.run->training.micro_batch_size;
  } else if (!own_data) {
    return fail(ErrorCode::usage, "--data or --val is missing: this model has no run file that names data");
  }
  if (own_data) {
    if (!options.list("data").empty() && !options.list("val").empty()) {
      return fail(ErrorCode::usage,
                  "--data, of which the last 5 % are used, and --val, of which all is, do not go together");
    }
    data.val = options.list("val");
    data.train = data.val.empty() ? options.list("data") : data.val;
    data.format = options.text("format").value_or("auto");
    data.tokenizer = tokenizer_path(options, trained);
    if (data.tokenizer.empty()) {
      if (may_be_text(data)) return tl::unexpected(tokenizer_of(options, trained).error());
      data.tokenizer = "byte";  // ids need none
    }
  } else if (options.has("format")) {
    return fail(ErrorCode::usage, "--format is of the files that --data or --val name");
  }
  seq_len = options.integer("seq-len").value_or(seq_len);
  if (seq_len < 1 || seq_len > positions) {
    return fail(
        ErrorCode::usage,
        fmt::format("--seq-len: expected 1 to {}, the model's max_position_embeddings, got {}", positions, seq_len));
  }
  most = options.integer("windows").value_or(most);
  if (most < 1) return fail(ErrorCode::usage, fmt::format("--windows: expected a number from 1 up, got {}", most));
  auto source = trainer::Source::open(data, {.sequences = 1, .seq_len = seq_len}, trained.model.vocab_size);
  if (!source) {
    return fail(
        source.error().code,
        source.error().message + " (starling eval: data.train is --data, data.val --val, training.seq_len --seq-len)");
  }
  const std::int64_t count = std::min(most, source->validation_windows());
  return Windows{std::move(*source), count};
}

struct Evaluated {
  double loss = 0.0;  // mean over all tokens, nats
  std::int64_t tokens = 0;
  double seconds = 0.0;
};

// `progress` null: nothing is shown on the way.
Result<Evaluated> evaluate(const TrainedModel& trained, const Windows& windows, int threads, std::ostream* progress) {
  const std::int64_t seq_len = windows.source.shape().seq_len;
  const trainer::Evaluator evaluator(trained.model, trained.weights, seq_len, threads);
  const RealClock clock;
  const TimePoint begin = clock.now();
  const std::int64_t at_once = std::max<std::int64_t>(1, batch_tokens / seq_len);
  const bool by_document = trained.run && trained.run->training.document_attention;
  double sum = 0.0;
  for (std::int64_t first = 0; first < windows.count; first += at_once) {
    const std::int64_t end = std::min(windows.count, first + at_once);
    trainer::TokenBatch batch;
    std::vector<std::uint32_t> borders;
    for (std::int64_t i = first; i < end; ++i) {
      const Result<trainer::TokenBatch> window = windows.source.validation(static_cast<std::uint32_t>(i));
      if (!window) return tl::unexpected(window.error());
      if (by_document) {
        for (const std::uint32_t row : windows.source.document_borders(*window)) {
          borders.push_back(static_cast<std::uint32_t>((i - first) * seq_len) + row);
        }
      }
      batch.insert(batch.end(), window->begin(), window->end());
    }
    sum += evaluator.loss(batch, borders);
    if (!std::isfinite(sum)) {
      return fail(
          ErrorCode::bad_input,
          fmt::format("the loss of windows {} to {} is not finite: the model's weights have diverged", first, end - 1));
    }
    if (progress == nullptr) continue;
    *progress << fmt::format("\r{} of {} windows, loss {:.4f}", end, windows.count,
                             sum / static_cast<double>(end * seq_len))
              << (end == windows.count ? "\n" : "") << std::flush;
  }
  const std::int64_t tokens = windows.count * seq_len;
  return Evaluated{sum / static_cast<double>(tokens), tokens, seconds(clock.now() - begin)};
}

std::string to_json(const TrainedModel& trained, const Windows& windows, const Evaluated& found) {
  nlohmann::ordered_json out;
  out["checkpoint"] = trained.directory.string();
  if (trained.step) out["step"] = *trained.step;
  out["stages"] = trained.stages;
  out["skipped_stages"] = trained.skipped;
  out["loss"] = found.loss;
  out["perplexity"] = std::exp(found.loss);
  out["tokens"] = found.tokens;
  out["windows"] = windows.count;
  out["windows_there"] = windows.source.validation_windows();
  out["seq_len"] = windows.source.shape().seq_len;
  out["seconds"] = found.seconds;
  out["tokens_per_second"] = static_cast<double>(found.tokens) / found.seconds;
  return out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

ExitCode run_eval(const Options& options) {
  const auto threads = threads_of(options);
  if (!threads) return complain(options, "eval", threads.error());
  const auto trained = open_trained_model(options);
  if (!trained) return complain(options, "eval", trained.error());
  const auto windows = windows_of(options, *trained);
  if (!windows) return complain(options, "eval", windows.error());
  const bool json = options.has("json");
  if (!json) options.err() << trained->text() << "\n";
  const bool watched = !json && ::isatty(STDERR_FILENO) == 1;
  const auto found = evaluate(*trained, *windows, *threads, watched ? &options.err() : nullptr);
  if (!found) return complain(options, "eval", found.error());
  if (json) {
    options.out() << to_json(*trained, *windows, *found);
  } else {
    options.out() << fmt::format("loss {:.4f} nats a token, perplexity {:.2f}; {} of {} windows of {} tokens\n",
                                 found->loss, std::exp(found->loss), windows->count,
                                 windows->source.validation_windows(), windows->source.shape().seq_len);
  }
  return ExitCode::ok;
}

}  // namespace starling::launcher
