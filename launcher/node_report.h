// What one node says about itself and its run: log lines, metrics.jsonl and events.jsonl, Prometheus metrics, the status.
//
// It listens to the Worker and never decides anything. A worker that shares the run's directory appends its own lines to
// the run's files; every worker also sends its step lines to the observers, who print them and keep those of workers
// elsewhere. Loop thread only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/env.h"
#include "launcher/checkpoint_collector.h"
#include "metrics/event_log.h"
#include "metrics/handles.h"
#include "metrics/http_server.h"
#include "metrics/status.h"
#include "metrics/step_line.h"
#include "metrics/tensorboard.h"
#include "trainer/worker/worker.h"

namespace starling::launcher {

class NodeReport final : public trainer::Listener {
 public:
  struct Config {
    std::string run_name;
    std::string run_id;
    std::string name;                        // of this node; a worker's may change when it is let in
    std::uint64_t host = 0;
    std::int64_t log_interval = 10;          // steps
    std::int64_t stages = 1;
    std::int64_t workers_wanted = 0;         // stages x replicas
    std::int64_t tokens_per_microbatch = 0;
    std::string model;                       // for starling_run_info
    std::string algorithm;
    std::optional<std::string> join_token;   // the launcher's status shows it
    std::filesystem::path local_workers;     // an observer's: who has a folder there appends to the run's files itself
    bool jsonl = true;
    std::filesystem::path tensorboard;       // the folder of event files, written by who prints step lines; empty: none
    enum class Voice { quiet, step_lines } voice = Voice::quiet;  // step_lines: print them on stderr, for a person
  };
  NodeReport(Config config, const Clock& clock, std::optional<metrics::LineFile> metrics_file,
             std::optional<metrics::LineFile> events_file);

  // The worker is made after its listener.
  void attach(trainer::Worker& worker);
  void set_name(const std::string& name);

  void step_closed(const trainer::StepReport& report) override;
  void round_finished(const trainer::RoundReport& report) override;
  void evaluated(Step step, double loss, std::int64_t windows, bool last) override;
  void event(std::string_view name, const std::vector<EventField>& fields) override;
  void job_took(std::string_view phase, double seconds) override;
  void round_trip(Duration took) override;
  void reported(const NodeId& from, const net::Report& report) override;
  std::uint64_t rss_bytes() const override { return rss_bytes_; }
  void metrics_came(const NodeId& from, ByteView text) override;
  bool wants(const net::CheckpointPart& part, std::uint64_t bytes) override;
  void came(const NodeId& from, const net::CheckpointPart& part, const Buffer& values) override;
  bool collects() const override { return collector_ && collector_->collects(); }
  // Parts of checkpoints are wanted from now on.
  void collect(CheckpointCollector::Config config) { collector_.emplace(std::move(config)); }
  // With every turn: writes what is complete, tells what was written.
  void look_at_checkpoints();
  // At the end: waits until what has come is written.
  void finish_checkpoints();

  // About once a second: everything that HTTP threads may see from now on. Null before a worker is attached.
  std::shared_ptr<const metrics::HttpSnapshot> snapshot(TimePoint now);
  metrics::RunStatus status() const;
  Buffer metrics_text() const;
  // What the loop sends to the observers since the last call.
  std::vector<net::Report> take_reports();

 private:
  struct Seen {                              // of another worker, by its reports
    metrics::MetricsLine line;
    TimePoint at{};
  };
  void write(metrics::MetricsLine line);
  void say_step(const metrics::MetricsLine& line);
  void print_step(Step step);
  void to_tensorboard(Step step, const std::vector<metrics::Scalar>& scalars);
  void say_event(std::string_view name, const std::vector<EventField>& fields) const;
  bool writes_itself(const std::string& worker) const;
  void event_came(const std::string& worker, std::string_view json);
  void say_takeovers();
  void refresh();
  void checkpointed(const CheckpointCollector::Outcome& outcome);

  Config config_;
  const Clock& clock_;
  metrics::Metrics metrics_;
  std::optional<metrics::LineFile> metrics_file_;
  std::optional<metrics::JsonEventLog> events_;
  std::optional<metrics::TensorBoardFile> tensorboard_;
  trainer::Worker* worker_ = nullptr;
  std::optional<CheckpointCollector> collector_;
  std::vector<net::Report> reports_;
  std::map<NodeId, Seen> seen_;
  std::map<NodeId, Stage> stages_;           // of workers, as said last
  std::map<std::string, metrics::WorkerSnapshot> snapshots_;
  std::map<Step, std::vector<metrics::MetricsLine>> step_lines_;  // of steps not yet printed
  Step printed_ = 0;
  std::optional<std::pair<Step, double>> first_printed_;          // and when: what the eta is reckoned from
  std::optional<std::pair<Step, double>> first_closed_;           // likewise, of this worker
  std::optional<double> loss_;
  std::optional<double> validation_loss_;    // for the next line
  std::optional<double> divergence_;
  std::vector<double> divergences_;          // that workers told since the last printed step
  std::int64_t tokens_at_last_line_ = 0;
  double last_line_at_ = 0.0;
  std::uint64_t rss_bytes_ = 0;
};

// Host part of "tcp://host:port" or "host:port".
std::string host_of(std::string_view endpoint);

}  // namespace starling::launcher
