#include "gossip/sim/faults.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "gossip/base/random.h"

namespace starling::sim {
namespace {

std::vector<std::size_t> half_of(std::uint64_t seed, std::size_t n) {
  std::vector<std::size_t> nodes(n);
  std::iota(nodes.begin(), nodes.end(), std::size_t{0});
  Stream random(mix_seed(seed, "half"));
  random.shuffle(nodes);
  nodes.resize(n / 2);
  return nodes;
}

Duration exponential(Stream& random, Duration mean) { return scale(mean, -std::log1p(-random.uniform())); }

void sort_by_time(FaultPlan& plan) {
  std::stable_sort(plan.begin(), plan.end(), [](const Fault& a, const Fault& b) { return a.at < b.at; });
}

}  // namespace

FaultPlan half_killed_at_once(std::uint64_t seed, std::size_t n, TimePoint t) {
  FaultPlan plan;
  for (const std::size_t node : half_of(seed, n)) plan.push_back({t, Fault::Kind::crash, node});
  return plan;
}

FaultPlan half_paused(std::uint64_t seed, std::size_t n, TimePoint t, Duration for_how_long) {
  FaultPlan plan;
  for (const std::size_t node : half_of(seed, n)) {
    plan.push_back({t, Fault::Kind::pause, node});
    if (for_how_long > Duration::zero()) plan.push_back({t + for_how_long, Fault::Kind::resume, node});
  }
  sort_by_time(plan);
  return plan;
}

FaultPlan churn(std::uint64_t seed, std::size_t n, const Churn& churn) {
  FaultPlan plan;
  Stream random(mix_seed(seed, "churn"));
  std::vector<TimePoint> back(n);  // when each is back; the past: it is here
  const auto most_away = static_cast<std::ptrdiff_t>(churn.most_away * static_cast<double>(n));
  TimePoint at = churn.from;
  while (n > 0) {
    at += exponential(random, churn.mean_between) + Duration(1);
    if (at >= churn.until) break;
    // Drawn even when they are not used, so that one node's luck does not shift the history of the others.
    const std::size_t node = random.below(n);
    const std::uint64_t kind = random.below(3);
    const TimePoint returns = at + exponential(random, churn.mean_away) + std::chrono::milliseconds(1);
    const auto away = std::count_if(back.begin(), back.end(), [&](TimePoint t) { return t > at; });
    if (back[node] >= at || away >= most_away) continue;
    back[node] = returns;
    static constexpr Fault::Kind goes[] = {Fault::Kind::crash, Fault::Kind::pause, Fault::Kind::cut};
    static constexpr Fault::Kind comes[] = {Fault::Kind::restart, Fault::Kind::resume, Fault::Kind::heal};
    plan.push_back({at, goes[kind], node});
    plan.push_back({returns, comes[kind], node});
  }
  sort_by_time(plan);
  return plan;
}

std::string_view to_string(Fault::Kind kind) {
  switch (kind) {
    case Fault::Kind::crash:
      return "crash";
    case Fault::Kind::pause:
      return "pause";
    case Fault::Kind::resume:
      return "resume";
    case Fault::Kind::restart:
      return "restart";
    case Fault::Kind::leave:
      return "leave";
    case Fault::Kind::join:
      return "join";
    case Fault::Kind::cut:
      return "cut";
    case Fault::Kind::heal:
      return "heal";
    case Fault::Kind::slow:
      return "slow";
  }
  return "?";
}

std::string to_string(const FaultPlan& plan) {
  std::string out;
  for (const Fault& fault : plan) {
    char line[64];
    std::snprintf(line, sizeof line, "%.3f s: %s %zu\n", seconds(fault.at.time_since_epoch()),
                  std::string(to_string(fault.kind)).c_str(), fault.node);
    out += line;
  }
  return out;
}

}  // namespace starling::sim
