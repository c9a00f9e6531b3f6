#include "pipeline/plan_report.h"

#include <algorithm>

#include "pipeline/plan_clock.h"

namespace starling::pipeline {
namespace {

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Jobs by begin; those of one microbatch are in their order.
std::vector<PlanJob> jobs_of(const PlanInstance& instance, const PlanClock& clock) {
  std::vector<double> arrives;
  for (int i = 0; i < instance.microbatches(); ++i) arrives.push_back(clock.start(i));
  std::vector<PlanJob> out;
  for (const auto& [microbatch, job, begin] : clock.begun()) {
    const double ends = begin + clock.job_seconds(microbatch, job);
    const auto kind = job < instance.path_length    ? PlanJob::Kind::forward
                      : job == instance.path_length ? PlanJob::Kind::loss
                                                    : PlanJob::Kind::backward;
    out.push_back({kind, microbatch, clock.job_node(microbatch, job), arrives[at(microbatch)], begin, ends});
    arrives[at(microbatch)] = ends + clock.job_delay(microbatch, job);
  }
  return out;
}

MicrobatchTime time_of(int microbatch, double start, const std::vector<PlanJob>& jobs) {
  MicrobatchTime out;
  out.microbatch = microbatch;
  out.start = out.done = start;
  for (const PlanJob& job : jobs) {
    if (job.microbatch != microbatch) continue;
    const double took = job.ends - job.begins;
    (job.kind == PlanJob::Kind::forward ? out.forward
     : job.kind == PlanJob::Kind::loss  ? out.loss
                                        : out.backward) += took;
    out.travel += job.arrives - out.done;
    out.waiting += job.begins - job.arrives;
    out.done = job.ends;
  }
  return out;
}

}  // namespace

Result<PlanReport> report_plan(const PlanInstance& instance, const SkipPlan& plan) {
  if (Status status = check_plan(instance, plan); !status) return tl::unexpected(status.error());
  const auto clock = timed(instance, plan);
  if (!clock) return tl::unexpected(clock.error());
  PlanReport out;
  out.jobs = jobs_of(instance, *clock);
  out.nodes.resize(at(instance.nodes));
  const std::vector<int> stage_of = stage_of_nodes(instance, plan);
  for (std::size_t n = 0; n < out.nodes.size(); ++n) out.nodes[n].stage = stage_of[n];
  int last = 0;
  for (const PlanJob& job : out.jobs) {
    NodeTime& node = out.nodes[at(job.node)];
    node.busy += job.ends - job.begins;
    node.visits += static_cast<int>(job.kind == PlanJob::Kind::forward);
    if (job.ends <= out.seconds) continue;
    out.seconds = job.ends;
    last = job.microbatch;
  }
  for (NodeTime& node : out.nodes) node.idle_share = 1.0 - node.busy / out.seconds;
  out.critical = time_of(last, clock->start(last), out.jobs);
  return out;
}

}  // namespace starling::pipeline
