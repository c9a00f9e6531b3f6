#include "launcher/node_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "gossip/base/log.h"
#include "gossip/base/printable.h"
#include "launcher/version.h"
#include "metrics/process.h"

namespace starling::launcher {
namespace {

using membership::PeerState;

constexpr Duration seen_for = std::chrono::seconds(60);
constexpr std::size_t most_step_lines = 64;

metrics::WorkerState state_of(PeerState state) {
  switch (state) {
    case PeerState::joining: return metrics::WorkerState::joining;
    case PeerState::active: return metrics::WorkerState::active;
    case PeerState::paused: return metrics::WorkerState::paused;
    case PeerState::suspect: return metrics::WorkerState::suspect;
    case PeerState::dead: return metrics::WorkerState::dead;
    case PeerState::left: return metrics::WorkerState::left;
  }
  return metrics::WorkerState::dead;
}

metrics::StepPhase phase_of(std::string_view name) {
  if (name == "backward") return metrics::StepPhase::backward;
  if (name == "optimizer") return metrics::StepPhase::optimizer;
  if (name == "outer") return metrics::StepPhase::outer;
  return metrics::StepPhase::forward;
}

// Until `last`, at the pace since the first step seen, which is remembered. Empty: that was this one, or there is no last one.
std::optional<double> seconds_left(std::optional<std::pair<Step, double>>& first, Step step, Step last, double now) {
  if (!first) first.emplace(step, now);
  if (last <= 0 || step <= first->first) return std::nullopt;
  return (now - first->second) / static_cast<double>(step - first->first) * static_cast<double>(std::max<Step>(0, last - step));
}

// Of a worker's events, those that the person at the launcher is told wherever it runs. They say why.
bool is_news(std::string_view event) { return event == "weights_reloaded" || event == "weights_lost"; }

std::string text_of(const EventField& field) {
  if (const auto* text = std::get_if<std::string>(&field.value)) return *text;
  if (const auto* number = std::get_if<double>(&field.value)) return fmt::format("{:.3g}", *number);
  return std::to_string(std::get<std::int64_t>(field.value));
}

}  // namespace

std::string host_of(std::string_view endpoint) {
  if (endpoint.starts_with("tcp://")) endpoint.remove_prefix(6);
  return std::string(endpoint.substr(0, endpoint.rfind(':')));
}

NodeReport::NodeReport(Config config, const Clock& clock, std::optional<metrics::LineFile> metrics_file,
                       std::optional<metrics::LineFile> events_file)
    : config_(std::move(config)), clock_(clock), metrics_(config_.run_id), metrics_file_(std::move(metrics_file)) {
  if (events_file) events_.emplace(std::move(*events_file), clock_, config_.name);
  metrics_.build_info(version(), commit(), torch_version()).set(1);
  metrics_.run_info(config_.model, config_.algorithm).set(1);
  last_line_at_ = clock_.unix_seconds();
}

void NodeReport::set_name(const std::string& name) { config_.name = name; }

void NodeReport::attach(trainer::Worker& worker) {
  worker_ = &worker;
  tokens_at_last_line_ = worker.counters().tokens;
}

// ---------------------------------------------------------------- what the worker says

void NodeReport::step_closed(const trainer::StepReport& report) {
  const auto& counters = worker_->counters();
  metrics_.training_step(config_.name).set(static_cast<double>(report.step));
  metrics_.learning_rate(config_.name).set(report.learning_rate);
  if (report.gradient_norm) metrics_.gradient_norm(config_.name).set(*report.gradient_norm);
  if (report.flops_utilization) metrics_.flops_utilization(config_.name).set(*report.flops_utilization);
  metrics_.device_memory(config_.name)
      .set(static_cast<double>(report.device_memory_bytes > 0 ? static_cast<std::uint64_t>(report.device_memory_bytes) : rss_bytes_));
  if (const auto left = seconds_left(first_closed_, report.step, report.last_step, clock_.unix_seconds())) {
    metrics_.eta(config_.name).set(*left);
  }
  if (report.loss) {
    loss_ = report.loss;
    metrics_.training_loss(config_.name).set(*report.loss);
  }
  const bool logged = report.step % config_.log_interval == 0 || report.step == report.last_step || report.step == 1;
  if (!logged) return;
  metrics::MetricsLine line;
  line.step = report.step;
  line.loss = report.loss;
  line.learning_rate = report.learning_rate;
  line.gradient_norm = report.gradient_norm;
  line.flops_utilization = report.flops_utilization;
  const double now = clock_.unix_seconds();
  if (now > last_line_at_ && worker_->stage() == 0) {
    line.tokens_per_second = static_cast<double>(counters.tokens - tokens_at_last_line_) / (now - last_line_at_);
  }
  tokens_at_last_line_ = counters.tokens;
  last_line_at_ = now;
  if (counters.completed > 0) {
    line.skip_ratio = static_cast<double>(counters.completed_with_skips) / static_cast<double>(counters.completed);
  }
  line.divergence = std::exchange(divergence_, std::nullopt);
  write(std::move(line));
}

void NodeReport::write(metrics::MetricsLine line) {
  line.time = clock_.unix_seconds();
  line.worker = config_.name;
  line.stage = worker_->stage();
  line.tokens = worker_->counters().tokens;
  line.workers_active = static_cast<std::int64_t>(worker_->swarm().live_workers().size());
  if (!line.validation_loss) line.validation_loss = std::exchange(validation_loss_, std::nullopt);
  const std::string json = metrics::to_json(line);
  if (metrics_file_ && config_.jsonl) metrics_file_->append(json);
  reports_.push_back({net::Report::File::metrics, json});
  say_step(line);
}

void NodeReport::round_finished(const trainer::RoundReport& report) {
  using Result = metrics::RoundResult;
  metrics_.outer_rounds(report.averaged ? Result::averaged : Result::solo).add();
  metrics_.outer_round_duration().observe(report.took);
  if (report.divergence) {
    divergence_ = report.divergence;
    metrics_.replica_divergence(worker_->stage()).set(*report.divergence);
  }
  std::vector<EventField> fields{{"round", static_cast<std::int64_t>(report.round)},
                                 {"stage", static_cast<std::int64_t>(worker_->stage())},
                                 {"result", report.averaged ? std::string("averaged") : "solo"},
                                 {"seconds", seconds(report.took)}};
  if (!report.averaged) fields.push_back({"cause", report.cause});
  if (report.partner) fields.push_back({"partner", report.partner->brief()});
  if (report.divergence) fields.push_back({"divergence", *report.divergence});
  if (events_) events_->write("exchange", fields);
}

void NodeReport::evaluated(Step step, double loss, std::int64_t windows, bool last) {
  metrics_.validation_loss("val").set(loss);
  metrics::MetricsLine line;
  line.step = step;
  line.validation_loss = loss;
  write(std::move(line));
  event("evaluated", {{"step", static_cast<std::int64_t>(step)},
                      {"val_loss", loss},
                      {"windows", windows},
                      {"last", static_cast<std::int64_t>(last ? 1 : 0)}});
}

void NodeReport::event(std::string_view name, const std::vector<EventField>& fields) {
  if (events_) events_->write(name, fields);
  if (is_news(name)) {
    reports_.push_back({net::Report::File::events,
                        metrics::to_json(metrics::EventLine{clock_.unix_seconds(), std::string(name), config_.name, fields})});
  }
  // What happens per microbatch is an event, not a line in the log.
  if (name == "skip_stage") return;
  std::string text(name);
  for (const EventField& field : fields) text += fmt::format(" {}={}", field.name, text_of(field));
  // A newcomer's key takes a while to get round, so every start has some of these.
  if (name == "peer_refused") return log_debug("{}", text);
  log_info("{}", text);
  if (config_.voice == Config::Voice::step_lines) say_event(name, fields);
}

// Who came and went, for the person at the launcher. At the end of a run everybody goes, which is no news.
void NodeReport::say_event(std::string_view name, const std::vector<EventField>& fields) const {
  const std::string_view what = name == "join"                                    ? "joined"
                                : name == "dead"                                  ? "is dead"
                                : name == "leave" && !worker_->saw_finished() ? "left"
                                                                                  : "";
  if (what.empty()) return;
  const auto value = [&](std::string_view key) {
    const auto it = std::find_if(fields.begin(), fields.end(), [&](const EventField& field) { return field.name == key; });
    return it == fields.end() ? std::string("?") : text_of(*it);
  };
  std::fprintf(stderr, "%s %s (stage %s)\n", value("peer").c_str(), std::string(what).c_str(), value("stage").c_str());
}

// Takeovers are told by the taker's record: its events are its own.
void NodeReport::say_takeovers() {
  for (const auto& [id, peer] : worker_->swarm().peers) {
    if (peer.record.role != membership::Role::worker || peer.state != PeerState::active) continue;
    const auto [known, is_new] = stages_.try_emplace(id, peer.record.stage);
    const Stage before = std::exchange(known->second, peer.record.stage);
    if (is_new || before == peer.record.stage) continue;
    std::fprintf(stderr, "%s took over stage %d (it had stage %d)\n", peer.record.name.c_str(), peer.record.stage, before);
  }
}

void NodeReport::job_took(std::string_view phase, double taken) { metrics_.step_duration(phase_of(phase)).observe(taken); }

void NodeReport::round_trip(Duration took) { metrics_.network_round_trip().observe(took); }

// ---------------------------------------------------------------- what other nodes say

// A step that nobody has come near is no step of this run.
bool NodeReport::wants(const net::CheckpointPart& part, std::uint64_t bytes) {
  static constexpr Step most_ahead = 1000;  // of what this node has heard
  return collector_ && part.step <= worker_->swarm().largest_done() + most_ahead && collector_->wants(part, bytes);
}

void NodeReport::came(const NodeId& from, const net::CheckpointPart& part, const Buffer& values) {
  if (wants(part, values->size())) collector_->came(from, part, *values, clock_.now());
}

void NodeReport::look_at_checkpoints() {
  if (!collector_) return;
  for (const auto& outcome : collector_->look(worker_->swarm().total_tokens(), clock_.now())) checkpointed(outcome);
}

void NodeReport::finish_checkpoints() {
  if (!collector_) return;
  for (const auto& outcome : collector_->finish(worker_->swarm().total_tokens(), clock_.now())) checkpointed(outcome);
}

void NodeReport::checkpointed(const CheckpointCollector::Outcome& outcome) {
  const auto& [step, path, missed] = outcome;
  metrics_.checkpoints(path ? "written" : "failed").add();
  if (path) metrics_.checkpoint_last_success().set(clock_.unix_seconds());
  std::vector<EventField> fields{{"step", static_cast<std::int64_t>(step)}, {"result", path ? std::string("written") : "failed"}};
  if (path) fields.push_back({"path", path->string()});
  if (!missed.empty()) fields.push_back({"missed", missed});
  if (!path) fields.push_back({"why", path.error().message});
  event("checkpoint", fields);
  if (config_.voice != Config::Voice::step_lines) return;
  const std::string text =
      path ? fmt::format("checkpoint of step {} in {}{}", step, path->string(), missed.empty() ? "" : "; " + missed)
           : fmt::format("no checkpoint of step {}: {}; training goes on", step, path.error().message);
  std::fprintf(stderr, "%s\n", text.c_str());
}

void NodeReport::reported(const NodeId& from, const net::Report& report) {
  if (worker_->record().role != membership::Role::observer) return;
  const membership::Peer* peer = worker_->swarm().find(from);
  if (peer == nullptr) return;
  if (report.file == net::Report::File::events) return event_came(peer->record.name, report.lines);
  auto line = metrics::metrics_line_from_json(report.lines);
  if (!line) return;
  line->worker = peer->record.name;  // nobody reports in another one's name
  if (metrics_file_ && config_.jsonl && !writes_itself(line->worker)) metrics_file_->append(metrics::to_json(*line));
  seen_[from] = {*line, clock_.now()};
  if (line->loss) loss_ = line->loss;
  if (line->divergence && divergences_.size() < most_step_lines) divergences_.push_back(*line->divergence);
  if (line->validation_loss) {
    metrics_.validation_loss("val").set(*line->validation_loss);
    if (config_.voice == Config::Voice::step_lines) {
      std::fprintf(stderr, "step %lld validation loss %.4f\n", static_cast<long long>(line->step), *line->validation_loss);
      to_tensorboard(line->step, {{"val/loss", *line->validation_loss}});
    }
  }
  say_step(*line);
}

bool NodeReport::writes_itself(const std::string& worker) const {
  std::error_code ignored;
  return std::filesystem::exists(config_.local_workers / worker, ignored);
}

void NodeReport::event_came(const std::string& worker, std::string_view json) {
  auto line = metrics::event_from_json(json);
  if (!line || !is_news(line->event)) return;
  line->worker = worker;
  if (events_ && !writes_itself(worker)) events_->write_for(*line);
  if (config_.voice != Config::Voice::step_lines) return;
  constexpr std::size_t shown_bytes = 200;
  for (const EventField& field : line->fields) {
    if (field.name != "why") continue;
    std::fprintf(stderr, "%s: %s\n", worker.c_str(), printable(text_of(field), shown_bytes).c_str());
  }
}

// A step is printed once all live originators have told theirs, or when a later one is told: the mean of the losses of
// those that had any.
void NodeReport::say_step(const metrics::MetricsLine& line) {
  const bool closes_step = line.stage == 0 && line.learning_rate.has_value();
  if (config_.voice != Config::Voice::step_lines || !closes_step || line.step <= printed_) return;
  step_lines_[line.step].push_back(line);
  while (step_lines_.size() > 1 && step_lines_.begin()->first < line.step) print_step(step_lines_.begin()->first);
  if (step_lines_.size() > most_step_lines) step_lines_.erase(step_lines_.begin());
  const auto it = step_lines_.find(line.step);
  if (it != step_lines_.end() && it->second.size() >= worker_->swarm().live_originators().size()) print_step(line.step);
}

void NodeReport::print_step(Step step) {
  const auto node = step_lines_.extract(step);
  const auto& lines = node.mapped();
  printed_ = std::max(printed_, step);
  metrics::StepLine out;
  out.step = step;
  out.max_steps = worker_->clock().last_step();
  double loss = 0.0;
  int losses = 0;
  double skip = 0.0;
  double rate = 0.0;
  for (const metrics::MetricsLine& line : lines) {
    loss += line.loss.value_or(0.0);
    losses += line.loss ? 1 : 0;
    skip += line.skip_ratio.value_or(0.0);
    rate += line.tokens_per_second.value_or(0.0);
    out.learning_rate = line.learning_rate;
    if (line.gradient_norm) out.gradient_norm = line.gradient_norm;
  }
  if (losses > 0) out.loss = loss / losses;
  out.skip_ratio = skip / static_cast<double>(lines.size());
  if (rate > 0.0) out.tokens_per_second = rate;
  out.workers_active = static_cast<std::int64_t>(worker_->swarm().live_workers().size());
  out.workers_wanted = config_.workers_wanted;
  out.eta_seconds = seconds_left(first_printed_, step, out.max_steps, clock_.unix_seconds());
  if (step >= out.max_steps) out.eta_seconds.reset();
  std::fprintf(stderr, "%s\n", metrics::format_step_line(out).c_str());

  std::vector<metrics::Scalar> scalars{{"pipeline/skip_ratio", *out.skip_ratio},
                                       {"workers/active", static_cast<double>(out.workers_active)}};
  if (out.loss) scalars.push_back({"train/loss", *out.loss});
  if (out.learning_rate) scalars.push_back({"train/lr", *out.learning_rate});
  if (out.gradient_norm) scalars.push_back({"train/grad_norm", *out.gradient_norm});
  if (out.tokens_per_second) scalars.push_back({"throughput/tokens_per_second", *out.tokens_per_second});
  if (!divergences_.empty()) {
    const double sum = std::accumulate(divergences_.begin(), divergences_.end(), 0.0);
    scalars.push_back({"outer/divergence", sum / static_cast<double>(divergences_.size())});
    divergences_.clear();
  }
  to_tensorboard(step, scalars);
}

// The tags are those of metrics.jsonl; the values are the run's, not one worker's. The file begins with the first of them:
// by then it is known at which step a run goes on.
void NodeReport::to_tensorboard(Step step, const std::vector<metrics::Scalar>& scalars) {
  if (config_.tensorboard.empty()) return;
  const double now = clock_.unix_seconds();
  if (!tensorboard_) {
    auto made = metrics::TensorBoardFile::create(config_.tensorboard, now, step);
    if (!made) {
      log_warning("{}; this launcher writes nothing for TensorBoard, training goes on", made.error().message);
      config_.tensorboard.clear();
      return;
    }
    tensorboard_.emplace(std::move(*made));
  }
  tensorboard_->add(now, step, scalars);
}

void NodeReport::metrics_came(const NodeId& from, ByteView text) {
  const membership::Peer* peer = worker_->swarm().find(from);
  if (peer == nullptr || text.size() > metrics::max_worker_metrics_bytes) return;
  snapshots_[from.hex()] = {peer->record.name, std::make_shared<const std::string>(as_text(text)), clock_.now()};
}

std::vector<net::Report> NodeReport::take_reports() { return std::exchange(reports_, {}); }

// ---------------------------------------------------------------- what HTTP shows

void NodeReport::refresh() {
  using metrics::Traffic;
  const trainer::WorkerCounters& c = worker_->counters();
  const membership::Swarm& swarm = worker_->swarm();
  if (const auto usage = metrics::read_process_usage()) {
    rss_bytes_ = usage->resident_bytes;
    metrics_.set_process(*usage);
  }
  std::map<metrics::WorkerState, int> states;
  for (const auto& [id, peer] : swarm.peers) {
    if (peer.record.role != membership::Role::worker) continue;
    const metrics::WorkerState state = state_of(peer.state);
    ++states[state];
    metrics_.worker_up(peer.record.name).set(swarm.is_live(id) ? 1.0 : 0.0);
    const double age = seconds(clock_.now() - peer.record_at);
    metrics_.worker_last_heartbeat(peer.record.name).set(clock_.unix_seconds() - age);
  }
  for (const auto state : {metrics::WorkerState::joining, metrics::WorkerState::active, metrics::WorkerState::paused,
                           metrics::WorkerState::suspect, metrics::WorkerState::dead}) {
    metrics_.workers(state).set(states[state]);
  }
  for (Stage stage = 0; stage < static_cast<Stage>(config_.stages); ++stage) {
    metrics_.stage_replicas(stage).set(static_cast<double>(swarm.live_replicas(stage).size()));
  }
  metrics_.worker_joins().advance_to(static_cast<double>(c.joins));
  for (const auto& [reason, count] : c.departures) {
    metrics_.worker_departures(reason == "left" ? metrics::DepartureReason::left : metrics::DepartureReason::timeout)
        .advance_to(static_cast<double>(count));
  }
  metrics_.training_steps(config_.name).advance_to(static_cast<double>(c.optimizer_steps));
  metrics_.training_tokens(config_.name).advance_to(static_cast<double>(c.tokens));
  metrics_.outer_rounds(metrics::RoundResult::rejected).advance_to(static_cast<double>(c.rounds_rejected));
  metrics_.outer_rounds(metrics::RoundResult::one_sided).advance_to(static_cast<double>(c.rounds_one_sided));
  using Outcome = metrics::MicrobatchOutcome;
  metrics_.microbatches(Outcome::completed).advance_to(static_cast<double>(c.completed));
  metrics_.microbatches(Outcome::rerouted).advance_to(static_cast<double>(c.rerouted));
  metrics_.microbatches(Outcome::skipped_stage).advance_to(static_cast<double>(c.completed_with_skips));
  metrics_.microbatches(Outcome::dropped).advance_to(static_cast<double>(c.dropped));
  for (const auto& [key, count] : c.stage_skips) {
    const auto reason =
        key.second == pipeline::SkipReason::dead ? metrics::SkipReason::dead : metrics::SkipReason::timeout;
    metrics_.stage_skips(key.first, reason).advance_to(static_cast<double>(count));
  }
  if (worker_->stage() >= 0) metrics_.queue_depth(worker_->stage()).set(static_cast<double>(worker_->clock().kept()));
  for (int i = 0; i < trainer::WorkerCounters::traffic_kinds; ++i) {
    const auto kind = static_cast<Traffic>(i);
    metrics_.network_sent(kind).advance_to(static_cast<double>(c.sent_bytes[static_cast<std::size_t>(i)]));
    metrics_.network_received(kind).advance_to(static_cast<double>(c.received_bytes[static_cast<std::size_t>(i)]));
  }
  using Rejection = metrics::Rejection;
  metrics_.messages_rejected(Rejection::bad_checksum).advance_to(static_cast<double>(c.bad_checksum));
  metrics_.messages_rejected(Rejection::stale).advance_to(static_cast<double>(c.rejected_stale));
  metrics_.messages_rejected(Rejection::non_finite).advance_to(static_cast<double>(c.rejected_non_finite));
  metrics_.messages_rejected(Rejection::norm).advance_to(static_cast<double>(c.rejected_norm));
}

std::shared_ptr<const metrics::HttpSnapshot> NodeReport::snapshot(TimePoint now) {
  refresh();
  if (config_.voice == Config::Voice::step_lines) say_takeovers();
  auto out = std::make_shared<metrics::HttpSnapshot>();
  out->made_at = now;
  out->name = config_.name;
  out->metrics_text = metrics_.text();
  out->status_json = metrics::to_json(status());
  std::erase_if(snapshots_, [&](const auto& entry) { return now - entry.second.received_at > std::chrono::minutes(10); });
  out->workers = snapshots_;
  return out;
}

Buffer NodeReport::metrics_text() const {
  const std::string text = metrics_.text();
  const ByteView bytes = as_bytes(text);
  return std::make_shared<const Bytes>(bytes.begin(), bytes.end());
}

metrics::RunStatus NodeReport::status() const {
  const membership::Swarm& swarm = worker_->swarm();
  metrics::RunStatus out;
  out.run_id = config_.run_id;
  out.name = config_.run_name;
  out.max_steps = worker_->clock().last_step();
  out.join = config_.join_token;
  out.loss = loss_;
  out.step = std::max<Step>(0, swarm.largest_done());
  out.state = worker_->saw_finished() ? metrics::RunState::finished
              : out.step > 0          ? metrics::RunState::training
                                      : metrics::RunState::waiting;
  double rate = 0.0;
  for (Stage stage = 0; stage < static_cast<Stage>(config_.stages); ++stage) {
    out.stages.push_back({stage, static_cast<std::int64_t>(swarm.live_replicas(stage).size())});
  }
  for (const auto& [id, peer] : swarm.peers) {
    const membership::Record& record = peer.record;
    if (record.role != membership::Role::worker) continue;
    metrics::WorkerStatus worker;
    worker.id = id.hex();
    worker.name = record.name;
    if (record.host == config_.host) worker.pid = record.pid;
    worker.host = host_of(record.endpoints.control);
    worker.stage = record.stage;
    worker.state = state_of(peer.state);
    worker.step = record.step;
    if (!record.http.empty()) worker.http = record.http;
    if (record.rss_bytes > 0) worker.rss_bytes = record.rss_bytes;
    if (const auto seen = seen_.find(id); seen != seen_.end() && clock_.now() - seen->second.at < seen_for) {
      worker.tokens_per_second = seen->second.line.tokens_per_second;
      if (swarm.is_live(id)) rate += worker.tokens_per_second.value_or(0.0);
    }
    out.workers.push_back(std::move(worker));
  }
  if (rate > 0.0) out.tokens_per_second = rate;
  return out;
}

}  // namespace starling::launcher
