#include "launcher/node.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>

#include "gossip/base/log.h"

namespace starling::launcher {
namespace {

constexpr Duration publish_interval = std::chrono::seconds(1);
constexpr Duration show_metrics_interval = std::chrono::seconds(5);
constexpr int most_rounds = 4;
constexpr Duration flush_for = std::chrono::milliseconds(300);
constexpr std::int64_t assumed_free_bytes = 4LL << 30;

volatile std::sig_atomic_t interrupt_count = 0;

void on_interrupt(int) { interrupt_count = interrupt_count + 1; }

std::int64_t free_memory_bytes() {
  const long pages = ::sysconf(_SC_AVPHYS_PAGES);
  const long page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<std::int64_t>(pages) * page : assumed_free_bytes;
}

}  // namespace

Signals::Signals() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // without SA_RESTART: a wait ends
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
  sigaction(SIGHUP, &action, nullptr);
}

int Signals::interrupts() const { return interrupt_count; }

std::uint64_t host_number() {
  const auto id = read_file("/etc/machine-id", 1 << 10);
  if (id && !id->empty()) return xxh3_64(*id);
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return xxh3_64(as_bytes(name));
}

NodeReport::Config report_config(const RunConfig& config, const RunId& run, const std::string& name) {
  NodeReport::Config out;
  out.run_name = config.run.name;
  out.run_id = run.brief();
  out.name = name;
  out.host = host_number();
  out.log_interval = config.logging.log_interval;
  out.stages = config.parallelism.stages;
  out.workers_wanted = config.parallelism.stages * config.parallelism.replicas;
  out.tokens_per_microbatch = config.training.tokens_per_microbatch();
  out.model = config.model.model_type;
  out.algorithm = outer::to_string(config.outer.algorithm);
  out.jsonl = config.logging.jsonl;
  return out;
}

Result<std::unique_ptr<NodeReport>> open_report(NodeReport::Config config, const std::filesystem::path& folder,
                                                const Clock& clock) {
  auto metrics_file = metrics::LineFile::open(folder / "metrics.jsonl");
  if (!metrics_file) return tl::unexpected(metrics_file.error());
  auto events_file = metrics::LineFile::open(folder / "events.jsonl");
  if (!events_file) return tl::unexpected(events_file.error());
  return std::make_unique<NodeReport>(std::move(config), clock, std::move(*metrics_file), std::move(*events_file));
}

trainer::WorkerConfig worker_config(const RunConfig& config, std::int64_t local_workers) {
  trainer::WorkerConfig out;
  out.seed = config.run.seed;
  out.training = config.training;
  out.optimizer = config.optimizer;
  out.scheduler = config.lr_scheduler;
  out.parallelism = config.parallelism;
  out.eval = config.eval;
  out.checkpoint = config.checkpoint;
  out.outer = config.outer;
  out.pipeline = config.pipeline;
  out.membership = config.membership;
  out.log_interval = config.logging.log_interval;
  out.memory_bytes = config.pipeline.max_activation_memory_bytes.value_or(free_memory_bytes() / 2 /
                                                                          std::max<std::int64_t>(1, local_workers));
  return out;
}

Node::Node(NodeParts parts, trainer::Worker::Self self, trainer::WorkerConfig config) : parts_(std::move(parts)) {
  const TimePoint now = parts_.clock.now();
  const NodeId id = self.id;
  worker_ = std::make_unique<trainer::Worker>(
      std::move(config), std::move(self),
      trainer::Worker::Environment{Random(xxh3_64(id.key)), parts_.transport, parts_.compute, parts_.credentials,
                                   parts_.report},
      now, [this](trainer::Worker& worker) { parts_.report.attach(worker); });
  publish_at_ = now;
  show_metrics_at_ = now + show_metrics_interval;
}

bool Node::turn(Duration at_most) {
  const TimePoint before = parts_.clock.now();
  const TimePoint until = std::min({worker_->next_deadline(), publish_at_, before + at_most});
  // All that waits is read before the worker looks at its deadlines: a loop that the machine held up must not take its own
  // delay for the silence of others. Bounded, so that a flood cannot keep it from its deadlines.
  for (int round = 0; round < most_rounds; ++round) {
    auto events = parts_.transport.poll(round == 0 ? std::max(Duration::zero(), until - before) : Duration::zero());
    for (auto& event : events) {
      has_heard_ = has_heard_ || std::holds_alternative<net::Received>(event);
      worker_->on(std::move(event), parts_.clock.now());
    }
    if (parts_.take_completions) {
      for (auto& completion : parts_.take_completions()) {
        worker_->on(trainer::Worker::ComputeDone{std::move(completion)}, parts_.clock.now());
      }
    }
    if (events.empty()) break;
  }
  const TimePoint now = parts_.clock.now();
  worker_->on(trainer::Worker::Tick{}, now);
  for (const net::Report& report : parts_.report.take_reports()) worker_->tell_observers(report);
  if (now >= publish_at_) publish(now);
  return !worker_->exit();
}

void Node::publish(TimePoint now) {
  publish_at_ = now + publish_interval;
  const auto snapshot = parts_.report.snapshot(now);
  if (parts_.http != nullptr) parts_.http->publish(snapshot);
  if (now < show_metrics_at_) return;
  show_metrics_at_ = now + show_metrics_interval;
  if (worker_->record().role == membership::Role::worker) worker_->show_metrics(parts_.report.metrics_text());
}

void Node::flush() {
  const TimePoint until = parts_.clock.now() + flush_for;
  while (parts_.clock.now() < until) parts_.transport.poll(until - parts_.clock.now());
}

}  // namespace starling::launcher
