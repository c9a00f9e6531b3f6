#include "tests/launcher/random_config.h"

#include <fmt/format.h>

#include <tuple>

#include "gossip/base/random.h"

namespace starling::launcher {
namespace {

// Structured bindings name every field: a new one does not compile until it stands here and in random_config().
auto fields_of(const RunSection& s) {
  const auto& [name, seed, output_dir] = s;
  return std::tie(name, seed, output_dir);
}
auto fields_of(const trainer::ModelConfig& s) {
  const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = s;
  return std::tie(a, b, c, d, e, f, g, h, i, j, k, l);
}
auto fields_of(const trainer::DataConfig& s) {
  const auto& [train, val, format, tokenizer] = s;
  return std::tie(train, val, format, tokenizer);
}
auto fields_of(const trainer::TrainingConfig& s) {
  const auto& [a, b, c, d, e, f, g, h, i] = s;
  return std::tie(a, b, c, d, e, f, g, h, i);
}
auto fields_of(const trainer::OptimizerConfig& s) {
  const auto& [a, b, c, d, e, f] = s;
  return std::tie(a, b, c, d, e, f);
}
auto fields_of(const trainer::SchedulerConfig& s) {
  const auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
auto fields_of(const trainer::ParallelismConfig& s) {
  const auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
auto fields_of(const outer::OuterConfig& s) {
  const auto& [a, b, c, d, e, f, g] = s;
  return std::tie(a, b, c, d, e, f, g);
}
auto fields_of(const pipeline::PipelineConfig& s) {
  const auto& [a, b, c, d, e, f] = s;
  return std::tie(a, b, c, d, e, f);
}
auto fields_of(const membership::MembershipConfig& s) {
  const auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
auto fields_of(const net::NetworkConfig& s) {
  const auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
auto fields_of(const trainer::CheckpointConfig& s) {
  const auto& [a, b, c, d, e] = s;
  return std::tie(a, b, c, d, e);
}
auto fields_of(const trainer::EvalConfig& s) {
  const auto& [a, b] = s;
  return std::tie(a, b);
}
auto fields_of(const metrics::LoggingConfig& s) {
  const auto& [a, b, c] = s;
  return std::tie(a, b, c);
}
auto fields_of(const metrics::HttpConfig& s) {
  const auto& [a, b] = s;
  return std::tie(a, b);
}
auto sections_of(const RunConfig& s) {
  const auto& [version, run, model, init_from, data, training, optimizer, scheduler, parallelism, outer, pipeline, membership,
               network, eval, checkpoint, logging, http] = s;
  return std::tie(run, model, data, training, optimizer, scheduler, parallelism, outer, pipeline, membership, network,
                  eval, checkpoint, logging, http);
}

template <std::size_t Field = 0, typename Tuple>
int first_different(const Tuple& a, const Tuple& b) {
  if constexpr (Field == std::tuple_size_v<Tuple>) {
    return -1;
  } else {
    return std::get<Field>(a) == std::get<Field>(b) ? first_different<Field + 1>(a, b) : static_cast<int>(Field);
  }
}

template <std::size_t Section = 0, typename Tuple>
std::string first_different_section(const Tuple& a, const Tuple& b) {
  if constexpr (Section == std::tuple_size_v<Tuple>) {
    return "";
  } else {
    const int field = first_different(fields_of(std::get<Section>(a)), fields_of(std::get<Section>(b)));
    return field >= 0 ? fmt::format("field {} of section {}", field, Section)
                      : first_different_section<Section + 1>(a, b);
  }
}

class Draw {
 public:
  explicit Draw(std::uint64_t seed) : stream_(seed) {}
  std::int64_t from(std::int64_t lowest, std::int64_t highest) {
    return lowest + static_cast<std::int64_t>(stream_.below(static_cast<std::uint64_t>(highest - lowest + 1)));
  }
  bool coin() { return stream_.below(2) == 1; }
  double number(double lowest, double highest) { return lowest + (highest - lowest) * stream_.uniform(); }
  std::uint64_t seed() { return stream_.next(); }
  template <typename T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[stream_.below(values.size())];
  }
  std::vector<std::string> paths(std::int64_t lowest) {
    std::vector<std::string> out(static_cast<std::size_t>(from(lowest, 3)));
    for (std::string& path : out) {
      path = one_of<std::string>({"a.txt", "/data/*.txt", "ü ö/\"x\".bin", "no", "12", "*", "&x", "a: b", "#", "\\n"});
    }
    return out;
  }

 private:
  Stream stream_;
};

void draw_model(Draw& draw, RunConfig& config) {
  auto& model = config.model;
  const std::int64_t key_heads = draw.from(1, 4);
  model.num_key_value_heads = key_heads;
  model.num_attention_heads = key_heads * draw.from(1, 4);
  model.hidden_size = model.num_attention_heads * 2 * draw.from(1, 64);
  model.intermediate_size = draw.from(1, 4096);
  model.num_hidden_layers = draw.from(1, 48);
  model.vocab_size = draw.from(256, 100'000);
  model.max_position_embeddings = draw.from(1, 4096);
  model.rope_theta = draw.number(1.0, 1e6);
  if (draw.coin()) {
    const double low = draw.number(0.1, 4.0);
    model.rope_scaling = {.factor = draw.number(1.0, 64.0),
                          .low_freq_factor = low,
                          .high_freq_factor = low + draw.number(0.1, 8.0),
                          .original_max_position_embeddings = draw.from(1, 8192)};
  }
  model.rms_norm_eps = draw.number(1e-8, 1e-3);
  model.tie_word_embeddings = draw.coin();

  config.training.seq_len = draw.from(1, model.max_position_embeddings);
  auto& parallelism = config.parallelism;
  parallelism.stages = draw.from(1, model.num_hidden_layers);
  parallelism.replicas = draw.from(1, 64);
  if (draw.coin()) {
    parallelism.stage_layers.assign(static_cast<std::size_t>(parallelism.stages), 1);
    parallelism.stage_layers.back() += model.num_hidden_layers - parallelism.stages;
  }
}

void draw_training(Draw& draw, RunConfig& config) {
  auto& training = config.training;
  training.micro_batch_size = draw.from(1, 64);
  training.microbatches = draw.from(1, 64);
  const std::int64_t steps = draw.from(1, 1'000'000);
  const bool by_tokens = draw.coin();
  if (by_tokens) {
    training.max_tokens = steps * config.tokens_per_step();
  } else {
    training.max_steps = steps;
  }
  training.max_grad_norm = draw.number(0.1, 10.0);
  training.activation_checkpointing = draw.coin();
  training.document_attention = draw.coin();
  training.dtype = draw.one_of<std::string>({"auto", "float32", "bfloat16"});
  config.optimizer = {"adamw",
                      draw.number(1e-6, 1e-2),
                      draw.number(0.0, 0.99),
                      draw.number(0.0, 0.99),
                      draw.number(1e-9, 1e-3),
                      draw.number(0.0, 1.0)};
  config.lr_scheduler.warmup_steps = draw.from(0, steps - 1);
  config.lr_scheduler.min_lr = config.optimizer.lr * draw.number(0.0, 1.0);
  config.checkpoint = {draw.one_of<std::string>({"checkpoints", "/a b/ü", "no"}), draw.from(0, 10'000), draw.from(1, 9),
                       draw.one_of<std::string>({"auto", "never"}), draw.coin()};
  config.eval = {draw.from(0, 10'000), draw.from(1, 100)};
}

void draw_swarm(Draw& draw, RunConfig& config) {
  auto& outer = config.outer;
  outer.algorithm = draw.one_of({outer::Algorithm::noloco, outer::Algorithm::diloco, outer::Algorithm::none});
  outer.local_steps = draw.from(1, 1000);
  outer.momentum = draw.number(0.0, 0.6);
  outer.lr = draw.number(0.65, 1.2);
  if (draw.coin()) outer.gamma = draw.number(0.65, 1.3);
  outer.compression = draw.one_of({outer::Compression::none, outer::Compression::bf16});
  auto& pipeline = config.pipeline;
  pipeline.routing = draw.one_of({pipeline::Routing::adaptive, pipeline::Routing::permutation});
  pipeline.skip = draw.one_of({pipeline::Skip::on_failure, pipeline::Skip::never});
  pipeline.takeover = draw.one_of({pipeline::Takeover::on_loss, pipeline::Takeover::never});
  if (draw.coin()) pipeline.max_in_flight = draw.from(1, 4096);
  if (draw.coin()) pipeline.max_activation_memory_bytes = draw.from(1 << 20, std::int64_t{1} << 40);
  pipeline.activation_dtype = draw.one_of({pipeline::ActivationDtype::fp32, pipeline::ActivationDtype::bf16});
  if (draw.coin()) config.membership.start_workers = draw.from(config.parallelism.stages, 100'000);
  config.membership.heartbeat_interval = std::chrono::milliseconds(draw.from(100, 60'000));
  if (draw.coin()) config.network = {draw.one_of<std::string>({"tcp://[::1]:0", "tcp://0.0.0.0:29400"}), "auto", false};
  if (draw.coin()) config.network.advertise = "train.example.org";
  if (draw.coin()) config.http = {draw.one_of<std::string>({"[::]:80", "127.0.0.1:9464"}), false};
  config.logging = {draw.from(1, 1000), draw.coin(), draw.coin()};
}

}  // namespace

RunConfig random_config(std::uint64_t seed) {
  Draw draw(seed);
  RunConfig config;
  config.run = {draw.one_of<std::string>({"a", "run-1", "0", "1e3", "no", "A.b_c"}), draw.seed(),
                draw.one_of<std::string>({"./runs", "/tmp/x y", "true", "ä#"})};
  config.data = {draw.paths(1), draw.paths(0), draw.one_of<std::string>({"auto", "bin", "uint16", "text"}), "byte"};
  draw_model(draw, config);
  draw_training(draw, config);
  draw_swarm(draw, config);
  return config;
}

std::string first_difference(const RunConfig& a, const RunConfig& b) {
  if (a.version != b.version) return "version";
  return first_different_section(sections_of(a), sections_of(b));
}

}  // namespace starling::launcher
