// The metrics of one node, as typed handles:
//
//   metrics.training_step("w03").set(120);
//   metrics.microbatches(MicrobatchOutcome::completed).add();
//   metrics.stage_skips(2, SkipReason::dead).add();
//   metrics.messages_rejected(Rejection::oversize).advance_to(transport.counters().rejected_oversize);
//
// Each member is one metric of catalogue.h, called with the values of its labels in the order listed there. Asking for
// a series makes it; from then on it costs a lookup in a small map and one atomic store, so the loop thread may do it
// wherever it likes. Label values are made safe (printable, bounded), and a metric has at most max_series series: what
// is beyond goes nowhere and is counted.
//
// Thread: one at a time; the loop's. HTTP threads see the text that text() gave, never this object.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "metrics/catalogue.h"
#include "metrics/labels.h"
#include "metrics/process.h"

namespace starling::metrics {

inline constexpr std::size_t max_series = 4096;
inline constexpr std::size_t max_label_bytes = 128;

// Handles are to be used at once, not kept: forget_worker() ends the series behind some of them.
class Gauge {
 public:
  using Series = prometheus::Gauge;
  explicit Gauge(Series& series) : series_(&series) {}
  void set(double value) { series_->Set(value); }
  double value() const { return series_->Value(); }

 private:
  Series* series_;
};

class Counter {
 public:
  using Series = prometheus::Counter;
  explicit Counter(Series& series) : series_(&series) {}
  // REQUIRES: by >= 0.
  void add(double by = 1.0);
  // Raises the counter to a total that is counted elsewhere. A smaller total (whoever counts has started again) leaves
  // it as it is: a counter never falls.
  void advance_to(double total);
  double value() const { return series_->Value(); }

 private:
  Series* series_;
};

class Histogram {
 public:
  using Series = prometheus::Histogram;
  explicit Histogram(Series& series) : series_(&series) {}
  // One that is not finite is left out: it would spoil the sum for good.
  void observe(double value);
  void observe(Duration duration) { observe(seconds(duration)); }

 private:
  Series* series_;
};

// What Metric needs to register itself; the registry behind all metrics of a node.
class MetricRegistry {
 public:
  explicit MetricRegistry(std::string_view run_id) : run_id_(run_id) {}
  // REQUIRES: the catalogue has the metric, with that type and number of labels, and it exists already.
  template <typename Series>
  prometheus::Family<Series>& add(const MetricSpec& spec);
  std::string text() const;
  void refuse_series() { ++refused_series_; }
  std::uint64_t refused_series() const { return refused_series_; }

 private:
  std::string run_id_;
  prometheus::Registry registry_;
  std::uint64_t refused_series_ = 0;
};

// A metric with labels of these kinds: an enum of labels.h, Stage, or std::string_view for any text.
template <typename Handle, typename... Labels>
class Metric {
 public:
  Metric(MetricRegistry& registry, std::string_view name);
  Handle operator()(Labels... labels);
  // Ends a series; a later use starts it again at 0.
  void remove(Labels... labels);

 private:
  using Series = typename Handle::Series;
  template <typename Label>
  using Stored = std::conditional_t<std::is_same_v<Label, std::string_view>, std::string, Label>;
  using Key = std::tuple<Stored<Labels>...>;

  Series& add_series(const std::vector<std::string>& values);
  // A series for each value, where all values are known.
  void add_known_series();

  MetricRegistry& registry_;
  const MetricSpec& spec_;
  prometheus::Family<Series>& family_;
  std::map<Key, Series*, std::less<>> series_;
  Series beyond_the_bound_;
};

// What one node measures. Names as in the catalogue, without "starling_", "_total" and units.
class Metrics {
 private:
  // Before the metrics, which register themselves in it.
  MetricRegistry registry_;

 public:
  explicit Metrics(std::string_view run_id) : registry_(run_id) {}
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  Metric<Gauge, std::string_view, std::string_view, std::string_view> build_info{registry_, "starling_build_info"};
  Metric<Gauge, std::string_view, std::string_view> run_info{registry_, "starling_run_info"};
  Metric<Gauge, WorkerState> workers{registry_, "starling_workers"};
  Metric<Gauge, Stage> stage_replicas{registry_, "starling_stage_replicas"};
  Metric<Gauge, std::string_view> worker_up{registry_, "starling_worker_up"};
  Metric<Gauge, std::string_view> worker_last_heartbeat{registry_, "starling_worker_last_heartbeat_timestamp_seconds"};
  Metric<Counter> worker_joins{registry_, "starling_worker_joins_total"};
  Metric<Counter, DepartureReason> worker_departures{registry_, "starling_worker_departures_total"};

  Metric<Gauge, std::string_view> training_step{registry_, "starling_training_step"};
  Metric<Gauge, std::string_view> training_loss{registry_, "starling_training_loss"};
  Metric<Gauge, std::string_view> learning_rate{registry_, "starling_learning_rate"};
  Metric<Gauge, std::string_view> gradient_norm{registry_, "starling_gradient_norm"};
  Metric<Counter, std::string_view> training_steps{registry_, "starling_training_steps_total"};
  Metric<Counter, std::string_view> training_tokens{registry_, "starling_training_tokens_total"};
  Metric<Gauge, std::string_view> validation_loss{registry_, "starling_validation_loss"};
  Metric<Histogram, StepPhase> step_duration{registry_, "starling_step_duration_seconds"};
  Metric<Counter, std::string_view> checkpoints{registry_, "starling_checkpoints_total"};  // written, failed
  Metric<Gauge> checkpoint_last_success{registry_, "starling_checkpoint_last_success_timestamp_seconds"};
  Metric<Counter, RoundResult> outer_rounds{registry_, "starling_outer_rounds_total"};
  Metric<Histogram> outer_round_duration{registry_, "starling_outer_round_duration_seconds"};
  Metric<Gauge, Stage> replica_divergence{registry_, "starling_replica_divergence_ratio"};

  Metric<Counter, MicrobatchOutcome> microbatches{registry_, "starling_microbatches_total"};
  Metric<Counter, Stage, SkipReason> stage_skips{registry_, "starling_stage_skips_total"};
  Metric<Gauge, Stage> queue_depth{registry_, "starling_queue_depth"};
  Metric<Gauge, Stage> pipeline_bubble{registry_, "starling_pipeline_bubble_ratio"};

  Metric<Counter, Traffic> network_sent{registry_, "starling_network_sent_bytes_total"};
  Metric<Counter, Traffic> network_received{registry_, "starling_network_received_bytes_total"};
  Metric<Histogram> network_round_trip{registry_, "starling_network_round_trip_seconds"};
  Metric<Counter, Rejection> messages_rejected{registry_, "starling_messages_rejected_total"};

  Metric<Gauge, std::string_view> device_memory{registry_, "starling_device_memory_used_bytes"};
  Metric<Gauge, std::string_view> flops_utilization{registry_, "starling_model_flops_utilization_ratio"};
  Metric<Gauge, std::string_view> eta{registry_, "starling_eta_seconds"};

  void set_process(const ProcessUsage& usage);

  // Ends the series of a worker that is gone for good, so that a long run with many visitors keeps its bound.
  void forget_worker(std::string_view worker);

  // Everything in the text format of Prometheus, in a fixed order. About a millisecond per thousand series.
  std::string text() const { return registry_.text(); }

  // Series that were asked for beyond max_series of their metric.
  std::uint64_t refused_series() const { return registry_.refused_series(); }

 private:
  Metric<Counter> process_cpu_{registry_, "process_cpu_seconds_total"};
  Metric<Gauge> process_resident_{registry_, "process_resident_memory_bytes"};
  Metric<Gauge> process_virtual_{registry_, "process_virtual_memory_bytes"};
  Metric<Gauge> process_open_fds_{registry_, "process_open_fds"};
  Metric<Gauge> process_max_fds_{registry_, "process_max_fds"};
  Metric<Gauge> process_start_time_{registry_, "process_start_time_seconds"};
};

// Below: how Metric does it.

inline std::string label_text(Stage stage) { return std::to_string(stage); }
std::string label_text(std::string_view text);
template <typename Label>
requires std::is_enum_v<Label> std::string label_text(Label value) { return std::string(label_name(value)); }

template <typename Series>
Series make_series(const MetricSpec& spec) {
  if constexpr (std::is_same_v<Series, prometheus::Histogram>) {
    return Series(spec.buckets);
  } else {
    return Series();
  }
}

template <typename Handle, typename... Labels>
Metric<Handle, Labels...>::Metric(MetricRegistry& registry, std::string_view name)
    : registry_(registry),
      spec_(metric_spec(name)),
      family_(registry.add<Series>(spec_)),
      beyond_the_bound_(make_series<Series>(spec_)) {
  STARLING_CHECK(spec_.labels.size() == sizeof...(Labels), "the catalogue lists the labels of a metric");
  add_known_series();
}

template <typename Handle, typename... Labels>
void Metric<Handle, Labels...>::add_known_series() {
  if constexpr (sizeof...(Labels) == 0) {
    series_.emplace(Key(), &add_series({}));
  } else if constexpr (sizeof...(Labels) == 1 && (std::is_enum_v<Labels> && ...)) {
    using Label = std::tuple_element_t<0, Key>;
    for (std::size_t i = 0; i < LabelValues<Label>::names.size(); ++i) (*this)(static_cast<Label>(i));
  }
}

template <typename Handle, typename... Labels>
Handle Metric<Handle, Labels...>::operator()(Labels... labels) {
  const auto found = series_.find(std::tuple<const Labels&...>(labels...));
  if (found != series_.end()) return Handle(*found->second);
  if (series_.size() >= max_series) {
    registry_.refuse_series();
    return Handle(beyond_the_bound_);
  }
  Series& added = add_series({label_text(labels)...});
  series_.emplace(Key(Stored<Labels>(labels)...), &added);
  return Handle(added);
}

template <typename Handle, typename... Labels>
typename Metric<Handle, Labels...>::Series& Metric<Handle, Labels...>::add_series(
    const std::vector<std::string>& values) {
  prometheus::Labels pairs;
  for (std::size_t i = 0; i < values.size(); ++i) pairs.emplace(spec_.labels[i].name, values[i]);
  if constexpr (std::is_same_v<Series, prometheus::Histogram>) {
    return family_.Add(pairs, spec_.buckets);
  } else {
    return family_.Add(pairs);
  }
}

template <typename Handle, typename... Labels>
void Metric<Handle, Labels...>::remove(Labels... labels) {
  const auto found = series_.find(std::tuple<const Labels&...>(labels...));
  if (found == series_.end()) return;
  // Two texts can be one label after they were made safe; the series then goes with the last of them.
  const bool shared =
      std::count_if(series_.begin(), series_.end(), [&](const auto& each) { return each.second == found->second; }) > 1;
  if (!shared) family_.Remove(found->second);
  series_.erase(found);
}

}  // namespace starling::metrics
