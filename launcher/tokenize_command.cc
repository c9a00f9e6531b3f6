#include "launcher/tokenize_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "gossip/base/real_env.h"
#include "launcher/plan_search.h"
#include "launcher/tokenize_run.h"
#include "trainer/data/file_pattern.h"

namespace starling::launcher {
namespace {

using trainer::Documents;
using trainer::ShardFormat;

constexpr std::int64_t most_threads = 256;
constexpr std::int64_t most_shard_tokens = (std::int64_t{1} << 31) - 1;  // llm.c's header counts in 32 bits
constexpr auto between_reports = std::chrono::milliseconds(500);

// The value of a flag that is one of a few words.
template <typename T>
Result<T> word(const Options& options, const char* flag, T without,
               std::initializer_list<std::pair<std::string_view, T>> words) {
  const auto given = options.text(flag);
  if (!given) return without;
  std::string known;
  for (const auto& [name, value] : words) {
    if (name == *given) return value;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
  }
  return fail(ErrorCode::usage, fmt::format("--{}: expected one of {}, got '{}'", flag, known, *given));
}

Result<std::vector<std::filesystem::path>> input_files(const std::vector<std::string>& arguments) {
  std::vector<std::filesystem::path> out;
  for (const std::string& argument : arguments) {
    if (!trainer::is_pattern(argument)) {
      out.emplace_back(argument);
      continue;
    }
    const auto found = trainer::matching_files(argument);
    if (!found) return tl::unexpected(found.error());
    if (found->empty()) return fail(ErrorCode::not_found, fmt::format("no file matches '{}'", argument));
    out.insert(out.end(), found->begin(), found->end());
  }
  for (const auto& path : out) {
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored))
      return fail(ErrorCode::not_found, path.string() + ": there is no such file");
    if (!std::filesystem::is_regular_file(path, ignored)) {
      return fail(ErrorCode::bad_input, path.string() + ": expected a file of text, got a folder or a device");
    }
  }
  return out;
}

Result<std::int64_t> between(const Options& options, const char* flag, std::int64_t without, std::int64_t most) {
  const std::int64_t value = options.integer(flag).value_or(without);
  if (value >= 1 && value <= most) return value;
  return fail(ErrorCode::usage, fmt::format("--{}: expected 1 to {}, got {}", flag, most, value));
}

Result<TokenizeJob> job_of(const Options& options) {
  TokenizeJob job;
  auto files = input_files(options.arguments("IN"));
  if (!files) return tl::unexpected(files.error());
  job.files = std::move(*files);
  job.tokenizer = options.text("tokenizer").value_or("byte");
  const auto out = options.text("out");
  if (!out || out->empty()) {
    return fail(ErrorCode::usage,
                "--out is missing: where shards go, such as --out data/train for data/train_000000.bin");
  }
  job.shards.prefix = *out;
  const auto format =
      word<ShardFormat>(options, "format", ShardFormat::bin,
                        {{"bin", ShardFormat::bin}, {"uint16", ShardFormat::uint16}, {"uint32", ShardFormat::uint32}});
  if (!format) return tl::unexpected(format.error());
  job.shards.format = *format;
  const auto documents =
      word<Documents>(options, "documents", Documents::files,
                      {{"file", Documents::files}, {"line", Documents::lines}, {"jsonl", Documents::json_lines}});
  if (!documents) return tl::unexpected(documents.error());
  job.shape.documents = *documents;
  if (const auto separator = options.text("separator")) {
    if (separator->empty()) return fail(ErrorCode::usage, "--separator: expected a text, got nothing");
    if (options.has("documents")) return fail(ErrorCode::usage, "--documents and --separator: only one of them");
    job.shape.documents = Documents::separated;
    job.shape.separator = *separator;
  }
  const auto shard_tokens = between(options, "shard-tokens", job.shards.shard_tokens, most_shard_tokens);
  if (!shard_tokens) return tl::unexpected(shard_tokens.error());
  job.shards.shard_tokens = *shard_tokens;
  const auto threads = between(options, "threads", std::min<std::int64_t>(all_cores(), most_threads), most_threads);
  if (!threads) return tl::unexpected(threads.error());
  job.threads = static_cast<int>(*threads);
  if (options.has("special-names")) job.names = trainer::SpecialNames::recognized;
  return job;
}

double seconds_between(TimePoint from, TimePoint to) { return std::chrono::duration<double>(to - from).count(); }

// One line on a terminal, written over itself; nothing anywhere else.
class ProgressLine {
 public:
  explicit ProgressLine(std::ostream& err)
      : err_(err), shown_(&err == &std::cerr && ::isatty(STDERR_FILENO) == 1), begin_(clock_.now()), last_(begin_) {}
  ~ProgressLine() {
    if (written_) err_ << "\n";
  }
  void update(const TokenizeProgress& progress) {
    const TimePoint now = clock_.now();
    if (!shown_ || now - last_ < between_reports) return;
    last_ = now;
    written_ = true;
    const auto bytes = static_cast<double>(progress.bytes - progress.resumed_bytes);
    const double rate = bytes / seconds_between(begin_, now);
    const auto left = static_cast<double>(progress.all_bytes - progress.bytes);
    err_ << fmt::format("\r{:5.1f}% {:.1f}/{:.1f} MB, {:.1f}M tokens, {} shards, {:.1f} MB/s, eta {:.0f}s \x1b[K",
                        100.0 * static_cast<double>(progress.bytes) / static_cast<double>(progress.all_bytes),
                        static_cast<double>(progress.bytes) / 1e6, static_cast<double>(progress.all_bytes) / 1e6,
                        static_cast<double>(progress.tokens) / 1e6, progress.shards, rate / 1e6, left / rate)
         << std::flush;
  }
  double seconds() const { return seconds_between(begin_, clock_.now()); }

 private:
  std::ostream& err_;
  RealClock clock_;
  bool shown_;
  bool written_ = false;
  TimePoint begin_;
  TimePoint last_;
};

ExitCode run(const Options& options) {
  const auto complain = [&options](const Error& error) {
    options.err() << "starling tokenize: " << error.message << "\n";
    return exit_code_of(error.code);
  };
  const auto job = job_of(options);
  if (!job) return complain(job.error());
  Result<TokenizeProgress> done;
  double seconds = 0.0;
  {
    ProgressLine line(options.err());
    const auto earlier = options.has("fresh") ? EarlierRun::discarded : EarlierRun::resumed;
    done = tokenize(*job, earlier, [&line](const TokenizeProgress& progress) { line.update(progress); });
    seconds = line.seconds();
  }
  if (!done) return complain(done.error());
  if (done->resumed_bytes > 0) {
    options.err() << fmt::format("starling tokenize: {} of {} bytes had been done before\n", done->resumed_bytes,
                                 done->all_bytes);
  }
  const std::string first = job->shards.shard(0).string();
  if (options.has("json")) {
    options.out() << nlohmann::ordered_json{{"tokens", done->tokens},
                                            {"bytes", done->bytes},
                                            {"shards", done->shards},
                                            {"first", first},
                                            {"seconds", seconds}}
                         .dump()
                  << "\n";
  } else {
    options.out() << fmt::format("{} tokens of {} bytes in {} shards, {} and on\n", done->tokens, done->bytes,
                                 done->shards, first);
  }
  return ExitCode::ok;
}

}  // namespace

Command tokenize_command() {
  using Kind = Flag::Kind;
  Command out;
  out.name = "tokenize";
  out.summary = "makes shards of token ids out of text files of any size";
  out.details =
      "Shards are PREFIX_000000.bin and so on; data.train of a run file takes them as PREFIX_*.bin, with the same\n"
      "tokenizer.path. Each document is followed by the token that ends one, and begins with the one that begins one,\n"
      "where the tokenizer has them. Memory does not grow with the files. When it is interrupted, the same command "
      "goes\n"
      "on where it was (PREFIX.progress.json says where); the shards are then the same to the last byte.";
  out.arguments = {{"IN", Argument::Presence::repeated, "files of UTF-8 text, or patterns in quotes"}};
  out.flags = {
      {"out", Kind::text, "PREFIX", "where shards go: PREFIX_000000.bin, ..."},
      {"tokenizer", Kind::text, "PATH",
       "byte (default), a tokenizer.json with byte-level BPE or a SentencePiece *.model"},
      {"format", Kind::text, "KIND", "bin: llm.c's shards (default) | uint16 | uint32: ids and nothing else"},
      {"documents", Kind::text, "KIND",
       "a document is a file (default) | line | jsonl: \"text\" of a JSON object a line"},
      {"separator", Kind::text, "TEXT", "documents end where this text stands, such as '<|endoftext|>'"},
      {"shard-tokens", Kind::integer, "N", "tokens in a shard (default 100000000)"},
      {"special-names", Kind::toggle, "",
       "names of special tokens in the text become these tokens; else they are text"},
      {"threads", Kind::integer, "N", "default: as many as cores"},
      {"fresh", Kind::toggle, "", "begin anew and write over what is there"},
      {"json", Kind::toggle, "", "print the result as JSON"},
  };
  out.run = run;
  return out;
}

}  // namespace starling::launcher
