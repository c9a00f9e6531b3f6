// What an iteration under a plan looks like: every job with its waiting, how busy the nodes are, and where the time of the
// critical microbatch (the one that is done last) goes. For people: tables and pictures.
//
// Pure.
#pragma once

#include <vector>

#include "pipeline/plan_instance.h"

namespace starling::pipeline {

struct PlanJob {
  enum class Kind { forward, loss, backward } kind = Kind::forward;
  int microbatch = 0;
  int node = 0;
  double arrives = 0.0;  // seconds since the iteration's begin
  double begins = 0.0;
  double ends = 0.0;
};

// Where one microbatch's time goes; the parts add up to `done`.
struct MicrobatchTime {
  int microbatch = 0;
  double start = 0.0;
  double forward = 0.0;
  double loss = 0.0;
  double backward = 0.0;
  double travel = 0.0;
  double waiting = 0.0;  // for a node or for a slot
  double done = 0.0;
};

struct NodeTime {
  int stage = 0;
  int visits = 0;           // microbatches that pass through, forward and backward
  double busy = 0.0;        // seconds of forward, loss and backward
  double idle_share = 1.0;  // of the iteration
};

struct PlanReport {
  double seconds = 0.0;
  std::vector<PlanJob> jobs;    // by begin
  std::vector<NodeTime> nodes;  // by number
  MicrobatchTime critical;
};

// bad_input: the plan breaks a rule or locks up. REQUIRES: a valid instance.
Result<PlanReport> report_plan(const PlanInstance& instance, const SkipPlan& plan);

}  // namespace starling::pipeline
