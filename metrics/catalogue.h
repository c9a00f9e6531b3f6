// Every metric of Starling: its name, type, unit, labels and meaning. The one place where names of metrics are spelled;
// handles.h makes series of it, README.md prints it, dashboards and alerts are written against it.
//
// Names follow the conventions of Prometheus: base units, the unit last, counters end in _total. Every series has the
// label `run_id` besides those listed. No metric has a label per pair of peers: their number would grow with the square
// of the swarm.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace starling::metrics {

enum class MetricType { gauge, counter, histogram };
std::string_view to_string(MetricType type);

// Whether the thing that a metric measures exists. One that does not yet is listed, so that its name is taken, and
// never exported: a series that stays at 0 would be a lie.
enum class Availability { now, later };

struct LabelSpec {
  std::string_view name;
  std::vector<std::string_view> values;  // empty: any
};

struct MetricSpec {
  std::string_view name;
  MetricType type = MetricType::gauge;
  std::string_view unit;  // "1" for a plain number
  std::vector<LabelSpec> labels;
  std::string_view help;
  std::vector<double> buckets;  // upper bounds, of a histogram only
  Availability availability = Availability::now;
};

// In the order in which they are documented.
const std::vector<MetricSpec>& catalogue();

// REQUIRES: the catalogue has a metric of that name.
const MetricSpec& metric_spec(std::string_view name);

// The catalogue as a table in Markdown: what README.md has to show.
std::string catalogue_markdown();

}  // namespace starling::metrics
