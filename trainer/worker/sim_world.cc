#include "trainer/worker/sim_world.h"

#include <fmt/format.h>

#include <algorithm>

namespace starling::trainer {
namespace {

NodeId make_id(std::uint64_t seed, std::uint64_t number) {
  NodeId id;
  for (std::uint64_t word = 0; word < 4; ++word) {
    const std::uint64_t parts[] = {number, word};
    const std::uint64_t bits = mix_seed(seed, parts);
    std::memcpy(id.key.data() + word * sizeof bits, &bits, sizeof bits);
  }
  return id;
}

// A keyed hash in place of a signature: whoever does not know the world's key cannot make one.
class SimSignatures final : public membership::Signatures {
 public:
  SimSignatures(std::uint64_t key, NodeId self) : key_(key), self_(self) {}
  std::array<std::byte, 64> sign(ByteView message) const override { return mac(self_, message); }
  bool verify(const NodeId& signer, ByteView message, const std::array<std::byte, 64>& signature) const override {
    return mac(signer, message) == signature;
  }

 private:
  std::array<std::byte, 64> mac(const NodeId& signer, ByteView message) const {
    const std::uint64_t value = xxh3_64(message, xxh3_64(signer.key, key_));
    std::array<std::byte, 64> out{};
    std::memcpy(out.data(), &value, sizeof value);
    return out;
  }
  std::uint64_t key_;
  NodeId self_;
};

}  // namespace

namespace {

void add(WorkerCounters& sum, const WorkerCounters& one);

}  // namespace

// Membership without cryptography: a certificate is the id it is for, with the world's mark.
class SimWorld::SimCredentials final : public Credentials {
 public:
  SimCredentials(std::uint64_t key, NodeId self) : key_(key), self_(self), signatures_(key, self) {}

  const membership::Signatures& signatures() const override { return signatures_; }
  bool vouches(const membership::Record& record) const override {
    if (record.certificate.empty()) return introduced_.contains(record.id);
    const auto id = read(record.certificate);
    return id && *id == record.id;
  }
  Result<NodeId> member_of(ByteView certificate) override {
    auto id = read(certificate);
    if (id) introduced_.insert(*id);
    return id;
  }
  Bytes join_request(const NodeId&, const membership::Record& self, ByteView signed_record) const override {
    ByteWriter out;
    out.raw(self.id.key);
    out.text(self.name);
    out.number(static_cast<std::uint8_t>(self.has_data));
    out.number(static_cast<std::uint8_t>(self.role));
    out.blob(signed_record);
    return std::move(out).bytes();
  }
  Result<Welcome> read_answer(ByteView frame) override {
    ByteReader in(frame);
    if (in.number<std::uint8_t>() == 0) return fail(ErrorCode::unreachable, in.text(256));
    Welcome welcome;
    const ByteView certificate = in.blob(256);
    welcome.certificate.assign(certificate.begin(), certificate.end());
    welcome.name = in.text(64);
    welcome.stage = in.number<Stage>();
    welcome.slot = in.number<Slot>();
    const auto count = in.number<std::uint8_t>();
    for (unsigned i = 0; i < count; ++i) {
      const ByteView record = in.blob(4096);
      welcome.records.emplace_back(record.begin(), record.end());
    }
    if (!in.complete()) return fail(ErrorCode::bad_input, "a lobby answer that is none");
    return welcome;
  }
  bool may_admit() const override { return true; }
  Result<Knock> read_request(ByteView frame) override {
    ByteReader in(frame);
    Knock knock;
    knock.wish.id.key = in.array<32>();
    knock.wish.name = in.text(64);
    knock.wish.has_data = in.number<std::uint8_t>() != 0;
    knock.wish.role = static_cast<membership::Role>(in.number<std::uint8_t>());
    const ByteView record = in.blob(4096);
    knock.record.assign(record.begin(), record.end());
    if (!in.complete()) return fail(ErrorCode::bad_input, "a lobby request that is none");
    return knock;
  }
  Result<Bytes> issue(const membership::Admission::Grant& grant) override {
    introduced_.insert(grant.wish.id);
    return certificate_for(grant.wish.id);
  }
  Bytes answer(const membership::Admission::Grant& grant, ByteView certificate,
               const std::vector<Bytes>& records) const override {
    ByteWriter out;
    out.number<std::uint8_t>(1);
    out.blob(certificate);
    out.text(grant.wish.name);
    out.number(grant.stage);
    out.number(grant.slot);
    out.number(static_cast<std::uint8_t>(records.size()));
    for (const Bytes& record : records) out.blob(record);
    return std::move(out).bytes();
  }
  Bytes denial(Denial, const std::string& why) const override {
    ByteWriter out;
    out.number<std::uint8_t>(0);
    out.text(why);
    return std::move(out).bytes();
  }
  bool owner_wishes_end(ByteView statement) const override { return as_text(statement) == "finish"; }

  Bytes certificate_for(const NodeId& id) const {
    ByteWriter out;
    out.raw(id.key);
    out.number(xxh3_64(id.key, key_));
    return std::move(out).bytes();
  }

 private:
  Result<NodeId> read(ByteView certificate) const {
    ByteReader in(certificate);
    NodeId id;
    id.key = in.array<32>();
    const auto mark = in.number<std::uint64_t>();
    if (!in.complete() || mark != xxh3_64(id.key, key_)) return fail(ErrorCode::unauthenticated, "no certificate");
    return id;
  }
  std::uint64_t key_;
  NodeId self_;
  SimSignatures signatures_;
  std::set<NodeId> introduced_;
};

class SimWorld::SimListener final : public Listener {
 public:
  SimListener(SimWorld& world, Node& node) : world_(world), node_(node) {}

  void decided(std::size_t decider, std::size_t action) override { world_.note(node_, "action", decider, action); }
  void step_closed(const StepReport& report) override {
    node_.steps.push_back(report);
    if (report.loss) node_.losses.emplace_back(world_.now(), report.step);
    world_.note(node_, "step", static_cast<std::uint64_t>(report.step), static_cast<std::uint64_t>(report.took.count()));
  }
  void round_finished(const RoundReport& report) override {
    world_.check_round(node_, report);
    node_.rounds.emplace_back(world_.now(), report);
    world_.note(node_, report.averaged ? "averaged" : "solo", static_cast<std::uint64_t>(report.round), 0);
  }
  void evaluated(Step step, double, std::int64_t windows, bool) override {
    world_.note(node_, "evaluated", static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(windows));
  }
  void event(std::string_view name, const std::vector<EventField>& fields) override {
    if (name == "woke_late") node_.woke_late = true;
    if (name == "copied") world_.check_copy(node_, fields);
    world_.note(node_, name, 0, 0);
    for (const EventField& field : fields) {
      if (name == "takeover" && field.name == "weights") node_.takeovers.push_back(std::get<std::string>(field.value));
    }
    if (!world_.config_.log) return;
    std::string said = fmt::format("  {} {}:", node_.name, name);
    for (const EventField& field : fields) {
      std::visit([&](const auto& value) { said += fmt::format(" {}={}", field.name, value); }, field.value);
    }
    world_.config_.log(said);
  }
  void job_took(std::string_view, double) override {}
  void round_trip(Duration) override {}
  void reported(const NodeId&, const net::Report&) override {}
  std::uint64_t rss_bytes() const override { return 0; }
  void metrics_came(const NodeId&, ByteView) override {}

 private:
  SimWorld& world_;
  Node& node_;
};

SimWorld::SimWorld(Config config)
    : config_(std::move(config)),
      network_(scheduler_, config_.network, Stream(mix_seed(config_.seed, "network"))),
      random_(config_.seed) {
  const std::size_t all = config_.workers + config_.joiners;
  for (std::size_t i = 0; i <= all; ++i) {
    auto node = std::make_unique<Node>();
    node->index = i;
    node->id = make_id(config_.seed, i);
    node->name = i == all ? "observer" : fmt::format("w{:02}", i);
    nodes_.push_back(std::move(node));
  }
  start(all, 1);
  Stream stagger = random_.stream("stagger");
  for (std::size_t i = 0; i < config_.workers; ++i) {
    scheduler_.after(from_seconds(0.1 + stagger.uniform()), [this, i] { start(i, 1); });
  }
  schedule(config_.faults);
  scheduler_.after(sweep_interval, [this] { sweep(); });
}

void SimWorld::schedule(const sim::FaultPlan& faults) {
  for (const sim::Fault& fault : faults) {
    scheduler_.at(fault.at, [this, fault] { apply(fault); });
  }
}

SimWorld::~SimWorld() = default;

void SimWorld::start(std::size_t index, Boot boot) {
  Node& node = *nodes_[index];
  const bool observer = index + 1 == nodes_.size();
  const bool first = node.generation == 0;
  const std::uint64_t generation = ++node.generation;
  node.up = true;
  node.paused = false;
  node.boot = boot;
  node.exit.reset();
  node.never_let_in = false;
  const auto receive = [this, index, generation](net::TransportEvent event) {
    deliver(index, generation, std::move(event));
  };
  net::Transport* transport = nullptr;
  if (first) {
    transport = &network_.add(node.id, receive);
    transports_[node.id] = transport;
  } else {
    network_.restart(node.id, receive);
    transport = transports_.at(node.id);
  }
  auto credentials = std::make_unique<SimCredentials>(mix_seed(config_.seed, "key"), node.id);
  node.listener = std::make_unique<SimListener>(*this, node);
  const Bytes certificate = credentials->certificate_for(node.id);
  node.credentials = std::move(credentials);
  if (node.compute) retired_.push_back(std::move(node.compute));
  node.ledger_read = node.forwards_read = 0;
  node.outer_steps = 0;
  node.woke_late = false;
  node.unkept.clear();
  node.body_counted.clear();
  node.head_counted.clear();
  node.last_step = node.last_round = node.copies = node.completed = 0;
  node.in_step = false;
  if (observer) return make_worker(index, certificate);
  Joiner::Config joiner;
  for (const std::size_t seed : {nodes_.size() - 1, std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    if (seed == index || seed >= nodes_.size() || !transports_.contains(nodes_[seed]->id)) continue;
    joiner.seeds.push_back({nodes_[seed]->id, transports_.at(nodes_[seed]->id)->bound().lobby});
  }
  node.joiner = std::make_unique<Joiner>(std::move(joiner), Worker::first_record(self_of(node), *transport),
                                         *node.credentials, *transport, scheduler_.now());
  arm(index);
}

Worker::Self SimWorld::self_of(const Node& node) const {
  const bool observer = node.index + 1 == nodes_.size();
  Worker::Self self{.id = node.id, .boot = node.boot, .name = node.name, .host = node.index};
  if (observer) self.role = membership::Role::observer;
  self.has_data = !observer;
  return self;
}

void SimWorld::make_worker(std::size_t index, std::variant<Credentials::Welcome, Bytes> admission) {
  Node& node = *nodes_[index];
  const std::uint64_t generation = node.generation;
  Worker::Self self = self_of(node);
  self.admission = std::move(admission);
  if (self.role == membership::Role::worker) {
    SimulatedCompute::Config compute = config_.compute;
    compute.seed = config_.worker.seed;
    compute.stages = config_.worker.parallelism.stages;
    compute.tokens = config_.worker.training.tokens_per_microbatch();
    node.compute = std::make_unique<SimulatedCompute>(
        scheduler_, compute, random_.stream(fmt::format("compute {} {}", index, node.boot)),
        [this, index, generation](Completion completion) {
          deliver(index, generation, Worker::ComputeDone{std::move(completion)});
        });
    if (index < config_.slowness.size()) node.compute->set_slowness(config_.slowness[index]);
  }
  const Worker::Environment environment{Random(mix_seed(config_.seed, fmt::format("node {} {}", index, node.boot))),
                                        *transports_.at(node.id), node.compute.get(), *node.credentials, *node.listener};
  node.worker = std::make_unique<Worker>(config_.worker, std::move(self), environment, scheduler_.now());
  after_event(index);
}

void SimWorld::stop(Node& node) {
  check_ledger(node);
  if (node.worker) add(stopped_, node.worker->counters());
  node.joiner.reset();
  node.in_step = false;
  network_.crash(node.id);
  node.up = false;
  node.paused = false;
  ++node.generation;
  node.timer_at = never;
  node.worker.reset();
  excuse_silence();
}

void SimWorld::apply(const sim::Fault& fault) {
  Node& node = *nodes_[fault.node];
  using Kind = sim::Fault::Kind;
  note(node, sim::to_string(fault.kind), 0, 0);
  switch (fault.kind) {
    case Kind::crash:
      if (node.up) stop(node);
      break;
    case Kind::pause:
      if (!node.up || node.paused) break;
      node.paused = true;
      node.in_step = false;
      network_.pause(node.id);
      if (node.compute) node.compute->pause();
      excuse_silence();
      break;
    case Kind::resume:
      if (!node.up || !node.paused) break;
      node.paused = false;
      network_.resume(node.id);
      if (node.compute) node.compute->resume();
      deliver(fault.node, node.generation, Worker::Tick{});
      break;
    case Kind::restart:
      if (!node.up) start(fault.node, node.boot + 1);
      break;
    case Kind::join:
      if (!node.up && node.generation == 0) start(fault.node, 1);
      break;
    case Kind::leave:
      if (node.up && !node.paused) deliver(fault.node, node.generation, Worker::LeaveWished{});
      break;
    case Kind::cut:
      node.cut = true;
      network_.set_group(node.id, 1);
      break;
    case Kind::heal:
      node.cut = node.in_step = false;
      network_.set_group(node.id, 0);
      break;
    case Kind::slow:
      if (node.compute) node.compute->set_slowness(fault.factor);
      break;
  }
}

void SimWorld::deliver(std::size_t index, std::uint64_t generation, Worker::Event event) {
  Node& node = *nodes_[index];
  if (!node.up || node.generation != generation || node.paused) return;
  if (node.worker) {
    node.worker->on(std::move(event), scheduler_.now());
    node.worker->on(Worker::Tick{}, scheduler_.now());
    return after_event(index);
  }
  if (const auto* network = std::get_if<net::TransportEvent>(&event)) {
    if (const auto* answer = std::get_if<net::LobbyAnswered>(network)) node.joiner->on(*answer, scheduler_.now());
  }
  node.joiner->tick(scheduler_.now());
  const auto& outcome = node.joiner->outcome();
  if (!outcome) return arm(index);
  if (!*outcome) {
    node.exit = Worker::ExitReason{Worker::Exit::alone, outcome->error().message};
    node.never_let_in = true;
    return stop(node);
  }
  make_worker(index, **outcome);
}

void SimWorld::after_event(std::size_t index) {
  Node& node = *nodes_[index];
  check(node);
  if (node.worker->exit()) {
    node.exit = node.worker->exit();
    note(node, "exit", static_cast<std::uint64_t>(node.exit->exit), 0);
    check_exit(node);
    // What it sent as it left still goes out; then its sockets close.
    const std::uint64_t generation = node.generation;
    scheduler_.after(std::chrono::milliseconds(200), [this, index, generation] {
      Node& gone = *nodes_[index];
      if (gone.up && gone.generation == generation) stop(gone);
    });
    return;
  }
  arm(index);
}

void SimWorld::arm(std::size_t index) {
  Node& node = *nodes_[index];
  const TimePoint at = node.worker ? node.worker->next_deadline() : node.joiner->next_deadline();
  if (at >= node.timer_at && node.timer_at > scheduler_.now()) return;  // an earlier timer looks again
  if (at == never) return;
  node.timer_at = std::max(at, scheduler_.now());
  const std::uint64_t timer = ++node.timer;
  const std::uint64_t generation = node.generation;
  scheduler_.at(node.timer_at, [this, index, timer, generation] {
    Node& due = *nodes_[index];
    if (due.timer != timer || due.generation != generation) return;
    due.timer_at = never;
    deliver(index, generation, Worker::Tick{});
  });
}

void SimWorld::note(const Node& node, std::string_view what, std::uint64_t a, std::uint64_t b) {
  const std::uint64_t parts[] = {static_cast<std::uint64_t>(scheduler_.now().time_since_epoch().count()),
                                 xxh3_64(as_bytes(node.name)), xxh3_64(as_bytes(what)), a, b};
  log_hash_ = mix_seed(log_hash_, parts);
  if (config_.log) {
    config_.log(fmt::format("{:.6f} {} {} {} {}", seconds(scheduler_.now().time_since_epoch()), node.name, what, a, b));
  }
}

void SimWorld::run_until(TimePoint until) { scheduler_.run_until(until); }

bool SimWorld::run_to_end(TimePoint limit) {
  const auto running = [this] {
    return std::any_of(nodes_.begin(), nodes_.end(), [](const auto& node) { return node->up && !node->paused; });
  };
  while (running() && !scheduler_.empty() && scheduler_.next() <= limit) scheduler_.run_one();
  return !running();
}

std::string SimWorld::describe() const {
  std::string out;
  for (const auto& node : nodes_) {
    if (!node->worker) continue;
    const Worker& worker = *node->worker;
    out += fmt::format("{}{} {} stage {} k {} D_half {} {}{}{} kept {} outputs {} live originators {}\n", node->name,
                       node->paused ? " (stopped)" : "", node->id.brief(), worker.stage(), worker.clock().step(),
                       worker.clock().done_half(worker.swarm()), worker.active() ? "active" : "loading",
                       worker.clock().between_steps() ? " between steps" : "", worker.clock().ended() ? " ended" : "",
                       worker.clock().kept(), worker.outputs_kept(), worker.swarm().live_originators().size());
  }
  return out;
}

std::string SimWorld::view_text(const Node& node) {
  std::string out;
  for (const auto& [id, peer] : node.worker->swarm().peers) {
    out += fmt::format("{} {}\n", id.brief(), membership::to_string(peer.state));
  }
  return out;
}

namespace {

void add(WorkerCounters& sum, const WorkerCounters& one) {
  for (auto member : {&WorkerCounters::optimizer_steps, &WorkerCounters::tokens, &WorkerCounters::completed,
                      &WorkerCounters::completed_with_skips, &WorkerCounters::dropped, &WorkerCounters::rerouted,
                      &WorkerCounters::rounds_averaged, &WorkerCounters::rounds_solo, &WorkerCounters::rounds_solo_odd,
                      &WorkerCounters::rounds_one_sided, &WorkerCounters::takeovers, &WorkerCounters::copies, &WorkerCounters::reloads, &WorkerCounters::rejected_norm,
                      &WorkerCounters::rejected_malformed, &WorkerCounters::rejected_non_finite,
                      &WorkerCounters::late_completions}) {
    sum.*member += one.*member;
  }
  for (const auto& [key, count] : one.stage_skips) sum.stage_skips[key] += count;
}

}  // namespace

WorkerCounters SimWorld::totals() const {
  WorkerCounters sum = stopped_;
  for (const auto& node : nodes_) {
    if (node->worker) add(sum, node->worker->counters());
  }
  return sum;
}

}  // namespace starling::trainer
