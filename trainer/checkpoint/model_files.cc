#include "trainer/checkpoint/model_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "gossip/base/real_env.h"
#include "trainer/data/json_text.h"

namespace starling::trainer {
namespace {

constexpr std::uint64_t max_index_bytes = 64 << 20;
constexpr std::size_t max_files = 4096;
constexpr std::size_t max_named = 3;  // tensors that one message names
constexpr std::string_view embedding_name = "model.embed_tokens.weight";
constexpr std::string_view head_name = "lm_head.weight";

bool is_weight(std::string_view dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

// A buffer that old versions of transformers saved and that follows from config.json.
bool is_rotary_buffer(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

bool is_plain_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

std::map<std::string, std::vector<std::int64_t>> shapes_of(const ModelConfig& model) {
  std::map<std::string, std::vector<std::int64_t>> out;
  for (ParameterSpec& spec : stage_parameters(model, {0, model.num_hidden_layers}, 0)) {
    out.emplace(std::move(spec.name), std::move(spec.shape));
  }
  return out;
}

// "3 tensors (a, b, c, ...)".
std::string some_of(const std::vector<std::string>& names) {
  const std::size_t count = std::min(names.size(), max_named);
  std::vector<std::string> first;
  for (std::size_t i = 0; i < count; ++i) first.push_back(shown(std::string_view(names[i])));
  return fmt::format("{} tensor{} ({}{})", names.size(), names.size() == 1 ? "" : "s", fmt::join(first, ", "),
                     names.size() > count ? ", ..." : "");
}

using WeightMap = std::map<std::string, std::string>;  // tensor -> file

Result<WeightMap> read_index(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& what) {
    return fail(ErrorCode::bad_input, path.string() + ": " + what);
  };
  const Result<Bytes> text = read_file(path, max_index_bytes);
  if (!text) return tl::unexpected(text.error());
  const auto index = parse_json_object(as_text(*text));
  if (!index) return refuse(index.error().message);
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object() || map->empty()) {
    return refuse("expected an object weight_map of tensors and their files");
  }
  WeightMap out;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
      return refuse(fmt::format("weight_map: '{}': expected the name of a file in this directory, got {}",
                                shown(std::string_view(tensor)), shown(file)));
    }
    out.emplace(tensor, file.get<std::string>());
  }
  return out;
}

Result<std::vector<SafetensorsFile>> open_files(const std::filesystem::path& directory, const WeightMap& weight_map) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : weight_map) names.insert(file);
  if (names.size() > max_files) {
    return fail(ErrorCode::bad_input, fmt::format("{}: expected at most {} files, got {}",
                                                  (directory / index_file).string(), max_files, names.size()));
  }
  std::vector<SafetensorsFile> files;
  for (const std::string& name : names) {
    Result<SafetensorsFile> file = SafetensorsFile::open(directory / name);
    if (!file) return tl::unexpected(file.error());
    for (const TensorView& tensor : file->tensors()) {
      const auto place = weight_map.find(tensor.name);
      if (place != weight_map.end() && place->second == name) continue;
      if (place == weight_map.end() && is_rotary_buffer(tensor.name)) continue;
      return fail(ErrorCode::bad_input,
                  fmt::format("{}: has tensor '{}', which {} {}", file->path().string(),
                              shown(std::string_view(tensor.name)), index_file,
                              place == weight_map.end() ? "does not know"
                                                        : fmt::format("says is in {}", shown(std::string_view(place->second)))));
    }
    files.push_back(std::move(*file));
  }
  return files;
}

}  // namespace

std::string model_file_name(Stage stage, std::int64_t stages) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", stage + 1, stages);
}

std::vector<TensorPlan> model_tensors(const ModelConfig& model, const StageLayers& layers, Stage stage,
                                      WeightDtype dtype) {
  std::vector<TensorPlan> out;
  for (ParameterSpec& spec : stage_parameters(model, layers, stage)) {
    out.push_back({.name = std::move(spec.name), .dtype = dtype, .shape = std::move(spec.shape)});
  }
  return out;
}

TensorMetadata model_metadata() { return {{"format", "pt"}}; }

std::string index_text(const ModelConfig& model, const std::vector<StageLayers>& cut, WeightDtype dtype) {
  std::int64_t values = 0;
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < cut.size(); ++i) {
    const auto stage = static_cast<Stage>(i);
    const std::string file = model_file_name(stage, static_cast<std::int64_t>(cut.size()));
    for (const ParameterSpec& spec : stage_parameters(model, cut[i], stage)) weight_map[spec.name] = file;
    values += parameter_count(model, cut[i], stage);
  }
  nlohmann::ordered_json out;
  out["metadata"] = {{"total_parameters", values}, {"total_size", values * (dtype == WeightDtype::float32 ? 4 : 2)}};
  out["weight_map"] = std::move(weight_map);
  return out.dump(2) + "\n";
}

ModelReader::ModelReader(ModelConfig model, std::vector<SafetensorsFile> files)
    : model_(std::move(model)), files_(std::move(files)) {}

Result<ModelReader> ModelReader::open(const std::filesystem::path& directory, const ModelConfig& model) {
  std::error_code ignored;
  std::vector<SafetensorsFile> files;
  if (std::filesystem::exists(directory / single_file, ignored)) {  // as transformers: it goes before an index
    Result<SafetensorsFile> file = SafetensorsFile::open(directory / single_file);
    if (!file) return tl::unexpected(file.error());
    files.push_back(std::move(*file));
  } else if (std::filesystem::exists(directory / index_file, ignored)) {
    const Result<WeightMap> weight_map = read_index(directory / index_file);
    if (!weight_map) return tl::unexpected(weight_map.error());
    Result<std::vector<SafetensorsFile>> opened = open_files(directory, *weight_map);
    if (!opened) return tl::unexpected(opened.error());
    files = std::move(*opened);
  } else {
    return fail(ErrorCode::not_found, fmt::format("{}: expected {} or {} there, got neither", directory.string(),
                                                  single_file, index_file));
  }
  ModelReader out(model, std::move(files));
  const auto with_place = [&](const Error& error) { return fail(error.code, directory.string() + ": " + error.message); };
  if (Status collected = out.collect(); !collected) return with_place(collected.error());
  if (Status good = out.check(); !good) return with_place(good.error());
  return out;
}

Status ModelReader::collect() {
  for (std::size_t file = 0; file < files_.size(); ++file) {
    const auto& tensors = files_[file].tensors();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (is_rotary_buffer(tensors[i].name)) continue;
      if (places_.emplace(tensors[i].name, Place{file, i}).second) continue;
      return fail(ErrorCode::bad_input, fmt::format("tensor '{}' is in two files", shown(std::string_view(tensors[i].name))));
    }
  }
  return {};
}

// Every tensor of the model, each of its shape, and no other.
Status ModelReader::check() const {
  const auto shapes = shapes_of(model_);
  std::vector<std::string> missing;
  for (const auto& [name, shape] : shapes) {
    const auto place = places_.find(name);
    if (place == places_.end()) {
      missing.push_back(name);
      continue;
    }
    const TensorView& tensor = at(place->second);
    if (tensor.shape != shape) {
      return fail(ErrorCode::bad_input,
                  fmt::format("tensor '{}': config.json asks for shape [{}], got [{}]", name, fmt::join(shape, ", "),
                              fmt::join(tensor.shape, ", ")));
    }
    if (!is_weight(tensor.dtype)) {
      return fail(ErrorCode::bad_input, fmt::format("tensor '{}': expected weights of F32, BF16 or F16, got {}", name,
                                                    tensor.dtype));
    }
  }
  if (missing == std::vector<std::string>{std::string(head_name)}) {
    return fail(ErrorCode::bad_input, "lm_head.weight is missing; a model without it has tie_word_embeddings: true");
  }
  if (!missing.empty()) return fail(ErrorCode::bad_input, some_of(missing) + " missing");
  std::vector<std::string> surplus;
  for (const auto& [name, place] : places_) {
    const bool tied_head = model_.tie_word_embeddings && name == head_name;
    if (!shapes.contains(name) && !tied_head) surplus.push_back(name);
  }
  if (!surplus.empty()) {
    return fail(ErrorCode::bad_input, some_of(surplus) + " that no Llama model of this config.json has");
  }
  return {};
}

// transformers ignores a head that is in the file beside a tie; that it says the same is all that makes it harmless.
Status ModelReader::check_tied_head() const {
  const auto place = places_.find(head_name);
  if (!model_.tie_word_embeddings || place == places_.end()) return {};
  const TensorView& head = at(place->second);
  const TensorView& embedding = at(places_.find(embedding_name)->second);
  if (head.shape == embedding.shape && head.dtype == embedding.dtype &&
      std::equal(head.bytes.begin(), head.bytes.end(), embedding.bytes.begin(), embedding.bytes.end())) {
    return {};
  }
  return fail(ErrorCode::bad_input,
              "lm_head.weight differs from model.embed_tokens.weight though tie_word_embeddings is true; set it to false "
              "in config.json or remove the tensor");
}

Status ModelReader::read(const ParameterSpec& spec, std::span<float> out) const {
  const auto place = places_.find(spec.name);
  STARLING_CHECK(place != places_.end(), "a parameter of the model");
  const Status got = read_floats(at(place->second), out);
  if (got) return {};
  return fail(got.error().code, files_[place->second.file].path().string() + ": " + got.error().message);
}

Result<std::vector<float>> ModelReader::stage(const StageLayers& layers, Stage stage) const {
  if (stage == 0) {
    if (Status tied = check_tied_head(); !tied) return tl::unexpected(tied.error());
  }
  std::vector<float> flat(static_cast<std::size_t>(parameter_count(model_, layers, stage)));
  std::span<float> rest(flat);
  for (const ParameterSpec& spec : stage_parameters(model_, layers, stage)) {
    const auto count = static_cast<std::size_t>(spec.count());
    if (Status got = read(spec, rest.first(count)); !got) return tl::unexpected(got.error());
    rest = rest.subspan(count);
  }
  return flat;
}

}  // namespace starling::trainer
