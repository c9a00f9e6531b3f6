// A node's metrics with every series that one node of a large run can have in use.
#pragma once

#include <memory>
#include <string>

#include "metrics/handles.h"

namespace starling::metrics {

// All metrics of a node of a run of `stages` stages that reports on `workers` workers (1: on itself).
inline std::unique_ptr<Metrics> full_metrics(int stages, int workers) {
  auto metrics = std::make_unique<Metrics>(std::string(64, 'f'));
  metrics->build_info("0.1.0", "0123456789ab", "2.11.0").set(1);
  metrics->run_info("llama-125m", "noloco").set(1);
  for (Stage stage = 0; stage < stages; ++stage) {
    metrics->stage_replicas(stage).set(4);
    metrics->replica_divergence(stage).set(0.0123456789);
    metrics->queue_depth(stage).set(3);
    metrics->pipeline_bubble(stage).set(0.123456789);
    for (const SkipReason reason : {SkipReason::planned, SkipReason::timeout, SkipReason::dead}) {
      metrics->stage_skips(stage, reason).add(1234567);
    }
  }
  for (int i = 0; i < workers; ++i) {
    const std::string worker = "a-long-name-of-a-worker-" + std::to_string(i);
    for (auto* gauge : {&metrics->worker_up, &metrics->worker_last_heartbeat, &metrics->training_step,
                        &metrics->training_loss, &metrics->learning_rate, &metrics->gradient_norm, &metrics->device_memory,
                        &metrics->flops_utilization, &metrics->eta}) {
      (*gauge)(worker).set(1763700000.123456);
    }
    metrics->training_steps(worker).add(123456);
    metrics->training_tokens(worker).add(1e12);
  }
  metrics->checkpoints("written").add();
  metrics->checkpoint_last_success().set(1.7e9);
  metrics->validation_loss("val_000").set(2.345678901234);
  for (std::size_t i = 0; i < LabelValues<StepPhase>::names.size(); ++i) {
    metrics->step_duration(static_cast<StepPhase>(i)).observe(0.123456789);
  }
  if (const auto usage = read_process_usage()) metrics->set_process(*usage);
  return metrics;
}

}  // namespace starling::metrics
