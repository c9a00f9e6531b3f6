#include "launcher/run_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "gossip/base/host_port.h"
#include "gossip/net/wire.h"
#include "trainer/checkpoint/hf_config.h"
#include "trainer/checkpoint/model_files.h"
#include "trainer/data/source.h"

namespace starling::launcher {
namespace {

constexpr std::size_t max_run_name_bytes = 64;
constexpr std::int64_t byte_vocabulary = 256;
// Keeps tokens_per_step() and whatever is counted in tokens far from overflow.
constexpr double max_tokens_per_step = 1e12;

class Findings {
 public:
  // A component's own problems, each "key: message" with the key as it is called inside of the section.
  void add_section(std::string_view section, const std::vector<std::string>& problems) {
    for (const std::string& problem : problems) {
      const std::size_t colon = problem.find(": ");
      STARLING_CHECK(colon != std::string::npos, "a section's problem begins with its key");
      error(fmt::format("{}.{}", section, problem.substr(0, colon)), problem.substr(colon + 2));
    }
  }
  void error(std::string key, std::string message) { add(Severity::error, std::move(key), std::move(message)); }
  void warn(std::string key, std::string message) { add(Severity::warning, std::move(key), std::move(message)); }
  // Whether every key of these sections is good so far.
  bool good(std::initializer_list<std::string_view> sections) const {
    return std::none_of(found_.begin(), found_.end(), [&](const Finding& finding) {
      const std::string_view section = std::string_view(finding.key).substr(0, finding.key.find('.'));
      return finding.severity == Severity::error &&
             std::find(sections.begin(), sections.end(), section) != sections.end();
    });
  }
  std::vector<Finding> take() { return std::move(found_); }

 private:
  void add(Severity severity, std::string key, std::string message) {
    found_.push_back({severity, std::move(key), std::move(message)});
  }
  std::vector<Finding> found_;
};

void check_model(const RunConfig& config, Findings& findings) {
  if (!findings.good({"model"})) return;
  if (config.data.tokenizer == "byte" && config.model.vocab_size < byte_vocabulary) {
    findings.error("model.vocab_size", fmt::format("tokenizer.path byte has {} tokens, got {}; set {}", byte_vocabulary,
                                                   config.model.vocab_size, byte_vocabulary));
  }
  if (config.training.seq_len > config.model.max_position_embeddings) {
    findings.error("training.seq_len",
                   fmt::format("{} is more than model.max_position_embeddings {}; lower the one or raise "
                               "the other",
                               config.training.seq_len, config.model.max_position_embeddings));
  }
}

void check_stages(const RunConfig& config, Findings& findings) {
  if (!findings.good({"model", "parallelism"})) return;
  const auto stages = config.parallelism.stages;
  if (stages > static_cast<std::int64_t>(net::max_hops)) {
    findings.error("parallelism.stages", fmt::format("a path has at most {} stages, got {}", net::max_hops, stages));
  } else if (const auto cut = trainer::cut_into_stages(config.model, stages, config.parallelism.stage_layers); !cut) {
    const std::string& message = cut.error().message;
    const std::size_t colon = message.find(": ");
    findings.error(message.substr(0, colon), message.substr(colon + 2));
  }
  const auto& start_workers = config.membership.start_workers;
  if (findings.good({"membership"}) && start_workers && *start_workers < stages) {
    findings.error("membership.start_workers",
                   fmt::format("{} workers cannot fill {} stages (parallelism.stages); set auto or at least {}",
                               *start_workers, stages, stages));
  }
}

void check_length(const RunConfig& config, Findings& findings) {
  const auto& training = config.training;
  if (training.max_steps && training.max_tokens) {
    findings.error("training.max_tokens", "max_steps is set too; a run ends by one of them: remove the other");
  }
  if (!findings.good({"training", "parallelism"})) return;
  const double tokens = static_cast<double>(training.seq_len) * static_cast<double>(training.micro_batch_size) *
                        static_cast<double>(training.microbatches) * static_cast<double>(config.parallelism.replicas);
  if (tokens > max_tokens_per_step) {
    findings.error("training",
                   fmt::format("seq_len x micro_batch_size x microbatches x parallelism.replicas is {:.2g} tokens "
                               "a step; at most {:.0g} are",
                               tokens, max_tokens_per_step));
    return;
  }
  const Step steps = config.planned_steps();
  const std::string_view limit = training.max_steps ? "training.max_steps" : "by training.max_tokens";
  if (findings.good({"lr_scheduler"}) && config.lr_scheduler.warmup_steps >= steps) {
    findings.error(
        "lr_scheduler.warmup_steps",
        fmt::format("the run has {} steps ({}), and the learning rate would still rise at its end, got {}; set "
                    "fewer, such as {}",
                    steps, limit, config.lr_scheduler.warmup_steps, steps / 10));
  }
  if (findings.good({"outer"}) && config.outer.algorithm != outer::Algorithm::none &&
      config.outer.local_steps > steps) {
    findings.warn("outer.local_steps", fmt::format("the run has {} steps ({}), so replicas average only once, at its "
                                                   "end; a round is {} steps",
                                                   steps, limit, config.outer.local_steps));
  }
  const auto microbatches = training.microbatches;
  if (const auto few = 4 * config.parallelism.stages; microbatches < few) {
    findings.warn("training.microbatches",
                  fmt::format("fewer than 4 x parallelism.stages leave much of the pipeline idle, got {}; {} "
                              "or more keep it busy",
                              microbatches, few));
  }
}

void check_learning_rate(const RunConfig& config, Findings& findings) {
  if (!findings.good({"optimizer", "lr_scheduler"})) return;
  if (config.lr_scheduler.min_lr > config.optimizer.lr) {
    findings.error("lr_scheduler.min_lr", fmt::format("{} is more than optimizer.lr {}, from which it falls; lower it",
                                                      config.lr_scheduler.min_lr, config.optimizer.lr));
  }
}

// A node's three ports and its HTTP server on one host.
void check_ports(const RunConfig& config, Findings& findings) {
  if (!findings.good({"network", "http"}) || config.network.listen_is_default || config.http.listen_is_default) return;
  const auto wire = parse_host_port(std::string_view(config.network.listen).substr(std::string_view("tcp://").size()));
  const auto http = parse_host_port(config.http.listen);
  STARLING_CHECK(wire && http, "their sections found both good");
  if (wire->port == 0 || http->port < wire->port || http->port > wire->port + 2) return;
  findings.error("http.listen",
                 fmt::format("port {} is one of the three that network.listen takes ({} to {}); set another",
                             http->port, wire->port, wire->port + 2));
}

}  // namespace

std::vector<std::string> RunSection::validate() const {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  std::vector<std::string> problems;
  if (name.empty() || name.size() > max_run_name_bytes || name.front() == '.' || name.front() == '-' ||
      !std::all_of(name.begin(), name.end(), allowed)) {
    problems.push_back(
        fmt::format("name: names the run's directory: expected 1 to {} letters, digits, '.', '_' and '-', not "
                    "beginning with '.' or '-', got '{}'",
                    max_run_name_bytes, name));
  }
  if (output_dir.empty()) problems.push_back("output_dir: expected a directory, got nothing; ./runs is usual");
  return problems;
}

std::vector<Finding> RunConfig::validate() const {
  Findings findings;
  if (version != 1)
    findings.error("version", fmt::format("this program reads version 1 of run files, got {}", version));
  findings.add_section("run", run.validate());
  findings.add_section("model", model.validate());
  findings.add_section("training", training.validate());
  findings.add_section("optimizer", optimizer.validate());
  findings.add_section("lr_scheduler", lr_scheduler.validate());
  findings.add_section("parallelism", parallelism.validate());
  findings.add_section("outer", outer.validate());
  findings.add_section("pipeline", pipeline.validate());
  findings.add_section("membership", membership.validate());
  findings.add_section("network", network.validate());
  findings.add_section("eval", eval.validate());
  findings.add_section("checkpoint", checkpoint.validate());
  findings.add_section("logging", logging.validate());
  findings.add_section("http", http.validate());
  if (data.train.empty()) {
    findings.error("data.train", "expected the files to train on, got none; name them, such as [data/*.txt]");
  }
  check_model(*this, findings);
  check_stages(*this, findings);
  check_length(*this, findings);
  check_learning_rate(*this, findings);
  check_ports(*this, findings);
  return findings.take();
}

Step RunConfig::planned_steps() const {
  if (training.max_steps) return *training.max_steps;
  return (training.max_tokens.value_or(0) + tokens_per_step() - 1) / tokens_per_step();
}

std::vector<trainer::StageLayers> RunConfig::stage_layers() const {
  auto cut = trainer::cut_into_stages(model, parallelism.stages, parallelism.stage_layers);
  STARLING_CHECK(cut, "validate() has cut the model in the same way");
  return *std::move(cut);
}

std::vector<AutoChoice> RunConfig::auto_choices() const {
  std::vector<AutoChoice> choices;
  if (!training.max_steps) {
    choices.push_back({"training.max_steps", fmt::format("{} (training.max_tokens / tokens a step)", planned_steps())});
  }
  if (training.dtype == "auto") choices.push_back({"training.dtype", "the faster of float32 and bfloat16 on a CPU, bfloat16 on CUDA"});
  if (parallelism.stage_layers.empty()) {
    std::vector<std::int64_t> blocks;
    for (const auto& layers : stage_layers()) blocks.push_back(layers.last - layers.first);
    choices.push_back({"parallelism.stage_layers", fmt::format("[{}]", fmt::join(blocks, ", "))});
  }
  if (!outer.gamma) choices.push_back({"outer.gamma", fmt::format("{} (outer.lr)", outer.effective_gamma())});
  if (!membership.start_workers) {
    choices.push_back({"membership.start_workers", fmt::format("{} (stages x replicas)", start_workers())});
  }
  if (data.val.empty()) choices.push_back({"data.val", "the last 5 % of every training file"});
  if (!pipeline.max_in_flight) choices.push_back({"pipeline.max_in_flight", "measured while the run goes on"});
  if (!pipeline.max_activation_memory_bytes) {
    choices.push_back({"pipeline.max_activation_memory", "half of the free memory / local workers, at start"});
  }
  if (network.listen_is_default) choices.push_back({"network.listen", network.listen + ", or the next free ports"});
  if (network.advertise == "auto")
    choices.push_back({"network.advertise", "the address of the default route, at start"});
  if (http.listen_is_default) choices.push_back({"http.listen", http.listen + ", or a free port"});
  return choices;
}

tl::expected<void, Finding> check_init_from(const RunConfig& config) {
  if (config.init_from.empty()) return {};
  const auto refuse = [](std::string message) {
    return tl::unexpected(Finding{Severity::error, "model.init_from", std::move(message)});
  };
  const auto theirs = trainer::read_hf_config(config.init_from);
  if (!theirs) return refuse(theirs.error().message + "; name a directory with config.json and *.safetensors, or null");
  if (const auto other = trainer::differences(theirs->model, config.model, "there", "in this run"); !other.empty()) {
    return refuse(fmt::format("{} holds another model: {}; starling import prints the section model that fits it",
                              config.init_from, fmt::join(other, "; ")));
  }
  if (const auto files = trainer::ModelReader::open(config.init_from, config.model); !files) {
    return refuse(files.error().message);
  }
  return {};
}

tl::expected<DataSummary, Finding> check_data(const RunConfig& config) {
  const trainer::BatchShape shape{config.training.micro_batch_size, config.training.seq_len};
  const auto source = trainer::Source::open(config.data, shape, config.model.vocab_size);
  if (source) return DataSummary{source->training_tokens(), source->validation_tokens()};
  const std::string& message = source.error().message;
  for (const std::string key : {"data.train", "data.val", "tokenizer.path"}) {
    if (message.starts_with(key + ": ")) {
      return tl::unexpected(Finding{Severity::error, key, message.substr(key.size() + 2)});
    }
  }
  return tl::unexpected(Finding{Severity::error, "data.train", message});
}

}  // namespace starling::launcher
