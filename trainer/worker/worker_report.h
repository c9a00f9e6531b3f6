// What a worker tells the outside: counters that metrics copy, and events worth a line.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/env.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/wire.h"
#include "pipeline/microbatch.h"

namespace starling::trainer {

// Totals since this process started.
struct WorkerCounters {
  std::int64_t optimizer_steps = 0;
  std::int64_t tokens = 0;                  // trained on, as originator
  std::int64_t completed = 0;               // microbatches, as originator
  std::int64_t completed_with_skips = 0;    // of those: at least one stage was left out or bypassed
  std::int64_t dropped = 0;                 // given up, as originator
  std::int64_t rerouted = 0;                // sends that went elsewhere, as anybody
  std::map<std::pair<Stage, pipeline::SkipReason>, std::int64_t> stage_skips;
  std::int64_t rounds_averaged = 0;
  std::int64_t rounds_solo = 0;
  std::int64_t rounds_solo_odd = 0;         // of those: the odd one out
  std::int64_t rounds_rejected = 0;         // a partner's part failed a screen
  std::int64_t rounds_one_sided = 0;
  std::int64_t takeovers = 0;
  std::int64_t copies = 0;                  // states copied from a donor
  std::int64_t reloads = 0;                 // of the slow weights, after steps that were not finite
  std::int64_t rejected_malformed = 0;      // frames whose content did not decode or fit the config
  std::int64_t rejected_non_finite = 0;
  std::int64_t rejected_norm = 0;
  std::int64_t rejected_stale = 0;
  std::int64_t bad_checksum = 0;
  std::int64_t late_completions = 0;        // of jobs whose microbatch is gone
  std::map<std::string, std::int64_t> departures;  // reason: left, timeout
  std::int64_t joins = 0;
  // Traffic by kind, payload and headers, as handed to the transport.
  enum Traffic { activation, gradient, outer, state, control, traffic_kinds };
  std::array<std::int64_t, traffic_kinds> sent_bytes{};
  std::array<std::int64_t, traffic_kinds> received_bytes{};
  std::int64_t messages_sent = 0;
};

struct StepReport {
  Step step = 0;
  Step last_step = 0;
  std::optional<double> loss;               // nats per token, originators only; NaN: none was finite here
  double learning_rate = 0.0;
  std::optional<double> gradient_norm;      // unset: no optimizer step was made
  Duration took{};
  bool by_deadline = false;
  std::int64_t tokens = 0;                  // of this step, this originator
  double model_flops = 0.0;                 // of what went through this stage, forward and backward
  std::optional<double> flops_utilization;  // model_flops a second, of what matrix products alone reach on this device
  std::int64_t device_memory_bytes = 0;     // 0: the device's memory is the process's
};

struct RoundReport {
  Round round = 0;
  bool averaged = false;
  std::string cause;                        // of a solo round
  std::optional<NodeId> partner;
  std::optional<ExchangeId> exchange;       // that met the partner
  std::optional<double> divergence;
  Duration took{};
};

class Listener {
 public:
  virtual ~Listener() = default;
  // Every action of every decider, in the order in which they are carried out: the numbers of decider and action in
  // Worker's tables. Simulated worlds compare these histories.
  virtual void decided(std::size_t, std::size_t) {}
  virtual void step_closed(const StepReport& report) = 0;
  virtual void round_finished(const RoundReport& report) = 0;
  // nats per token over the validation windows that came home.
  virtual void evaluated(Step step, double loss, std::int64_t windows, bool last) = 0;
  virtual void event(std::string_view name, const std::vector<EventField>& fields) = 0;
  virtual void job_took(std::string_view phase, double seconds) = 0;
  virtual void round_trip(Duration took) = 0;
  // From other nodes, for those that keep the run's files or are scraped in their place.
  virtual void reported(const NodeId& from, const net::Report& report) = 0;
  // Memory of this process now, for the record.
  virtual std::uint64_t rss_bytes() const = 0;
  virtual void metrics_came(const NodeId& from, ByteView text) = 0;
  // Parts of a checkpoint, for the node that collects them: whether an offer of so many bytes is wanted, what came, and
  // whether more is expected.
  virtual bool wants(const net::CheckpointPart&, std::uint64_t) { return false; }
  virtual void came(const NodeId&, const net::CheckpointPart&, const Buffer&) {}
  virtual bool collects() const { return false; }
};

}  // namespace starling::trainer
