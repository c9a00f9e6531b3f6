// The values of the labels whose values are known beforehand. One word for one thing: the same words stand in metrics,
// in events and in the status.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

#include "gossip/base/error.h"

namespace starling::metrics {

enum class WorkerState { joining, active, paused, suspect, dead, left };
enum class DepartureReason { left, timeout, evicted, error };
enum class StepPhase { data, forward, backward, optimizer, outer };
enum class RoundResult { averaged, solo, rejected, one_sided };
enum class MicrobatchOutcome { completed, rerouted, skipped_stage, dropped };
enum class SkipReason { planned, timeout, dead };
enum class Traffic { activation, gradient, outer, state, control };
enum class Rejection { bad_auth, bad_checksum, oversize, stale, non_finite, norm };

// The values of such a label, in the order of its enum. A series exists for each of them from the start, so that a
// counter that nobody has raised yet reads 0 and a rate over it is right from its first increment on.
template <typename Label>
struct LabelValues;

// starling_workers does not count those that left: they are gone for good, and starling_worker_departures_total has
// them.
template <>
struct LabelValues<WorkerState> {
  static constexpr std::array<std::string_view, 5> names = {"joining", "active", "paused", "suspect", "dead"};
};
template <>
struct LabelValues<DepartureReason> {
  static constexpr std::array<std::string_view, 4> names = {"left", "timeout", "evicted", "error"};
};
template <>
struct LabelValues<StepPhase> {
  static constexpr std::array<std::string_view, 5> names = {"data", "forward", "backward", "optimizer", "outer"};
};
template <>
struct LabelValues<RoundResult> {
  static constexpr std::array<std::string_view, 4> names = {"averaged", "solo", "rejected", "one_sided"};
};
template <>
struct LabelValues<MicrobatchOutcome> {
  static constexpr std::array<std::string_view, 4> names = {"completed", "rerouted", "skipped_stage", "dropped"};
};
template <>
struct LabelValues<SkipReason> {
  static constexpr std::array<std::string_view, 3> names = {"planned", "timeout", "dead"};
};
template <>
struct LabelValues<Traffic> {
  static constexpr std::array<std::string_view, 5> names = {"activation", "gradient", "outer", "state", "control"};
};
template <>
struct LabelValues<Rejection> {
  static constexpr std::array<std::string_view, 6> names = {"bad_auth", "bad_checksum", "oversize",
                                                            "stale",    "non_finite",   "norm"};
};

// REQUIRES: the label has a value of that name.
template <typename Label>
constexpr std::string_view label_name(Label value) {
  const auto index = static_cast<std::size_t>(value);
  STARLING_CHECK(index < LabelValues<Label>::names.size(), "this label has no such value");
  return LabelValues<Label>::names[index];
}

}  // namespace starling::metrics
