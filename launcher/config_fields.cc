#include "launcher/config_fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>

#include "launcher/nearest.h"

namespace starling::launcher {
namespace {

// How a type is read and written.
template <typename T>
struct Codec {
  std::function<Read<T>(const YamlValue&)> read;
  std::function<std::string(const T&)> write;
};

const Codec<std::int64_t> integer{read_integer, write_integer};
const Codec<std::uint64_t> seed{read_seed, write_seed};
const Codec<double> number{read_number, write_number};
const Codec<bool> boolean{read_boolean, write_boolean};
const Codec<std::string> text{read_text, write_text};
const Codec<std::vector<std::string>> texts{read_texts, [](const auto& values) { return write_texts(values); }};
const Codec<Duration> duration{read_duration, write_duration};
const Codec<std::int64_t> bytes{read_bytes, write_bytes};

// The message of a failed read, for a key that also takes `word`.
tl::unexpected<std::string> or_word(std::string message, std::string_view word) {
  const std::size_t got = message.find(", got ");
  message.insert(std::min(got, message.size()), fmt::format(" or {}", word));
  return tl::unexpected<std::string>(std::move(message));
}

// A value or the word that stands for none: null or auto.
template <typename T>
Codec<std::optional<T>> optional(const char* none, const Codec<T>& codec) {
  const bool none_is_null = std::string_view(none) == "null";
  return {[=](const YamlValue& value) -> Read<std::optional<T>> {
            if (none_is_null ? is_null(value) : is_word(value, none)) return std::optional<T>();
            auto read = codec.read(value);
            if (!read) return or_word(read.error(), none);
            return std::optional<T>(*std::move(read));
          },
          [=](const std::optional<T>& value) { return value ? codec.write(*value) : std::string(none); }};
}

template <typename T>
struct Choice {
  std::string word;
  T value;
};

// "a", "a or b", "a, b or c".
std::string alternatives(const std::vector<std::string>& words) {
  if (words.size() < 2) return words.empty() ? "" : words.front();
  return fmt::format("{} or {}", fmt::join(words.begin(), words.end() - 1, ", "), words.back());
}

// One of a few words. `later` are words whose meaning does not exist yet.
template <typename T>
Codec<T> one_of(std::vector<Choice<T>> choices, std::vector<std::string> later = {}) {
  std::vector<std::string> words;
  for (const auto& choice : choices) words.push_back(choice.word);
  const auto read = [=](const YamlValue& value) -> Read<T> {
    const bool scalar = value.kind == YamlValue::Kind::plain || value.kind == YamlValue::Kind::quoted;
    for (const auto& choice : choices) {
      if (scalar && value.text == choice.word) return choice.value;
    }
    if (scalar && std::find(later.begin(), later.end(), value.text) != later.end()) {
      return tl::unexpected<std::string>(
          fmt::format("{} comes in a later version; now it is {}", value.text, alternatives(words)));
    }
    return tl::unexpected<std::string>(unexpected_value(alternatives(words), value).value() +
                                       (scalar ? did_you_mean(value.text, words) : ""));
  };
  const auto write = [=](const T& value) {
    for (const auto& choice : choices) {
      if (choice.value == value) return choice.word;
    }
    return std::string();
  };
  return {read, write};
}

// One of a few words that the component keeps as a text.
Codec<std::string> word_of(std::initializer_list<std::string> words, std::vector<std::string> later = {}) {
  std::vector<Choice<std::string>> choices;
  for (const auto& word : words) choices.push_back({word, word});
  return one_of(std::move(choices), std::move(later));
}

Read<std::string> read_tokenizer(const YamlValue& value) {
  const auto path = read_text(value);
  if (!path || *path == "byte") return path;
  if (path->ends_with(".json") || path->ends_with(".model")) return path;
  return unexpected_value("byte or a file NAME.json or NAME.model", value);
}

// An empty list of the component is `auto` in the file.
const Codec<std::vector<std::int64_t>> stage_layers{
    [](const YamlValue& value) -> Read<std::vector<std::int64_t>> {
      if (is_word(value, "auto")) return std::vector<std::int64_t>();
      auto blocks = read_integers(value);
      if (!blocks) return or_word(blocks.error(), "auto");
      if (blocks->empty()) return unexpected_value("auto or the number of blocks of each stage", value);
      return blocks;
    },
    [](const std::vector<std::int64_t>& blocks) {
      return blocks.empty() ? std::string("auto") : write_integers(blocks);
    }};

// The map of config.json. Every key is needed, as transformers needs it, and no other is known.
Read<trainer::RopeScaling> read_rope_scaling(const YamlValue& value) {
  constexpr std::string_view expected =
      "a map such as {rope_type: llama3, factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, "
      "original_max_position_embeddings: 8192}";
  constexpr std::size_t keys = 5;
  if (value.kind != YamlValue::Kind::map) return unexpected_value(expected, value);
  trainer::RopeScaling scaling;
  for (const YamlEntry& entry : value.entries) {
    const auto fault = [&](const std::string& message) {
      return tl::unexpected<std::string>(fmt::format("{}: {}", entry.key, message));
    };
    if (entry.key == "rope_type") {
      if (!is_word(entry.value, "llama3")) return fault(unexpected_value("llama3", entry.value).value());
      continue;
    }
    if (entry.key == "original_max_position_embeddings") {
      const auto read = read_integer(entry.value);
      if (!read) return fault(read.error());
      scaling.original_max_position_embeddings = *read;
      continue;
    }
    double* const to = entry.key == "factor"             ? &scaling.factor
                       : entry.key == "low_freq_factor"  ? &scaling.low_freq_factor
                       : entry.key == "high_freq_factor" ? &scaling.high_freq_factor
                                                         : nullptr;
    if (to == nullptr) return fault(fmt::format("unknown key; expected {}", expected));
    const auto read = read_number(entry.value);
    if (!read) return fault(read.error());
    *to = *read;
  }
  if (value.entries.size() != keys) return unexpected_value(fmt::format("all five keys of {}", expected), value);
  return scaling;
}

const Codec<trainer::RopeScaling> rope_scaling{
    read_rope_scaling, [](const trainer::RopeScaling& scaling) {
      return fmt::format(
          "{{rope_type: llama3, factor: {}, low_freq_factor: {}, high_freq_factor: {}, "
          "original_max_position_embeddings: {}}}",
          write_number(scaling.factor), write_number(scaling.low_freq_factor), write_number(scaling.high_freq_factor),
          write_integer(scaling.original_max_position_embeddings));
    }};

template <typename Section, typename T>
Field field(std::string key, Section RunConfig::*section, T Section::*member, const Codec<T>& codec) {
  const auto read = [=](RunConfig& config, const YamlValue& value) -> Read<void> {
    auto got = codec.read(value);
    if (!got) return tl::unexpected<std::string>(got.error());
    config.*section.*member = *std::move(got);
    return {};
  };
  return {std::move(key), read, [=](const RunConfig& config) { return codec.write(config.*section.*member); }};
}

Field version_field() {
  return {"version",
          [](RunConfig& config, const YamlValue& value) -> Read<void> {
            const auto version = read_integer(value);
            if (!version) return tl::unexpected<std::string>(version.error());
            config.version = *version;
            return {};
          },
          [](const RunConfig& config) { return write_integer(config.version); }};
}

Field betas_field() {
  return {"optimizer.betas",
          [](RunConfig& config, const YamlValue& value) -> Read<void> {
            constexpr std::string_view expected = "a list of two numbers such as [0.9, 0.95]";
            if (value.kind != YamlValue::Kind::list || value.items.size() != 2)
              return unexpected_value(expected, value);
            const auto beta1 = read_number(value.items[0]);
            const auto beta2 = read_number(value.items[1]);
            if (!beta1) return tl::unexpected<std::string>("item 1: " + beta1.error());
            if (!beta2) return tl::unexpected<std::string>("item 2: " + beta2.error());
            config.optimizer.beta1 = *beta1;
            config.optimizer.beta2 = *beta2;
            return {};
          },
          [](const RunConfig& config) {
            return fmt::format("[{}, {}]", write_number(config.optimizer.beta1), write_number(config.optimizer.beta2));
          }};
}

Field init_from_field() {
  return {"model.init_from",
          [](RunConfig& config, const YamlValue& value) -> Read<void> {
            if (is_null(value)) {
              config.init_from.clear();
              return {};
            }
            const auto path = read_text(value);
            if (!path) return or_word(path.error(), "null");
            config.init_from = *path;
            return {};
          },
          [](const RunConfig& config) { return config.init_from.empty() ? "null" : write_text(config.init_from); }};
}

// `auto` is the default port, which moves on when it is taken; an address is taken at its word.
template <typename Section>
Field listen_field(std::string key, Section RunConfig::*section) {
  return {std::move(key),
          [=](RunConfig& config, const YamlValue& value) -> Read<void> {
            const auto address = read_text(value);
            if (!address) return or_word(address.error(), "auto");
            const bool is_auto = *address == "auto";
            (config.*section).listen = is_auto ? Section{}.listen : *address;
            (config.*section).listen_is_default = is_auto;
            return {};
          },
          [=](const RunConfig& config) {
            return (config.*section).listen_is_default ? std::string("auto") : write_text((config.*section).listen);
          }};
}

using C = RunConfig;
using membership::MembershipConfig;
using metrics::LoggingConfig;
using net::NetworkConfig;
using outer::OuterConfig;
using pipeline::PipelineConfig;
using trainer::CheckpointConfig;
using trainer::DataConfig;
using trainer::EvalConfig;
using trainer::ModelConfig;
using trainer::OptimizerConfig;
using trainer::ParallelismConfig;
using trainer::SchedulerConfig;
using trainer::TrainingConfig;

std::vector<Field> fields_of_the_model() {
  return {
      version_field(),
      field("run.name", &C::run, &RunSection::name, text),
      field("run.seed", &C::run, &RunSection::seed, seed),
      field("run.output_dir", &C::run, &RunSection::output_dir, text),
      field("model.model_type", &C::model, &ModelConfig::model_type, word_of({"llama"})),
      field("model.hidden_size", &C::model, &ModelConfig::hidden_size, integer),
      field("model.intermediate_size", &C::model, &ModelConfig::intermediate_size, integer),
      field("model.num_hidden_layers", &C::model, &ModelConfig::num_hidden_layers, integer),
      field("model.num_attention_heads", &C::model, &ModelConfig::num_attention_heads, integer),
      field("model.num_key_value_heads", &C::model, &ModelConfig::num_key_value_heads, integer),
      field("model.vocab_size", &C::model, &ModelConfig::vocab_size, integer),
      field("model.max_position_embeddings", &C::model, &ModelConfig::max_position_embeddings, integer),
      field("model.rope_theta", &C::model, &ModelConfig::rope_theta, number),
      field("model.rope_scaling", &C::model, &ModelConfig::rope_scaling, optional("null", rope_scaling)),
      field("model.rms_norm_eps", &C::model, &ModelConfig::rms_norm_eps, number),
      field("model.tie_word_embeddings", &C::model, &ModelConfig::tie_word_embeddings, boolean),
      init_from_field(),
      field("tokenizer.path", &C::data, &DataConfig::tokenizer, Codec<std::string>{read_tokenizer, write_text}),
      field("data.train", &C::data, &DataConfig::train, texts),
      field("data.val", &C::data, &DataConfig::val, texts),
      field("data.format", &C::data, &DataConfig::format, word_of({"auto", "bin", "uint16", "text"})),
      field("training.seq_len", &C::training, &TrainingConfig::seq_len, integer),
      field("training.micro_batch_size", &C::training, &TrainingConfig::micro_batch_size, integer),
      field("training.microbatches", &C::training, &TrainingConfig::microbatches, integer),
      field("training.max_steps", &C::training, &TrainingConfig::max_steps, optional("null", integer)),
      field("training.max_tokens", &C::training, &TrainingConfig::max_tokens, optional("null", integer)),
      field("training.max_grad_norm", &C::training, &TrainingConfig::max_grad_norm, number),
      field("training.document_attention", &C::training, &TrainingConfig::document_attention, boolean),
      field("training.dtype", &C::training, &TrainingConfig::dtype, word_of({"auto", "float32", "bfloat16"})),
      field("training.activation_checkpointing", &C::training, &TrainingConfig::activation_checkpointing, boolean),
      field("optimizer.name", &C::optimizer, &OptimizerConfig::name, word_of({"adamw"})),
      field("optimizer.lr", &C::optimizer, &OptimizerConfig::lr, number),
      betas_field(),
      field("optimizer.eps", &C::optimizer, &OptimizerConfig::eps, number),
      field("optimizer.weight_decay", &C::optimizer, &OptimizerConfig::weight_decay, number),
      field("lr_scheduler.name", &C::lr_scheduler, &SchedulerConfig::name, word_of({"cosine"})),
      field("lr_scheduler.warmup_steps", &C::lr_scheduler, &SchedulerConfig::warmup_steps, integer),
      field("lr_scheduler.min_lr", &C::lr_scheduler, &SchedulerConfig::min_lr, number),
  };
}

std::vector<Field> fields_of_the_swarm() {
  using outer::Algorithm;
  using outer::Compression;
  using pipeline::ActivationDtype;
  using pipeline::Routing;
  using pipeline::Skip;
  using pipeline::Takeover;
  return {
      field("parallelism.stages", &C::parallelism, &ParallelismConfig::stages, integer),
      field("parallelism.replicas", &C::parallelism, &ParallelismConfig::replicas, integer),
      field("parallelism.stage_layers", &C::parallelism, &ParallelismConfig::stage_layers, stage_layers),
      field(
          "outer.algorithm", &C::outer, &OuterConfig::algorithm,
          one_of<Algorithm>({{"noloco", Algorithm::noloco}, {"diloco", Algorithm::diloco}, {"none", Algorithm::none}})),
      field("outer.local_steps", &C::outer, &OuterConfig::local_steps, integer),
      field("outer.group_size", &C::outer, &OuterConfig::group_size, integer),
      field("outer.lr", &C::outer, &OuterConfig::lr, number),
      field("outer.momentum", &C::outer, &OuterConfig::momentum, number),
      field("outer.gamma", &C::outer, &OuterConfig::gamma, optional("null", number)),
      field("outer.compression", &C::outer, &OuterConfig::compression,
            one_of<Compression>({{"none", Compression::none}, {"bf16", Compression::bf16}}, {"int8", "int4"})),
      field("pipeline.routing", &C::pipeline, &PipelineConfig::routing,
            one_of<Routing>({{"adaptive", Routing::adaptive}, {"permutation", Routing::permutation}})),
      field("pipeline.skip", &C::pipeline, &PipelineConfig::skip,
            one_of<Skip>({{"on_failure", Skip::on_failure}, {"never", Skip::never}}, {"planned"})),
      field("pipeline.takeover", &C::pipeline, &PipelineConfig::takeover,
            one_of<Takeover>({{"on_loss", Takeover::on_loss}, {"never", Takeover::never}})),
      field("pipeline.max_in_flight", &C::pipeline, &PipelineConfig::max_in_flight, optional("auto", integer)),
      field("pipeline.max_activation_memory", &C::pipeline, &PipelineConfig::max_activation_memory_bytes,
            optional("auto", bytes)),
      field("pipeline.activation_dtype", &C::pipeline, &PipelineConfig::activation_dtype,
            one_of<ActivationDtype>({{"fp32", ActivationDtype::fp32}, {"bf16", ActivationDtype::bf16}}, {"int8"})),
      field("membership.start_workers", &C::membership, &MembershipConfig::start_workers, optional("auto", integer)),
      field("membership.heartbeat_interval", &C::membership, &MembershipConfig::heartbeat_interval, duration),
      field("membership.join", &C::membership, &MembershipConfig::join, word_of({"token"})),
      listen_field("network.listen", &C::network),
      field("network.advertise", &C::network, &NetworkConfig::advertise, text),
      field("checkpoint.dir", &C::checkpoint, &CheckpointConfig::dir, text),
      field("checkpoint.interval", &C::checkpoint, &CheckpointConfig::interval, integer),
      field("checkpoint.keep", &C::checkpoint, &CheckpointConfig::keep, integer),
      field("checkpoint.resume", &C::checkpoint, &CheckpointConfig::resume, word_of({"auto", "never"})),
      field("checkpoint.export_hf_on_finish", &C::checkpoint, &CheckpointConfig::export_hf_on_finish, boolean),
      field("eval.interval", &C::eval, &EvalConfig::interval, integer),
      field("eval.batches", &C::eval, &EvalConfig::batches, integer),
      field("logging.log_interval", &C::logging, &LoggingConfig::log_interval, integer),
      field("logging.tensorboard", &C::logging, &LoggingConfig::tensorboard, boolean),
      field("logging.jsonl", &C::logging, &LoggingConfig::jsonl, boolean),
      listen_field("http.listen", &C::http),
  };
}

std::vector<Field> all_fields() {
  std::vector<Field> all = fields_of_the_model();
  std::vector<Field> rest = fields_of_the_swarm();
  std::move(rest.begin(), rest.end(), std::back_inserter(all));
  return all;
}

bool is_false(const YamlValue& value) { return is_word(value, "false"); }
bool is_zero(const YamlValue& value) {
  const auto got = read_number(value);
  return got && *got == 0.0;
}
bool is_empty(const YamlValue& value) {
  return is_null(value) || (value.kind == YamlValue::Kind::list && value.items.empty());
}

std::vector<LaterKey> all_later_keys() {
  return {
      {"outer.overlap", is_false, "false"},
      {"pipeline.path_length", is_null, "null"},
      {"pipeline.stage_dropout", is_zero, "0.0"},
      {"pipeline.step_overlap", [](const YamlValue& v) { return is_word(v, "auto") || is_zero(v); }, "auto"},
      {"network.relay", is_null, "null"},
      {"network.max_upload", is_null, "null"},
      {"eval.prompts", is_empty, "[]"},
  };
}

}  // namespace

std::span<const Field> fields() {
  static const std::vector<Field> all = all_fields();
  return all;
}

std::span<const LaterKey> later_keys() {
  static const std::vector<LaterKey> all = all_later_keys();
  return all;
}

const Field* find_field(std::string_view key) {
  const auto found =
      std::find_if(fields().begin(), fields().end(), [&](const Field& field) { return field.key == key; });
  return found == fields().end() ? nullptr : &*found;
}

const LaterKey* find_later_key(std::string_view key) {
  const auto found =
      std::find_if(later_keys().begin(), later_keys().end(), [&](const LaterKey& later) { return later.key == key; });
  return found == later_keys().end() ? nullptr : &*found;
}

std::string_view section_of(std::string_view key) {
  const std::size_t dot = key.find('.');
  return dot == std::string_view::npos ? std::string_view() : key.substr(0, dot);
}

std::string_view leaf_of(std::string_view key) {
  const std::size_t dot = key.find('.');
  return dot == std::string_view::npos ? key : key.substr(dot + 1);
}

std::span<const std::string> sections() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> names;
    for (const Field& field : fields()) {
      const std::string section(section_of(field.key));
      if (!section.empty() && (names.empty() || names.back() != section)) names.push_back(section);
    }
    return names;
  }();
  return all;
}

std::string environment_name(std::string_view key) {
  std::string name = "STARLING_";
  for (const char c : key) name += c == '.' ? '_' : c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return name;
}

}  // namespace starling::launcher
