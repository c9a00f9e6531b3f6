#include "launcher/tokenize_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

#include "gossip/base/bytes.h"
#include "gossip/base/real_env.h"
#include "launcher/part_encoders.h"
#include "trainer/data/byte_file.h"
#include "trainer/data/json_text.h"

namespace starling::launcher {
namespace {

using trainer::CorpusPart;
using trainer::CorpusPosition;
using trainer::CorpusReader;
using trainer::ShardMark;
using trainer::ShardWriter;
using trainer::TokenIds;
using trainer::Tokenizer;

constexpr std::uint64_t max_progress_file_bytes = 65536;
constexpr std::size_t parts_per_thread = 4;

std::filesystem::path progress_path(const TokenizeJob& job) { return job.shards.prefix + ".progress.json"; }

// Of all that decides which bytes come out. A file is known by its name, its length and when it was written last.
Result<std::string> fingerprint(const TokenizeJob& job) {
  ByteWriter out;
  out.text("starling tokenize 1");
  for (const std::filesystem::path& path : job.files) {
    std::error_code failure;
    const auto size = std::filesystem::file_size(path, failure);
    if (failure)
      return fail(ErrorCode::not_found, fmt::format("{}: cannot be read: {}", path.string(), failure.message()));
    out.text(path.string());
    out.number(static_cast<std::uint64_t>(size));
    out.number(std::filesystem::last_write_time(path, failure).time_since_epoch().count());
  }
  out.text(job.tokenizer);
  if (job.tokenizer != "byte") {
    const auto file = trainer::MappedFile::open(job.tokenizer);
    if (!file) return tl::unexpected(file.error());
    out.raw(blake2b_256(file->bytes()));
  }
  out.number(static_cast<int>(job.shape.documents));
  out.text(job.shape.separator);
  out.number(static_cast<int>(job.shards.format));
  out.number(job.shards.shard_tokens);
  out.number(static_cast<int>(job.names));
  return to_hex(ByteView(blake2b_256(out.bytes())).first(16));
}

struct Mark {
  CorpusPosition position;  // of the next part
  ShardMark shards;
  TokenizeProgress progress;
};

class Run {
 public:
  Run(TokenizeJob job, const Tokenizer& tokenizer, std::string fingerprint)
      : job_(std::move(job)), tokenizer_(tokenizer), fingerprint_(std::move(fingerprint)) {
    job_.shards.vocab_size = tokenizer.vocab_size();
    std::error_code ignored;
    for (const auto& path : job_.files) {
      sizes_before_.push_back(now_.progress.all_bytes);
      now_.progress.all_bytes += static_cast<std::int64_t>(std::filesystem::file_size(path, ignored));
    }
    sizes_before_.push_back(now_.progress.all_bytes);
  }

  Status take_up(EarlierRun earlier) {
    const auto bytes = read_file(progress_path(job_), max_progress_file_bytes);
    if (bytes && earlier == EarlierRun::resumed) return read_mark(as_text(*bytes));
    std::error_code ignored;
    const std::filesystem::path first = job_.shards.shard(0);
    if (!bytes && earlier == EarlierRun::resumed && std::filesystem::exists(first, ignored)) {
      return fail(ErrorCode::bad_config,
                  fmt::format("{} is there already; give another --out, or --fresh to write over it", first.string()));
    }
    return {};
  }

  Result<TokenizeProgress> run(const std::function<void(const TokenizeProgress&)>& report) {
    if (now_.progress.finished) return now_.progress;
    if (Status ok = make_folder(); !ok) return tl::unexpected(ok.error());
    auto writer = ShardWriter::resume(job_.shards, now_.shards);
    if (!writer) return tl::unexpected(writer.error());
    writer_.emplace(std::move(*writer));
    // Before the first token: what lies there from now on belongs to this work.
    if (Status ok = save_mark(); !ok) return tl::unexpected(ok.error());
    if (Status ok = encode_all(report); !ok) return tl::unexpected(ok.error());
    if (now_.progress.tokens == 0) return fail(ErrorCode::bad_input, "expected text, got files with none");
    const auto shards = writer_->finish();
    if (!shards) return tl::unexpected(shards.error());
    now_.progress.shards = *shards;
    now_.progress.finished = true;
    if (Status ok = write_progress(); !ok) return tl::unexpected(ok.error());
    return now_.progress;
  }

 private:
  Status make_folder() const {
    const std::filesystem::path folder = std::filesystem::path(job_.shards.prefix).parent_path();
    std::error_code failure;
    if (!folder.empty()) std::filesystem::create_directories(folder, failure);
    if (!failure) return {};
    return fail(ErrorCode::io, fmt::format("{}: cannot be made: {}", folder.string(), failure.message()));
  }

  // While one batch is encoded, the one before is written and the one after is read.
  Status encode_all(const std::function<void(const TokenizeProgress&)>& report) {
    CorpusReader reader(job_.files, job_.shape, tokenizer_, now_.position);
    PartEncoders encoders(tokenizer_, job_.shape, job_.names, job_.threads);
    const std::size_t batch = parts_per_thread * static_cast<std::size_t>(job_.threads);
    std::vector<CorpusPart> next;
    std::vector<CorpusPart> done;
    std::vector<Result<TokenIds>> ids;
    Status status = read(reader, batch, next);
    while (status && !(next.empty() && done.empty())) {
      const std::vector<CorpusPart> parts = std::exchange(next, {});
      std::vector<Result<TokenIds>> encoded = encoders.encode(parts, [&] {
        status = write(done, ids);
        if (status) status = read(reader, batch, next);
      });
      if (!done.empty()) report(now_.progress);
      done = parts;
      ids = std::move(encoded);
    }
    return status;
  }

  static Status read(CorpusReader& reader, std::size_t most, std::vector<CorpusPart>& out) {
    while (out.size() < most) {
      auto part = reader.next();
      if (!part) return tl::unexpected(part.error());
      if (!*part) break;
      out.push_back(std::move(**part));
    }
    return {};
  }

  Status write(const std::vector<CorpusPart>& parts, const std::vector<Result<TokenIds>>& ids) {
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (!ids[i]) {
        return fail(ids[i].error().code,
                    fmt::format("{}: {}", job_.files[parts[i].begin.file].string(), ids[i].error().message));
      }
      if (Status ok = writer_->append(*ids[i]); !ok) return ok;
      now_.position = parts[i].end;
      now_.progress.tokens += static_cast<std::int64_t>(ids[i]->size());
      now_.progress.bytes = sizes_before_[now_.position.file] + now_.position.offset;
    }
    if (now_.progress.bytes - saved_bytes_ < job_.mark_bytes) return {};
    return save_mark();
  }

  Status save_mark() {
    const auto mark = writer_->mark();
    if (!mark) return tl::unexpected(mark.error());
    now_.shards = *mark;
    now_.progress.shards = mark->shard;
    saved_bytes_ = now_.progress.bytes;
    return write_progress();
  }

  Status write_progress() const {
    const nlohmann::ordered_json file{
        {"fingerprint", fingerprint_},    {"finished", now_.progress.finished},
        {"tokenizer", job_.tokenizer},    {"vocab_size", job_.shards.vocab_size},
        {"bytes", now_.progress.bytes},   {"tokens", now_.progress.tokens},
        {"shards", now_.progress.shards}, {"file", now_.position.file},
        {"offset", now_.position.offset}, {"inside_document", now_.position.inside_document},
        {"shard", now_.shards.shard},     {"shard_tokens", now_.shards.tokens}};
    return replace_file(progress_path(job_), as_bytes(file.dump(2) + "\n"));
  }

  Status read_mark(std::string_view text) {
    const auto damaged = [this](const std::string& what) {
      return fail(ErrorCode::bad_config,
                  fmt::format("{}: {}; --fresh begins anew", progress_path(job_).string(), what));
    };
    const auto file = trainer::parse_json_object(text);
    if (!file) return damaged(file.error().message);
    if (!file->contains("fingerprint") || file->at("fingerprint") != fingerprint_) {
      return damaged("expected the progress of these files, this tokenizer and these flags, got that of others");
    }
    const auto number = [&](const char* key, std::int64_t most) {
      const auto found = file->find(key);
      const bool good = found != file->end() && found->is_number_unsigned() &&
                        found->get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
      return good ? found->get<std::int64_t>() : -1;
    };
    const auto flag = [&](const char* key) { return file->contains(key) && file->at(key) == true; };
    constexpr std::int64_t any = std::int64_t{1} << 60;
    const std::int64_t index = number("file", static_cast<std::int64_t>(job_.files.size()));
    now_.position = {static_cast<std::size_t>(std::max<std::int64_t>(index, 0)), number("offset", any),
                     flag("inside_document")};
    now_.shards = {number("shard", any), number("shard_tokens", job_.shards.shard_tokens)};
    now_.progress.bytes = now_.progress.resumed_bytes = saved_bytes_ = number("bytes", now_.progress.all_bytes);
    now_.progress.tokens = number("tokens", any);
    now_.progress.shards = number("shards", any);
    now_.progress.finished = flag("finished");
    const bool good = index >= 0 && now_.position.offset >= 0 && now_.shards.shard >= 0 && now_.shards.tokens >= 0 &&
                      now_.progress.bytes >= 0 && now_.progress.tokens >= 0 && now_.progress.shards >= 0;
    return good ? Status() : damaged("expected numbers that fit to these files");
  }

  TokenizeJob job_;
  const Tokenizer& tokenizer_;
  std::string fingerprint_;
  std::vector<std::int64_t> sizes_before_;  // of all files before each
  std::optional<ShardWriter> writer_;
  Mark now_;
  std::int64_t saved_bytes_ = 0;
};

}  // namespace

Result<TokenizeProgress> tokenize(TokenizeJob job, EarlierRun earlier,
                                  const std::function<void(const TokenizeProgress&)>& report) {
  const auto tokenizer = Tokenizer::open(job.tokenizer);
  if (!tokenizer) return tl::unexpected(tokenizer.error());
  if (job.shards.format == trainer::ShardFormat::uint16 && (*tokenizer)->vocab_size() > 0x10000) {
    return fail(ErrorCode::usage, fmt::format("--format uint16: the tokenizer has {} ids, which need uint32 or bin",
                                              (*tokenizer)->vocab_size()));
  }
  auto print = fingerprint(job);
  if (!print) return tl::unexpected(print.error());
  Run run(std::move(job), **tokenizer, std::move(*print));
  if (Status ok = run.take_up(earlier); !ok) return tl::unexpected(ok.error());
  return run.run(report);
}

}  // namespace starling::launcher
