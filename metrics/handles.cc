#include "metrics/handles.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "gossip/base/printable.h"

namespace starling::metrics {
namespace {

template <typename Series>
constexpr MetricType type_of() {
  if constexpr (std::is_same_v<Series, prometheus::Gauge>) return MetricType::gauge;
  if constexpr (std::is_same_v<Series, prometheus::Counter>) return MetricType::counter;
  if constexpr (std::is_same_v<Series, prometheus::Histogram>) return MetricType::histogram;
}

template <typename Series>
auto builder() {
  if constexpr (std::is_same_v<Series, prometheus::Gauge>) return prometheus::BuildGauge();
  if constexpr (std::is_same_v<Series, prometheus::Counter>) return prometheus::BuildCounter();
  if constexpr (std::is_same_v<Series, prometheus::Histogram>) return prometheus::BuildHistogram();
}

bool before(const prometheus::ClientMetric::Label& a, const prometheus::ClientMetric::Label& b) {
  return std::tie(a.name, a.value) < std::tie(b.name, b.value);
}

}  // namespace

void Counter::add(double by) {
  STARLING_CHECK(by >= 0, "a counter never falls");
  series_->Increment(by);
}

void Counter::advance_to(double total) {
  if (const double missing = total - series_->Value(); missing > 0) series_->Increment(missing);
}

void Histogram::observe(double value) {
  if (std::isfinite(value)) series_->Observe(value);
}

template <typename Series>
prometheus::Family<Series>& MetricRegistry::add(const MetricSpec& spec) {
  STARLING_CHECK(spec.type == type_of<Series>(), "the catalogue knows the type of a metric");
  STARLING_CHECK(spec.availability == Availability::now, "a metric is exported once its thing exists");
  return builder<Series>()
      .Name(std::string(spec.name))
      .Help(std::string(spec.help))
      .Labels({{"run_id", run_id_}})
      .Register(registry_);
}
template prometheus::Family<prometheus::Gauge>& MetricRegistry::add(const MetricSpec& spec);
template prometheus::Family<prometheus::Counter>& MetricRegistry::add(const MetricSpec& spec);
template prometheus::Family<prometheus::Histogram>& MetricRegistry::add(const MetricSpec& spec);

std::string MetricRegistry::text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  // prometheus-cpp keeps series in hash tables; sorted, two texts can be compared line by line.
  std::sort(families.begin(), families.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (prometheus::MetricFamily& family : families) {
    std::sort(family.metric.begin(), family.metric.end(), [](const auto& a, const auto& b) {
      return std::lexicographical_compare(a.label.begin(), a.label.end(), b.label.begin(), b.label.end(), before);
    });
  }
  std::ostringstream out;
  prometheus::TextSerializer().Serialize(out, families);
  return std::move(out).str();
}

std::string label_text(std::string_view text) { return printable(text, max_label_bytes); }

void Metrics::set_process(const ProcessUsage& usage) {
  process_cpu_().advance_to(usage.cpu_seconds);
  process_resident_().set(static_cast<double>(usage.resident_bytes));
  process_virtual_().set(static_cast<double>(usage.virtual_bytes));
  process_open_fds_().set(static_cast<double>(usage.open_fds));
  process_max_fds_().set(static_cast<double>(usage.max_fds));
  process_start_time_().set(usage.start_unix_seconds);
}

void Metrics::forget_worker(std::string_view worker) {
  for (auto* gauge :
       {&worker_up, &worker_last_heartbeat, &training_step, &training_loss, &learning_rate, &gradient_norm, &device_memory,
        &flops_utilization, &eta}) {
    gauge->remove(worker);
  }
  training_steps.remove(worker);
  training_tokens.remove(worker);
}

}  // namespace starling::metrics
