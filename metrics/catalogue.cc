#include "metrics/catalogue.h"

#include <algorithm>

#include "gossip/base/error.h"
#include "metrics/labels.h"

namespace starling::metrics {
namespace {

constexpr auto gauge = MetricType::gauge;
constexpr auto counter = MetricType::counter;
constexpr auto histogram = MetricType::histogram;

template <typename Label>
LabelSpec label(std::string_view name) {
  const auto& names = LabelValues<Label>::names;
  return {name, {names.begin(), names.end()}};
}
LabelSpec any(std::string_view name) { return {name, {}}; }

std::vector<MetricSpec> about_the_run() {
  return {
      {"starling_build_info",
       gauge,
       "1",
       {any("version"), any("commit"), any("torch")},
       "Always 1; its labels say what was built.",
       {}},
      {"starling_run_info",
       gauge,
       "1",
       {any("model"), any("algorithm")},
       "Always 1; its labels say what is trained and with which outer algorithm.",
       {}},
      {"starling_workers",
       gauge,
       "1",
       {label<WorkerState>("state")},
       "Workers of the run, as this node sees them.",
       {}},
      {"starling_stage_replicas",
       gauge,
       "1",
       {any("stage")},
       "Live workers that hold a stage, as this node sees them.",
       {}},
      {"starling_worker_up", gauge, "1", {any("worker")}, "Whether a worker is live, as this node sees it.", {}},
      {"starling_worker_last_heartbeat_timestamp_seconds",
       gauge,
       "seconds",
       {any("worker")},
       "When this node last heard of a worker, in seconds since 1970.",
       {}},
      {"starling_worker_joins_total", counter, "1", {}, "Workers that this node has seen come.", {}},
      {"starling_worker_departures_total",
       counter,
       "1",
       {label<DepartureReason>("reason")},
       "Workers that this node has seen go.",
       {}},
  };
}

std::vector<MetricSpec> about_training() {
  return {
      {"starling_training_step",
       gauge,
       "1",
       {any("worker")},
       "The last step of the swarm's clock that a worker closed.",
       {}},
      {"starling_training_loss",
       gauge,
       "nats per token",
       {any("worker")},
       "Mean training loss of the microbatches that an originator finished in its last step.",
       {}},
      {"starling_learning_rate", gauge, "1", {any("worker")}, "Learning rate of the last optimizer step.", {}},
      {"starling_gradient_norm",
       gauge,
       "1",
       {any("worker")},
       "Norm of the gradient of a worker's stage at its last optimizer step, before clipping.",
       {}},
      {"starling_training_steps_total",
       counter,
       "1",
       {any("worker")},
       "Optimizer steps that a worker really made.",
       {}},
      {"starling_training_tokens_total",
       counter,
       "tokens",
       {any("worker")},
       "Tokens whose gradient a worker has added.",
       {}},
      {"starling_validation_loss", gauge, "nats per token", {any("dataset")}, "Loss of the last evaluation.", {}},
      {"starling_step_duration_seconds",
       histogram,
       "seconds",
       {label<StepPhase>("phase")},
       "Time that a step spent in each kind of work.",
       {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}},
      {"starling_outer_rounds_total",
       counter,
       "1",
       {label<RoundResult>("result")},
       "Rounds that ended, by outcome.",
       {}},
      {"starling_outer_round_duration_seconds",
       histogram,
       "seconds",
       {},
       "Time from a round's last step until its outer step was made.",
       {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300}},
      {"starling_replica_divergence_ratio",
       gauge,
       "ratio",
       {any("stage")},
       "Distance of the slow weights of two partners before averaging, relative to their norm.",
       {}},
  };
}

std::vector<MetricSpec> about_the_pipeline() {
  return {
      {"starling_microbatches_total",
       counter,
       "1",
       {label<MicrobatchOutcome>("outcome")},
       "Microbatches of this node, by outcome; one that was rerouted or skipped a stage also completes or is dropped.",
       {}},
      {"starling_stage_skips_total",
       counter,
       "1",
       {any("stage"), label<SkipReason>("reason")},
       "Hops of microbatches that were left out, by stage.",
       {}},
      {"starling_queue_depth", gauge, "1", {any("stage")}, "Microbatches that wait for this worker's device.", {}},
      {"starling_pipeline_bubble_ratio",
       gauge,
       "ratio",
       {any("stage")},
       "Share of the last step in which this worker's device had nothing to do.",
       {}},
  };
}

std::vector<MetricSpec> about_the_network() {
  return {
      {"starling_network_sent_bytes_total", counter, "bytes", {label<Traffic>("traffic")}, "Bytes sent to peers.", {}},
      {"starling_network_received_bytes_total",
       counter,
       "bytes",
       {label<Traffic>("traffic")},
       "Bytes received from peers.",
       {}},
      {"starling_network_round_trip_seconds",
       histogram,
       "seconds",
       {},
       "Time until a peer answered a probe.",
       {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5}},
      {"starling_messages_rejected_total",
       counter,
       "1",
       {label<Rejection>("reason")},
       "Messages and tensors of peers that were refused.",
       {}},
  };
}

std::vector<MetricSpec> about_the_machine() {
  return {
      {"starling_checkpoints_total",
       counter,
       "1",
       {any("result")},
       "Checkpoints that were written.",
       {}},
      {"starling_checkpoint_last_success_timestamp_seconds",
       gauge,
       "seconds",
       {},
       "When the last checkpoint was complete, in seconds since 1970.",
       {}},
      {"starling_device_memory_used_bytes",
       gauge,
       "bytes",
       {any("worker")},
       "Memory in use on the device: of tensors on an accelerator, of the process on a CPU.",
       {}},
      {"starling_model_flops_utilization_ratio",
       gauge,
       "ratio",
       {any("worker")},
       "Floating-point operations of the model per second, relative to matrix products alone as measured at the start.",
       {}},
      {"starling_eta_seconds", gauge, "seconds", {any("worker")}, "Time until the last step at the present pace.", {}},
      {"process_cpu_seconds_total", counter, "seconds", {}, "User and system time that this process has used.", {}},
      {"process_resident_memory_bytes", gauge, "bytes", {}, "Memory of this process that is in RAM.", {}},
      {"process_virtual_memory_bytes", gauge, "bytes", {}, "Address space of this process.", {}},
      {"process_open_fds", gauge, "1", {}, "File descriptors that are open.", {}},
      {"process_max_fds", gauge, "1", {}, "File descriptors that may be open.", {}},
      {"process_start_time_seconds", gauge, "seconds", {}, "When this process started, in seconds since 1970.", {}},
  };
}

std::vector<MetricSpec> everything() {
  std::vector<MetricSpec> all;
  for (auto part : {about_the_run, about_training, about_the_pipeline, about_the_network, about_the_machine}) {
    for (MetricSpec& spec : part()) all.push_back(std::move(spec));
  }
  return all;
}

}  // namespace

std::string_view to_string(MetricType type) {
  switch (type) {
    case MetricType::gauge:
      return "gauge";
    case MetricType::counter:
      return "counter";
    case MetricType::histogram:
      return "histogram";
  }
  return "gauge";
}

const std::vector<MetricSpec>& catalogue() {
  static const std::vector<MetricSpec> all = everything();
  return all;
}

const MetricSpec& metric_spec(std::string_view name) {
  const auto& all = catalogue();
  const auto found = std::find_if(all.begin(), all.end(), [&](const MetricSpec& spec) { return spec.name == name; });
  STARLING_CHECK(found != all.end(), "the catalogue has every metric");
  return *found;
}

std::string catalogue_markdown() {
  std::string out = "| name | type | unit | labels besides run_id | meaning |\n|---|---|---|---|---|\n";
  for (const MetricSpec& spec : catalogue()) {
    std::string labels;
    for (const LabelSpec& each : spec.labels) {
      if (!labels.empty()) labels += "; ";
      labels += each.name;
      for (std::size_t i = 0; i < each.values.size(); ++i) {
        labels.append(i == 0 ? ": " : ", ").append(each.values[i]);
      }
    }
    out.append("| `").append(spec.name).append("` | ").append(to_string(spec.type)).append(" | ").append(spec.unit);
    out.append(" | ").append(labels).append(" | ").append(spec.help);
    if (spec.availability == Availability::later) out += " Not exported yet.";
    out += " |\n";
  }
  return out;
}

}  // namespace starling::metrics
