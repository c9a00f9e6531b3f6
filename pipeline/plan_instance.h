// What a skip plan is made for, what it is, and the rules that it must obey.
//
// An instance is a network of nodes (how long one activation travels from i to j, how fast each node computes, how many
// microbatches it can hold) and what one iteration asks of it. A plan puts every node on a stage and gives every
// microbatch a path: its originator, then one node of each stage that it visits; the loss and the way back follow from
// it. Rules (SkipPipe, arXiv 2502.19913, section 4): a path visits exactly `path_length` stages, stage 0 first and none
// twice; it may step back at most twice, each time by one stage (a swap of neighbours); every stage but 0 is visited
// equally often, give or take one, as each must be trained equally; every originator starts its share.
//
// Nodes and stages are plain numbers here, so that the planner works on flat arrays; who they are is its caller's business.
// Pure: no I/O, no clock.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "gossip/base/error.h"

namespace starling::pipeline {

struct PlanInstance {
  int nodes = 0;
  std::vector<double> delays;           // [i * nodes + j]: s for one activation from i to j, one way; i to i is unused
  std::vector<double> forward_seconds;  // per node and microbatch; backward takes 1.5 times, the loss a quarter of it
  std::vector<int> memory;              // per node: microbatches held between the forward and the backward pass
  int stages = 0;
  std::vector<int> stage_sizes;  // nodes per stage; empty: the planner chooses all but that of stage 0
  int originators = 0;           // nodes of stage 0
  int path_length = 0;           // stages that a path visits, stage 0 included
  int microbatches_per_originator = 0;

  int microbatches() const { return originators * microbatches_per_originator; }
  double delay(int from, int to) const {
    return delays[static_cast<std::size_t>(from) * static_cast<std::size_t>(nodes) + static_cast<std::size_t>(to)];
  }
  // bad_config, with what is wrong and what to change. Whatever plans or times asks for a valid instance.
  Status validate() const;
};

// Limits of a valid instance.
constexpr int max_plan_nodes = 2000;
constexpr int max_plan_visits = 200'000;  // microbatches x path length
constexpr double max_plan_delay_seconds = 1e5;

struct PlannedPath {
  int originator = 0;
  std::vector<int> hops;  // path_length - 1 nodes, in the order of the forward pass
  double start = 0.0;     // seconds after the iteration's begin; not before
  bool operator==(const PlannedPath&) const = default;
};

struct SkipPlan {
  std::vector<std::vector<int>> stages;  // nodes of each, ascending; stage 0 holds the originators
  std::vector<PlannedPath> paths;        // one per microbatch
  bool operator==(const SkipPlan&) const = default;
};

// Whether a path may visit these stages in this order: at most two steps back, each by one stage.
bool order_allowed(std::span<const int> stages_in_order);

// Whether the plan obeys the rules; bad_input with the first rule that it breaks. A lock-up is not found here but by
// the clock. REQUIRES: a valid instance. The plan may be anything.
Status check_plan(const PlanInstance& instance, const SkipPlan& plan);

// The stage of each node. REQUIRES: a plan that check_plan() accepts.
std::vector<int> stage_of_nodes(const PlanInstance& instance, const SkipPlan& plan);

// The same network without skipping: every path visits every stage.
PlanInstance full_pipeline(PlanInstance instance);

}  // namespace starling::pipeline
