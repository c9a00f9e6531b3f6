// A node as a process: the loop thread around a Worker, its sockets, its device and its HTTP server.
//
//   while it lives:  wait for sockets, the device or a signal  ->  Worker::on(event)  ->  once a second, publish
//
// Everything here is the loop's; the compute thread and the HTTP threads meet it in a queue and in one snapshot.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "gossip/base/real_env.h"
#include "gossip/net/zmq_transport.h"
#include "launcher/exit_code.h"
#include "launcher/node_credentials.h"
#include "launcher/node_report.h"
#include "launcher/run_config.h"
#include "metrics/http_server.h"
#include "trainer/worker/worker.h"

namespace starling::launcher {

// Signals of this process, as the loop sees them: SIGINT and SIGTERM are counted, SIGPIPE is ignored, SIGHUP too (a run
// outlives its terminal). `wake` interrupts the loop's wait.
class Signals {
 public:
  Signals();
  // How often the user has asked to stop.
  int interrupts() const;
};

// A device with a queue of answers; null for an observer. Made by trainer/torch in a build with LibTorch.
struct Device {
  std::unique_ptr<trainer::Compute> compute;
  std::function<std::vector<trainer::Completion>()> take_completions;
};
// Opens what `wish` asks for, once, before anything else of the device. Errors: not_found: what is missing and what to do.
Result<trainer::DeviceType> choose_device(trainer::DeviceWish wish);
// `data_root`: paths of the run file resolve inside it; empty: no data, so the device cannot begin a microbatch.
// `wake` may be called by any thread. Errors: those of Source::open; failed, in a build without LibTorch.
Result<Device> open_device(const RunConfig& config, const std::filesystem::path& data_root, trainer::DeviceType type,
                           int threads, const Clock& clock, std::function<void()> wake);

struct NodeParts {
  const RunConfig& config;
  const RealClock& clock;
  net::ZmqTransport& transport;
  NodeCredentials& credentials;
  NodeReport& report;
  metrics::HttpServer* http = nullptr;
  trainer::Compute* compute = nullptr;
  std::function<std::vector<trainer::Completion>()> take_completions;
};

class Node {
 public:
  Node(NodeParts parts, trainer::Worker::Self self, trainer::WorkerConfig config);

  // One turn: waits for at most `at_most`, handles what came. False: the worker has ended.
  bool turn(Duration at_most);
  trainer::Worker& worker() { return *worker_; }
  // Whether any member has spoken to us.
  bool has_heard() const { return has_heard_; }
  void tell(trainer::Worker::Event event) { worker_->on(std::move(event), parts_.clock.now()); }
  // Lets the last frames out.
  void flush();

 private:
  void publish(TimePoint now);

  NodeParts parts_;
  std::unique_ptr<trainer::Worker> worker_;
  bool has_heard_ = false;
  TimePoint publish_at_{};
  TimePoint show_metrics_at_{};
};

// What a node of this run says of itself, before it has anything of its own to add.
NodeReport::Config report_config(const RunConfig& config, const RunId& run, const std::string& name);
// With metrics.jsonl and events.jsonl in `folder`. Errors: those of LineFile.
Result<std::unique_ptr<NodeReport>> open_report(NodeReport::Config config, const std::filesystem::path& folder,
                                                const Clock& clock);

// Checkpoints of this run, in `folder` unless checkpoint.dir is absolute.
CheckpointCollector::Config collector_config(const RunConfig& config, const RunId& run, const std::filesystem::path& folder);

trainer::WorkerConfig worker_config(const RunConfig& config, std::int64_t local_workers);

// A number that says on which machine this is: copies of weights avoid sharing one.
std::uint64_t host_number();

}  // namespace starling::launcher
