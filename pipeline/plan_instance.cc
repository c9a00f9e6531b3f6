#include "pipeline/plan_instance.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace starling::pipeline {
namespace {

tl::unexpected<Error> bad(std::string message) { return fail(ErrorCode::bad_config, std::move(message)); }
tl::unexpected<Error> broken(std::string message) { return fail(ErrorCode::bad_input, std::move(message)); }

Status check_shape(const PlanInstance& in) {
  if (in.nodes < 2) return bad(fmt::format("an instance has at least 2 nodes, got {}", in.nodes));
  if (in.nodes > max_plan_nodes)
    return bad(fmt::format("an instance has at most {} nodes, got {}", max_plan_nodes, in.nodes));
  const auto n = static_cast<std::size_t>(in.nodes);
  if (in.delays.size() != n * n || in.forward_seconds.size() != n || in.memory.size() != n) {
    return bad(fmt::format("delays, forward_seconds and memory must have a value for each of the {} nodes", n));
  }
  if (in.stages < 2) return bad(fmt::format("num_stages is {}; a pipeline has at least 2 stages", in.stages));
  if (in.stages > in.nodes) {
    return bad(
        fmt::format("there are fewer nodes ({}) than stages ({}): lower num_stages or add nodes", in.nodes, in.stages));
  }
  if (in.path_length < 2) return bad(fmt::format("path_length is {}; a path visits at least 2 stages", in.path_length));
  if (in.path_length > in.stages) {
    return bad(fmt::format("path_length ({}) is more than the number of stages ({}): no stage is visited twice",
                           in.path_length, in.stages));
  }
  if (in.microbatches_per_originator < 1) {
    return bad(fmt::format("microbatches_per_originator is {}; it must be at least 1", in.microbatches_per_originator));
  }
  return {};
}

Status check_sizes(const PlanInstance& in) {
  if (in.stage_sizes.empty()) {
    if (in.originators < 1 || in.originators > in.nodes - in.stages + 1) {
      return bad(fmt::format("originators is {}; it must be from 1 to {}, so that every other stage gets a node",
                             in.originators, in.nodes - in.stages + 1));
    }
  } else {
    if (in.stage_sizes.size() != static_cast<std::size_t>(in.stages)) {
      return bad(fmt::format("stage_sizes has {} values for {} stages", in.stage_sizes.size(), in.stages));
    }
    for (std::size_t s = 0; s < in.stage_sizes.size(); ++s) {
      if (in.stage_sizes[s] < 1)
        return bad(fmt::format("stage_sizes[{}] is {}; a stage has at least 1 node", s, in.stage_sizes[s]));
      if (in.stage_sizes[s] > in.nodes) return bad(fmt::format("stage_sizes[{}] is more than there are nodes", s));
    }
    const int sum = std::accumulate(in.stage_sizes.begin(), in.stage_sizes.end(), 0);
    if (sum != in.nodes) return bad(fmt::format("stage_sizes add up to {}, but there are {} nodes", sum, in.nodes));
    if (in.originators != in.stage_sizes[0]) {
      return bad(fmt::format("originators is {}, but stage_sizes[0] is {}", in.originators, in.stage_sizes[0]));
    }
  }
  const double visits = static_cast<double>(in.originators) * in.microbatches_per_originator * in.path_length;
  if (visits > max_plan_visits) {
    return bad(
        fmt::format("{:.0f} visits (originators x microbatches x path_length) are more than {}: lower one of them",
                    visits, max_plan_visits));
  }
  return {};
}

Status check_nodes(const PlanInstance& in) {
  for (std::size_t i = 0; i < in.forward_seconds.size(); ++i) {
    const double work = in.forward_seconds[i];
    if (!std::isfinite(work) || work <= 0.0 || work > max_plan_delay_seconds) {
      return bad(fmt::format("forward_seconds of node {} is {}; it must be more than 0 and at most {:.0f}", i, work,
                             max_plan_delay_seconds));
    }
    if (in.memory[i] < 1) {
      return bad(
          fmt::format("memory of node {} is {}: a node must be able to hold at least 1 microbatch", i, in.memory[i]));
    }
  }
  return {};
}

Status check_delays(const PlanInstance& in) {
  for (int i = 0; i < in.nodes; ++i) {
    for (int j = 0; j < in.nodes; ++j) {
      if (i == j) continue;  // a node sends nothing to itself
      const double delay = in.delay(i, j);
      if (std::isnan(delay)) return bad(fmt::format("delays[{}][{}] is NaN; a delay is a number of seconds", i, j));
      if (delay < 0.0) return bad(fmt::format("delays[{}][{}] is negative ({}); a delay is at least 0 s", i, j, delay));
      if (delay > max_plan_delay_seconds) {
        return bad(
            fmt::format("nodes {} and {} are disconnected (delays[{}][{}] is {} s, and more than {:.0f} s is no link): "
                        "leave the node out, or relay it",
                        i, j, i, j, delay, max_plan_delay_seconds));
      }
    }
  }
  return {};
}

}  // namespace

Status PlanInstance::validate() const {
  for (const auto check : {check_shape, check_sizes, check_nodes, check_delays}) {
    if (Status status = check(*this); !status) return status;
  }
  return {};
}

bool order_allowed(std::span<const int> order) {
  int back = 0;
  for (std::size_t k = 1; k < order.size(); ++k) {
    if (order[k] > order[k - 1]) continue;
    if (order[k - 1] - order[k] != 1 || ++back > 2) return false;
  }
  return true;
}

std::vector<int> stage_of_nodes(const PlanInstance& instance, const SkipPlan& plan) {
  std::vector<int> out(static_cast<std::size_t>(instance.nodes), -1);
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    for (const int node : plan.stages[s]) out[static_cast<std::size_t>(node)] = static_cast<int>(s);
  }
  return out;
}

namespace {

Status check_placement(const PlanInstance& instance, const SkipPlan& plan) {
  if (plan.stages.size() != static_cast<std::size_t>(instance.stages)) {
    return broken(fmt::format("the plan has {} stages, the instance {}", plan.stages.size(), instance.stages));
  }
  std::vector<int> seen(static_cast<std::size_t>(instance.nodes), 0);
  for (std::size_t s = 0; s < plan.stages.size(); ++s) {
    const auto size = plan.stages[s].size();
    const bool as_asked = instance.stage_sizes.empty()
                              ? (s == 0 ? size == static_cast<std::size_t>(instance.originators) : size > 0)
                              : size == static_cast<std::size_t>(instance.stage_sizes[s]);
    if (!as_asked) return broken(fmt::format("stage {} has {} nodes, which the instance does not allow", s, size));
    for (const int node : plan.stages[s]) {
      if (node < 0 || node >= instance.nodes)
        return broken(fmt::format("stage {} names node {}, which does not exist", s, node));
      if (seen[static_cast<std::size_t>(node)]++ > 0)
        return broken(fmt::format("node {} is in more than one stage", node));
    }
  }
  const auto missing = std::find(seen.begin(), seen.end(), 0);
  if (missing != seen.end()) return broken(fmt::format("node {} is in no stage", missing - seen.begin()));
  return {};
}

// The stages of one path, in order.
Result<std::vector<int>> stages_of(const PlanInstance& instance, const std::vector<int>& stage_of,
                                   const PlannedPath& path) {
  if (path.hops.size() + 1 != static_cast<std::size_t>(instance.path_length)) {
    return broken(fmt::format("a path visits {} stages instead of {}", path.hops.size() + 1, instance.path_length));
  }
  if (!std::isfinite(path.start) || path.start < 0.0) return broken("a path starts at no time that there is");
  std::vector<int> nodes{path.originator};
  nodes.insert(nodes.end(), path.hops.begin(), path.hops.end());
  std::vector<int> out;
  for (const int node : nodes) {
    if (node < 0 || node >= instance.nodes)
      return broken(fmt::format("a path names node {}, which does not exist", node));
    out.push_back(stage_of[static_cast<std::size_t>(node)]);
  }
  if (out.front() != 0) return broken(fmt::format("node {} begins a path and is not in stage 0", path.originator));
  std::vector<int> sorted = out;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) return broken("a path visits a stage twice");
  if (!order_allowed(out)) return broken("a path steps back more than twice, or by more than one stage at once");
  return out;
}

}  // namespace

Status check_plan(const PlanInstance& instance, const SkipPlan& plan) {
  if (Status status = check_placement(instance, plan); !status) return status;
  const std::vector<int> stage_of = stage_of_nodes(instance, plan);
  std::vector<int> visits(static_cast<std::size_t>(instance.stages), 0);
  std::map<int, int> started;
  for (const PlannedPath& path : plan.paths) {
    const auto stages = stages_of(instance, stage_of, path);
    if (!stages) return tl::unexpected(stages.error());
    for (const int stage : *stages) ++visits[static_cast<std::size_t>(stage)];
    ++started[path.originator];
  }
  const auto [least, most] = std::minmax_element(visits.begin() + 1, visits.end());
  if (*most - *least > 1) return broken(fmt::format("stages are used unevenly: from {} to {} visits", *least, *most));
  for (const int node : plan.stages[0]) {
    if (started[node] != instance.microbatches_per_originator) {
      return broken(fmt::format("originator {} starts {} microbatches instead of {}", node, started[node],
                                instance.microbatches_per_originator));
    }
  }
  return {};
}

PlanInstance full_pipeline(PlanInstance instance) {
  instance.path_length = instance.stages;
  return instance;
}

}  // namespace starling::pipeline
