#include "trainer/checkpoint/checkpoint_directory.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "gossip/base/real_env.h"
#include "trainer/data/json_text.h"

namespace starling::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view manifest_file = "manifest.json";
constexpr std::string_view run_file = "run.yaml";
constexpr std::string_view step_prefix = "step-";
constexpr std::string_view temporary_suffix = ".tmp";
constexpr const char* scalars_key = "scalars";
constexpr std::uint64_t max_manifest_bytes = 64 << 20;

std::string state_file_name(Stage stage, std::int64_t stages) {
  return fmt::format("state-{:05}-of-{:05}.safetensors", stage + 1, stages);
}

tl::unexpected<Error> os_error(const std::error_code& failure, std::string_view doing, const fs::path& path) {
  const bool full = failure == std::errc::no_space_on_device;
  return fail(full ? ErrorCode::disk_full : ErrorCode::io,
              fmt::format("{}: {}: {}", path.string(), doing, failure.message()));
}

tl::unexpected<Error> at_path(const fs::path& path, const Error& error) {
  return fail(error.code, path.string() + ": " + error.message);
}

Status remove_tree(const fs::path& path) {
  std::error_code failure;
  fs::remove_all(path, failure);
  if (failure) return os_error(failure, "cannot be removed", path);
  return {};
}

Status rename_path(const fs::path& from, const fs::path& to) {
  std::error_code failure;
  fs::rename(from, to, failure);
  if (failure) return os_error(failure, fmt::format("cannot be renamed to {}", to.string()), from);
  return {};
}

bool is_temporary(const std::string& name) { return name.starts_with('.') && name.ends_with(temporary_suffix); }

std::optional<Step> step_of(const std::string& name) {
  if (!name.starts_with(step_prefix)) return std::nullopt;
  Step step = 0;
  const char* const end = name.data() + name.size();
  const auto [at, failure] = std::from_chars(name.data() + step_prefix.size(), end, step);
  if (failure != std::errc() || at != end || step < 0 || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

struct Found {
  Step step = 0;
  fs::path path;
};

// Newest first.
std::vector<Found> find_checkpoints(const fs::path& checkpoints) {
  std::vector<Found> out;
  std::error_code failure;
  for (fs::directory_iterator at(checkpoints, failure), end; !failure && at != end; at.increment(failure)) {
    const auto step = step_of(at->path().filename().string());
    std::error_code ignored;
    if (step && at->is_directory(ignored)) out.push_back({*step, at->path()});
  }
  std::sort(out.begin(), out.end(), [](const Found& a, const Found& b) { return a.step > b.step; });
  return out;
}

Result<Manifest> read_manifest(const fs::path& directory) {
  const fs::path path = directory / manifest_file;
  const Result<Bytes> text = read_file(path, max_manifest_bytes);
  if (!text) return tl::unexpected(text.error());
  Result<Manifest> manifest = parse_manifest(as_text(*text));
  if (!manifest) return at_path(path, manifest.error());
  return manifest;
}

Status check_size(const fs::path& directory, const ManifestFile& file) {
  const fs::path path = directory / file.name;
  std::error_code failure;
  const fs::file_status status = fs::symlink_status(path, failure);
  if (status.type() == fs::file_type::not_found) return fail(ErrorCode::bad_input, path.string() + ": is missing");
  if (!fs::is_regular_file(status)) return fail(ErrorCode::bad_input, path.string() + ": expected a file");
  const std::uintmax_t size = fs::file_size(path, failure);
  if (failure) return os_error(failure, "cannot be read", path);
  if (size != static_cast<std::uintmax_t>(file.digest.bytes)) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: expected {} bytes, got {}: it was cut off or changed", path.string(), file.digest.bytes, size));
  }
  return {};
}

Status check_hash(const fs::path& directory, const ManifestFile& file) {
  const fs::path path = directory / file.name;
  const Result<MappedFile> mapped = MappedFile::open(path);
  if (!mapped) return tl::unexpected(mapped.error());
  if (xxh3_128(mapped->bytes()) != file.digest.hash) {
    return fail(ErrorCode::bad_input, path.string() + ": its hash is not the one in manifest.json: it was damaged or changed");
  }
  return {};
}

// Manifest and sizes, without reading the large files.
Result<Manifest> look_at(const fs::path& directory) {
  Result<Manifest> manifest = read_manifest(directory);
  if (!manifest) return manifest;
  for (const ManifestFile& file : manifest->files) {
    if (Status sized = check_size(directory, file); !sized) return tl::unexpected(sized.error());
  }
  return manifest;
}

Status check_names(const fs::path& directory, const Manifest& manifest) {
  std::set<std::string> expected{std::string(index_file), std::string(config_file), std::string(run_file)};
  const auto stages = static_cast<std::int64_t>(manifest.cut.size());
  for (Stage stage = 0; stage < stages; ++stage) {
    expected.insert(model_file_name(stage, stages));
    expected.insert(state_file_name(stage, stages));
  }
  std::set<std::string> listed;
  for (const ManifestFile& file : manifest.files) {
    listed.insert(file.name);
    expected.erase(file.name);
  }
  if (!expected.empty()) {
    return fail(ErrorCode::bad_input,
                fmt::format("{}: lists no {}", (directory / manifest_file).string(), fmt::join(expected, ", ")));
  }
  // One that is not listed could be read in place of those that are.
  std::error_code failure;
  for (fs::directory_iterator at(directory, failure), end; !failure && at != end; at.increment(failure)) {
    if (at->path().extension() == ".safetensors" && !listed.contains(at->path().filename().string())) {
      return fail(ErrorCode::bad_input, at->path().string() + ": is not in manifest.json; remove it");
    }
  }
  return {};
}

}  // namespace

std::string checkpoint_name(Step step) { return fmt::format("{}{:06}", step_prefix, step); }

Status remove_leftovers(const fs::path& checkpoints) {
  std::vector<fs::path> found;
  std::error_code failure;
  for (fs::directory_iterator at(checkpoints, failure), end; !failure && at != end; at.increment(failure)) {
    if (is_temporary(at->path().filename().string())) found.push_back(at->path());
  }
  for (const fs::path& path : found) {
    if (Status removed = remove_tree(path); !removed) return removed;
  }
  return {};
}

// ---------------------------------------------------------------- writing

struct CheckpointWriter::Impl {
  // The stage that is being written.
  struct Open {
    Stage stage = 0;
    SafetensorsWriter weights;
    SafetensorsWriter state;
  };

  fs::path checkpoints;
  fs::path temporary;
  CheckpointPlan plan;
  Disk* disk = nullptr;
  Manifest manifest;
  std::set<Stage> written;
  std::optional<Open> open;
  std::optional<Error> error;
  bool committed = false;

  ~Impl() {
    open.reset();
    if (!committed) (void)remove_tree(temporary);
  }

  std::int64_t stages() const { return static_cast<std::int64_t>(plan.cut.size()); }

  Status failed(const Error& why) {
    error = why;
    open.reset();
    (void)remove_tree(temporary);
    return tl::unexpected(why);
  }
  Status keep(const std::string& name, const Result<FileDigest>& digest) {
    if (!digest) return tl::unexpected(digest.error());
    manifest.files.push_back({name, *digest});
    return {};
  }
  Status write_text(std::string_view name, std::string_view text) {
    return keep(std::string(name), write_whole(temporary / name, as_bytes(text), *disk));
  }

  Status write_small_files() {
    const ModelConfig& model = plan.model;
    if (Status ok = write_text(config_file, hf_config_text(model, plan.special, WeightDtype::float32)); !ok) return ok;
    if (Status ok = write_text(index_file, index_text(model, plan.cut, WeightDtype::float32)); !ok) return ok;
    if (Status ok = write_text(run_file, plan.run_file); !ok) return ok;
    const auto manifest_written = write_whole(temporary / manifest_file, as_bytes(manifest_text(manifest)), *disk);
    if (!manifest_written) return tl::unexpected(manifest_written.error());
    return sync_directory(temporary, *disk);
  }

  // The temporary directory gets its name. What had that name is set aside first and removed last, so that at no moment
  // half a checkpoint has a checkpoint's name.
  Status put_in_place(const fs::path& target) {
    const fs::path aside = checkpoints / ("." + target.filename().string() + ".old" + std::string(temporary_suffix));
    std::error_code ignored;
    const bool replaces = fs::exists(target, ignored);
    if (replaces) {
      if (Status ok = rename_path(target, aside); !ok) return ok;
    }
    if (Status ok = rename_path(temporary, target); !ok) {
      if (replaces) (void)rename_path(aside, target);
      return ok;
    }
    if (Status ok = sync_directory(checkpoints, *disk); !ok) {
      (void)rename_path(target, temporary);  // failed() removes it
      if (replaces) (void)rename_path(aside, target);
      return ok;
    }
    if (replaces) (void)remove_tree(aside);  // what is left of it is a leftover, which the next writer removes
    return {};
  }
};

CheckpointWriter::CheckpointWriter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CheckpointWriter::CheckpointWriter(CheckpointWriter&&) noexcept = default;
CheckpointWriter& CheckpointWriter::operator=(CheckpointWriter&&) noexcept = default;
CheckpointWriter::~CheckpointWriter() = default;

Result<CheckpointWriter> CheckpointWriter::begin(const fs::path& checkpoints, CheckpointPlan plan, Disk& disk) {
  std::error_code failure;
  fs::create_directories(checkpoints, failure);
  if (failure) return os_error(failure, "cannot be created", checkpoints);
  if (Status clean = remove_leftovers(checkpoints); !clean) return tl::unexpected(clean.error());
  auto impl = std::make_unique<Impl>();
  impl->checkpoints = checkpoints;
  impl->temporary = checkpoints / ("." + checkpoint_name(plan.step) + std::string(temporary_suffix));
  impl->disk = &disk;
  impl->manifest = {.run_id = plan.run_id,
                    .config_hash = plan.config_hash,
                    .step = plan.step,
                    .round = plan.round,
                    .tokens = plan.tokens,
                    .cut = plan.cut,
                    .missed = {},
                    .files = {}};
  impl->plan = std::move(plan);
  fs::create_directory(impl->temporary, failure);
  if (failure) return os_error(failure, "cannot be created", impl->temporary);
  return CheckpointWriter(std::move(impl));
}

Status CheckpointWriter::begin_stage(const StagePlan& stage) {
  Impl& self = *impl_;
  if (self.error) return tl::unexpected(*self.error);
  STARLING_CHECK(!self.open, "one stage at a time");
  STARLING_CHECK(stage.stage >= 0 && stage.stage < self.stages() && self.written.insert(stage.stage).second,
                 "each stage of the cut once");
  std::vector<TensorPlan> arrays;
  std::set<std::string> names;
  for (const StateArray& array : stage.arrays) {
    if (array.count < 0 || array.name.empty() || array.name == "__metadata__" || !names.insert(array.name).second) {
      return self.failed({ErrorCode::bad_input, fmt::format("stage {}: expected arrays with names, each once, got '{}'",
                                                            stage.stage, shown(std::string_view(array.name)))});
    }
    arrays.push_back({.name = array.name, .dtype = WeightDtype::float32, .shape = {array.count}});
  }
  if (const auto scalars = parse_json_object(stage.scalars); !scalars) {
    return self.failed({scalars.error().code, fmt::format("stage {}: scalars: {}", stage.stage, scalars.error().message)});
  }
  if (!stage.missed.empty()) self.manifest.missed.push_back({stage.stage, stage.missed});
  const StageLayers& layers = self.plan.cut[static_cast<std::size_t>(stage.stage)];
  auto weights = SafetensorsWriter::create(self.temporary / model_file_name(stage.stage, self.stages()),
                                           model_tensors(self.plan.model, layers, stage.stage, WeightDtype::float32),
                                           model_metadata(), *self.disk);
  if (!weights) return self.failed(weights.error());
  auto state = SafetensorsWriter::create(self.temporary / state_file_name(stage.stage, self.stages()), std::move(arrays),
                                         {{scalars_key, stage.scalars}}, *self.disk);
  if (!state) return self.failed(state.error());
  self.open.emplace(Impl::Open{stage.stage, std::move(*weights), std::move(*state)});
  return {};
}

Status CheckpointWriter::weights(std::span<const float> values) {
  if (impl_->error) return tl::unexpected(*impl_->error);
  STARLING_CHECK(impl_->open, "values belong to a stage that was begun");
  const Status written = impl_->open->weights.append(values);
  return written ? written : impl_->failed(Error(written.error()));
}

Status CheckpointWriter::state(std::span<const float> values) {
  if (impl_->error) return tl::unexpected(*impl_->error);
  STARLING_CHECK(impl_->open, "values belong to a stage that was begun");
  const Status written = impl_->open->state.append(values);
  return written ? written : impl_->failed(Error(written.error()));
}

Status CheckpointWriter::end_stage() {
  Impl& self = *impl_;
  if (self.error) return tl::unexpected(*self.error);
  STARLING_CHECK(self.open, "a stage ends that was begun");
  const Stage stage = self.open->stage;
  Status kept = self.keep(model_file_name(stage, self.stages()), self.open->weights.finish());
  if (kept) kept = self.keep(state_file_name(stage, self.stages()), self.open->state.finish());
  if (!kept) return self.failed(Error(kept.error()));
  self.open.reset();
  return {};
}

Result<fs::path> CheckpointWriter::commit() {
  Impl& self = *impl_;
  if (self.error) return tl::unexpected(*self.error);
  STARLING_CHECK(!self.open && static_cast<std::int64_t>(self.written.size()) == self.stages() && !self.committed,
                 "all stages were written, and one commit follows");
  const fs::path target = self.checkpoints / checkpoint_name(self.plan.step);
  Status done = self.write_small_files();
  if (done) done = self.put_in_place(target);
  if (!done) {
    const Error why = done.error();
    (void)self.failed(why);
    return tl::unexpected(why);
  }
  self.committed = true;
  return target;
}

// ---------------------------------------------------------------- reading

Checkpoint::Checkpoint(fs::path path, Manifest manifest, HfConfig config, ModelReader weights,
                       std::vector<SafetensorsFile> states)
    : path_(std::move(path)),
      manifest_(std::move(manifest)),
      config_(std::move(config)),
      weights_(std::move(weights)),
      states_(std::move(states)) {}

Result<Checkpoint> Checkpoint::open(const fs::path& directory, const ModelConfig* expected) {
  Result<Manifest> manifest = look_at(directory);
  if (!manifest) return tl::unexpected(manifest.error());
  if (Status named = check_names(directory, *manifest); !named) return tl::unexpected(named.error());
  Result<HfConfig> config = read_hf_config(directory);
  if (!config) return tl::unexpected(config.error());
  if (expected != nullptr) {
    if (const auto other = differences(config->model, *expected, "there", "in this run"); !other.empty()) {
      return fail(ErrorCode::bad_input,
                  fmt::format("{}: holds another model: {}", directory.string(), fmt::join(other, "; ")));
    }
  }
  if (manifest->cut.back().last != config->model.num_hidden_layers) {
    return fail(ErrorCode::bad_input, fmt::format("{}: its stages have {} blocks, config.json says {}", directory.string(),
                                                  manifest->cut.back().last, config->model.num_hidden_layers));
  }
  for (const ManifestFile& file : manifest->files) {
    if (Status whole = check_hash(directory, file); !whole) return tl::unexpected(whole.error());
  }
  Result<ModelReader> weights = ModelReader::open(directory, config->model);
  if (!weights) return tl::unexpected(weights.error());
  std::vector<SafetensorsFile> states;
  const auto stages = static_cast<std::int64_t>(manifest->cut.size());
  for (Stage stage = 0; stage < stages; ++stage) {
    Result<SafetensorsFile> state = SafetensorsFile::open(directory / state_file_name(stage, stages));
    if (!state) return tl::unexpected(state.error());
    const auto scalars = state->metadata().find(scalars_key);
    if (scalars == state->metadata().end() || !parse_json_object(scalars->second)) {
      return fail(ErrorCode::bad_input, state->path().string() + ": expected scalars in its metadata, a JSON object");
    }
    states.push_back(std::move(*state));
  }
  return Checkpoint(directory, std::move(*manifest), std::move(*config), std::move(*weights), std::move(states));
}

std::vector<StateArray> Checkpoint::arrays(Stage stage) const {
  std::vector<StateArray> out;
  for (const TensorView& tensor : states_.at(static_cast<std::size_t>(stage)).tensors()) {
    out.push_back({tensor.name, tensor.count()});
  }
  return out;
}

std::string Checkpoint::scalars(Stage stage) const {
  return states_.at(static_cast<std::size_t>(stage)).metadata().at(scalars_key);
}

Result<std::vector<float>> Checkpoint::array(Stage stage, std::string_view name) const {
  const SafetensorsFile& file = states_.at(static_cast<std::size_t>(stage));
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) {
    return fail(ErrorCode::not_found, fmt::format("{}: has no array '{}'", file.path().string(), shown(name)));
  }
  std::vector<float> out(static_cast<std::size_t>(tensor->count()));
  if (Status read = read_floats(*tensor, out); !read) return at_path(file.path(), read.error());
  return out;
}

Status Checkpoint::check_values() const {
  for (std::size_t i = 0; i < manifest_.cut.size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    if (const auto values = weights_.stage(manifest_.cut[i], stage); !values) return tl::unexpected(values.error());
    for (const StateArray& known : arrays(stage)) {
      if (const auto values = array(stage, known.name); !values) return tl::unexpected(values.error());
    }
  }
  return {};
}

Result<NewestGood> newest_good(const fs::path& checkpoints, const ModelConfig* expected) {
  std::vector<std::string> passed_over;
  for (const Found& found : find_checkpoints(checkpoints)) {
    Result<Checkpoint> checkpoint = Checkpoint::open(found.path, expected);
    const Status good = checkpoint ? checkpoint->check_values() : tl::unexpected(checkpoint.error());
    if (good) return NewestGood{std::move(*checkpoint), std::move(passed_over)};
    passed_over.push_back(checkpoint_name(found.step) + ": " + good.error().message);
  }
  if (passed_over.empty()) return fail(ErrorCode::not_found, checkpoints.string() + ": has no checkpoint");
  return fail(ErrorCode::not_found,
              fmt::format("{}: none of its checkpoints is good: {}", checkpoints.string(), fmt::join(passed_over, "; ")));
}

Result<std::vector<fs::path>> remove_old(const fs::path& checkpoints, std::int64_t keep) {
  STARLING_CHECK(keep >= 1, "the last checkpoint is never removed");
  std::vector<fs::path> removed;
  std::int64_t whole = 0;
  bool one_verified = false;
  for (const Found& found : find_checkpoints(checkpoints)) {
    if (whole < keep || !one_verified) {
      if (!look_at(found.path)) continue;
      ++whole;
      if (!one_verified) one_verified = Checkpoint::open(found.path).has_value();
      continue;
    }
    // Under a leftover's name first: half removed it must not look like a checkpoint.
    const fs::path aside = checkpoints / ("." + found.path.filename().string() + ".old" + std::string(temporary_suffix));
    if (Status ok = rename_path(found.path, aside); !ok) return tl::unexpected(ok.error());
    if (Status ok = remove_tree(aside); !ok) return tl::unexpected(ok.error());
    removed.push_back(found.path);
  }
  return removed;
}

}  // namespace starling::trainer
