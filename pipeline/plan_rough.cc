#include "pipeline/plan_rough.h"

#include <algorithm>
#include <cmath>

namespace starling::pipeline {
namespace {

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

RoughCost::RoughCost(const PlanInstance& instance, int times)
    : instance_(instance),
      times_(times),
      uses_(at(instance.nodes)),
      sent_(at(instance.path_length)),
      back_(at(instance.path_length)) {}

void RoughCost::begin(const PlanLayout& layout) {
  std::fill(uses_.begin(), uses_.end(), Use{});
  power_sum_ = 0.0;
  round_trips_ = 0.0;
  paths_ = layout.microbatches();
  for (int i = 0; i < layout.microbatches(); ++i) count(layout.path(i), 1);
}

double RoughCost::cost() const {
  return std::sqrt(std::sqrt(std::sqrt(std::max(0.0, power_sum_)))) + round_trips_ / paths_;
}

void RoughCost::replace(const PlanLayout& layout, Side out, Side in) {
  for (const int i : layout.changed()) {
    count(out == Side::before ? layout.path_before(i) : layout.path(i), -1);
    count(in == Side::before ? layout.path_before(i) : layout.path(i), 1);
  }
}

double RoughCost::busy_power(int node) const {
  const Use& use = uses_[at(node)];
  if (use.visits == 0) return 0.0;
  const double time = times_ * use.held / instance_.memory[at(node)] + use.elsewhere / use.visits;
  const double squared = time * time;
  return squared * squared * squared * squared;
}

void RoughCost::count(std::span<const int> path, int sign) {
  const std::size_t length = path.size();
  double out = 0.0;
  double home = 0.0;
  for (std::size_t k = 0; k < length; ++k) {
    const double work = instance_.forward_seconds[at(path[k])];
    sent_[k] = out;
    home += 1.5 * work + (k > 0 ? instance_.delay(path[k], path[k - 1]) : 0.0);
    back_[k] = home;
    out += work + instance_.delay(path[k], path[k + 1 < length ? k + 1 : 0]);
  }
  const double loss = instance_.forward_seconds[at(path[0])] / 4;
  const double round_trip = out + loss + instance_.delay(path[0], path[length - 1]) + home;
  for (std::size_t k = 0; k < length; ++k) {
    Use& use = uses_[at(path[k])];
    const double elsewhere = sent_[k] + back_[k];
    power_sum_ -= busy_power(path[k]);
    use.held += sign * (round_trip - elsewhere);
    use.elsewhere += sign * elsewhere;
    use.visits += sign;
    power_sum_ += busy_power(path[k]);
  }
  round_trips_ += sign * round_trip;
}

}  // namespace starling::pipeline
