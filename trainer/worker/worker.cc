// The shell: events in, one queue of actions, jobs to and from the device.
//
// event                     -> decider            -> actions carried out here
// -------------------------------------------------------------------------------------------------------------------
// ping, ack, view page      -> View               -> send; peer came, changed, went (swarm_changed); woke late
// lobby request             -> Admission          -> issue a certificate, introduce, answer
// offer, chunk, pull, ...   -> Bulk               -> send; delivered, failed, ended (by what the transfer is about)
//   about a microbatch      -> StageStep          -> take, refuse, acknowledge; run the device; drop
//   about an exchange part  -> Exchange           -> take, refuse; snapshot, average, solo, round finished
//   about a state part      -> CatchUp            -> take, refuse; load; finished, exhausted
//   about a backup          -> (kept here)
// accepted, passed, answer  -> InFlight           -> re-route, tell passed, ask, free
// done(k)                   -> View, StageStep    -> close step: optimizer job, then Exchange at a round's end
// device finished           -> StageStep          -> onwards: Router chooses, Bulk moves, InFlight watches
// time, any change          -> Originator         -> start, give up;  Placement -> claim, load;  RunEnd -> eval, exit
#include "trainer/worker/worker.h"

#include <algorithm>
#include <utility>

namespace starling::trainer {
namespace {

constexpr int device_queue = 2;  // one job runs, one waits: more would undo the order of priorities
constexpr Duration report_interval = std::chrono::seconds(1);

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};

net::Bulk::Config bulk_config(const WorkerConfig& config) {
  net::Bulk::Config out;
  out.total_credit_bytes = static_cast<std::uint64_t>(std::max<std::int64_t>(config.memory_bytes / 8, 1 << 20));
  return out;
}

pipeline::Originator::Config originator_config(const WorkerConfig& config, const Worker::Self& self) {
  using pipeline::Originator;
  return {.self = self.id,
          .boot = self.boot,
          .routing = config.pipeline.routing,
          .give_ups = config.pipeline.skip == pipeline::Skip::never ? Originator::GiveUps::off : Originator::GiveUps::on,
          .microbatches = config.training.microbatches,
          .replicas = config.parallelism.replicas,
          .stages = config.parallelism.stages,
          .max_in_flight = config.pipeline.max_in_flight,
          .last_step = config.last_step()};
}

// Who never skips waits for a partner too.
outer::Exchange::Config exchange_config(const WorkerConfig& config) {
  outer::Exchange::Config out{.outer = config.outer, .seed = config.seed};
  if (config.pipeline.skip == pipeline::Skip::never) {
    out.min_wait = out.min_silence = out.min_transfer_wait = std::chrono::minutes(10);
  }
  return out;
}

}  // namespace

membership::Record Worker::first_record(const Self& self, const net::Transport& transport) {
  membership::Record record;
  record.id = self.id;
  record.boot = self.boot;
  record.name = self.name;
  record.role = self.role;
  record.endpoints = transport.bound();
  record.http = self.http;
  record.host = self.host;
  record.pid = self.pid;
  record.has_data = self.has_data;
  return record;
}

Worker::Worker(WorkerConfig config, Self self, Environment environment, TimePoint now, const Made& made)
    : config_(std::move(config)),
      self_(std::move(self)),
      env_(environment),
      now_(now),
      view_({.membership = config_.membership}, first_record(self_, env_.transport), env_.credentials.signatures(),
            [this](const membership::Record& record) { return env_.credentials.vouches(record); },
            env_.random.stream("membership"), now),
      admission_({.stages = config_.parallelism.stages}),
      bulk_(bulk_config(config_), self_.id, self_.boot),
      exchange_(exchange_config(config_), self_.id, self_.boot),
      catch_up_({}, self_.id, self_.boot),
      in_flight_(config_.pipeline.skip == pipeline::Skip::never ? InFlight::Deadlines::off : InFlight::Deadlines::on),
      originator_(originator_config(config_, self_)),
      router_({.self = self_.id,
               .routing = config_.pipeline.routing,
               .seed = config_.seed,
               .stages = config_.parallelism.stages},
              env_.random.stream("router")),
      placement_({.self = self_.id, .seed = config_.seed, .stages = config_.parallelism.stages}),
      run_end_({.self = self_.id,
                .max_tokens = config_.training.max_tokens,
                .part = self_.role == membership::Role::worker ? RunEnd::Config::Part::worker
                                                               : RunEnd::Config::Part::observer}),
      record_(first_record(self_, env_.transport)) {
  const bool waits = config_.pipeline.skip == pipeline::Skip::never;
  stage_step_ = std::make_unique<StageStep>(
      StageStep::Config{.self = self_.id,
                        .stage = no_stage,
                        .deadlines = waits ? StageStep::Deadlines::off : StageStep::Deadlines::on,
                        .local_steps = config_.outer.local_steps,
                        .last_step = config_.last_step(),
                        .least_workers = waits ? config_.start_workers() : 0,
                        .memory_bytes = config_.memory_bytes},
      now);
  report_at_ = now + report_interval;
  if (self_.resume) counters_.tokens = resumed_tokens();
  if (made) made(*this);
  if (const auto* welcome = std::get_if<Credentials::Welcome>(&self_.admission)) {
    welcomed(*welcome);
  } else {
    STARLING_CHECK(!is_worker(), "a worker joins through a seed, an observer founds a run");
    life_ = Life::active;
    record_.certificate = std::get<Bytes>(self_.admission);
    record_.standing = membership::Standing::active;
    publish(View::SelfChanged::Kind::important);
    for (const Bytes& record : self_.known) feed(View::UpdateCame{{net::Update::Kind::record, record}});
  }
  drain();
}

Worker::~Worker() = default;

// Each target replica counts its share of what was trained before.
std::int64_t Worker::resumed_tokens() const {
  const auto* welcome = std::get_if<Credentials::Welcome>(&self_.admission);
  const std::int64_t replicas = std::max<std::int64_t>(1, config_.parallelism.replicas);
  if (welcome == nullptr || welcome->stage != 0 || welcome->slot < 0 || welcome->slot >= replicas) return 0;
  const std::int64_t rest = welcome->slot == 0 ? self_.resume->tokens % replicas : 0;
  return self_.resume->tokens / replicas + rest;
}

// ---------------------------------------------------------------- events in

void Worker::on(Event event, TimePoint now) {
  if (exit_) return;
  now_ = std::max(now_, now);
  std::visit(
      [this](auto&& e) {
        using E = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<E, net::TransportEvent>) {
          std::visit([this](const auto& t) { handle(t); }, e);
        } else if constexpr (std::is_same_v<E, ComputeDone>) {
          done(std::move(e.completion));
        } else if constexpr (std::is_same_v<E, LeaveWished>) {
          leave(Exit::left, "left, as asked");
        } else if constexpr (std::is_same_v<E, FinishWished>) {
          finish_wished(e.statement);
        } else {
          tick();
        }
      },
      std::move(event));
  drain();
}

// Every decider looks at the time with every event: each knows by itself whether a deadline of its own has passed.
void Worker::tick() {
  feed(View::Tick{});
  feed(Bulk::Tick{});
  if (env_.credentials.may_admit()) feed(Admission::Tick{});
  if (active_worker()) {
    feed(InFlight::Tick{});
    feed(StageStep::Tick{});
    feed(Exchange::Tick{});
    start_when_complete();
    if (is_originator()) feed(Originator::Look{});
    feed_placement(Placement::Look{});
  }
  feed(CatchUp::Tick{});
  if (now_ >= copy_again_at_) {
    copy_again_at_ = never;
    copy(CopyFor::joining, stage_, CatchUp::From::replica);
  }
  feed(RunEnd::Look{});
  if (eval_ && now_ >= eval_->until) end_eval();
  leave_when_delivered();
  if (exit_) return;
  if (now_ >= report_at_) {
    report_at_ = now_ + report_interval;
    refresh_record();
  }
}

TimePoint Worker::next_deadline() const {
  if (exit_) return never;
  TimePoint at = earliest(view_.next_deadline(), bulk_.next_deadline());
  at = earliest(at, report_at_);
  at = earliest(at, earliest(admission_.next_deadline(), run_end_.next_deadline()));
  at = earliest(at, catch_up_.next_deadline());
  if (active_worker()) {
    at = earliest(at, earliest(in_flight_.next_deadline(), stage_step_->next_deadline()));
    at = earliest(at, earliest(exchange_.next_deadline(), placement_.next_deadline()));
    if (is_originator()) at = earliest(at, training_started_ ? originator_.next_deadline() : start_at_);
  }
  if (eval_) at = earliest(at, eval_->until);
  return earliest(at, earliest(leave_at_, copy_again_at_));
}

void Worker::handle(const net::Received& event) {
  const auto kind = event.lane == net::Lane::control ? WorkerCounters::control : WorkerCounters::activation;
  if (event.lane == net::Lane::control) {
    counters_.received_bytes[kind] += static_cast<std::int64_t>(event.frame.size());
    control_frame(event);
  } else {
    bulk_frame(event);
  }
}

void Worker::handle(const net::PeerConnected&) {}

void Worker::handle(const net::PeerRefused& event) {
  env_.listener.event("peer_refused", {{"peer", event.peer.brief()}, {"why", event.why}});
}

void Worker::control_frame(const net::Received& event) {
  auto decoded = net::decode(event.frame, event.from, self_.id);
  if (!decoded) {
    ++counters_.rejected_malformed;
    return;
  }
  feed(View::HeardFrom{event.from});
  message(event.from, std::move(*decoded));
}

void Worker::bulk_frame(const net::Received& event) {
  const auto chunk = net::decode_chunk(event.frame, event.from);
  if (!chunk) {
    ++counters_.rejected_malformed;
    return;
  }
  feed(View::HeardFrom{event.from});
  if (chunk->offer) {
    feed(Bulk::OfferCame{event.from, *chunk->offer});
    drain();  // taken or refused before its bytes are looked at
  }
  feed(Bulk::ChunkCame{*chunk});
}

void Worker::message(const NodeId& from, net::Message message) {
  const auto member_message = [&](const auto& m) { feed(View::MessageCame{from, m}); };
  const auto exchange_message = [&](const auto& m) {
    if (active_worker()) feed(Exchange::MessageCame{from, m});
  };
  std::visit(
      Overloaded{
          [&](const net::Ping& m) { member_message(m); },
          [&](const net::Ack& m) { member_message(m); },
          [&](const net::PingRequest& m) { member_message(m); },
          [&](const net::ViewRequest& m) { member_message(m); },
          [&](const net::ViewPage& m) { member_message(m); },
          [&](const net::Introduce& m) { introduced(from, m); },
          [&](const net::IntroduceAck& m) { feed(Admission::AckCame{from, m.newcomer}); },
          [&](const net::Finish& m) { finish_wished(m.statement); },
          [&](const net::Report& m) { env_.listener.reported(from, m); },
          [&](const net::Done& m) { feed(View::DoneCame{from, {m.boot, m.step}}); },
          [&](const net::Accepted& m) {
            feed(Bulk::ReleaseCame{from, m.transfer});
            feed(InFlight::AcceptedCame{from, m});
          },
          [&](const net::Passed& m) { feed(InFlight::PassedCame{from, m}); },
          [&](const net::Ask& m) { answer(from, m); },
          [&](const net::AskAnswer& m) { feed(InFlight::AnswerCame{from, m}); },
          [&](const net::Abandon& m) { abandoned(from, m); },
          [&](const net::Propose& m) { exchange_message(m); },
          [&](const net::Accept& m) { exchange_message(m); },
          [&](const net::Decline& m) { exchange_message(m); },
          [&](const net::Got& m) { exchange_message(m); },
          [&](const net::StateRequest& m) { serve(from, m); },
          [&](const net::StateInfo& m) { feed(CatchUp::InfoCame{from, m}); },
          [&](const net::Offer& m) { feed(Bulk::OfferCame{from, m}); },
          [&](const net::Pull& m) { feed(Bulk::PullCame{from, m}); },
          [&](const net::Release& m) {
            checkpoint_out_.erase(m.transfer);
            feed(Bulk::ReleaseCame{from, m.transfer});
          },
          [&](const net::Refuse& m) { feed(Bulk::RefuseCame{from, m}); },
          [&](const net::Credit& m) { feed(Bulk::CreditCame{from, m}); },
      },
      message);
}

// Whoever offers something of another size than the config says is refused before anything is allocated.
void Worker::carry_out(const Bulk::OfferAnnounced& action) {
  const NodeId& from = action.from;
  const net::Offer& offer = action.offer;
  std::visit(
      Overloaded{
          [&](const net::MicrobatchHeader& header) {
            if (!active_worker()) return refuse(from, offer.transfer, net::RefuseCode::starting);
            if (!well_formed(from, offer, header)) {
              ++counters_.rejected_malformed;
              return refuse(from, offer.transfer, net::RefuseCode::malformed);
            }
            offers_[offer.transfer] = offer;
            feed(StageStep::Offered{from, offer.transfer, header});
          },
          [&](const net::ExchangePart& part) {
            if (!active_worker()) return refuse(from, offer.transfer, net::RefuseCode::starting);
            if (part.stage != stage_) return refuse(from, offer.transfer, net::RefuseCode::wrong_stage);
            feed(Exchange::PartOffered{from, offer, exchange_bytes()});
          },
          [&](const net::StatePart& part) {
            feed(CatchUp::PartOffered{from, offer, is_worker() ? state_part_bytes(part) : 0});
          },
          [&](const net::BackupPart& part) {
            const bool known = is_worker() && part.stage >= 0 && part.stage < config_.parallelism.stages;
            const net::StatePart phi{.stage = part.stage, .encoding = static_cast<std::uint8_t>(Encoding::bf16)};
            if (!known || offer.bytes != state_part_bytes(phi)) {
              ++counters_.rejected_malformed;
              return refuse(from, offer.transfer, net::RefuseCode::malformed);
            }
            feed(Bulk::OfferTaken{from, offer});
          },
          [&](const net::CheckpointPart& part) {
            if (!env_.listener.wants(part, offer.bytes)) return refuse(from, offer.transfer, net::RefuseCode::malformed);
            feed(Bulk::OfferTaken{from, offer});
          },
          [&](const net::MetricsText&) {
            static constexpr std::uint64_t most_metrics_bytes = 1 << 20;
            if (offer.bytes > most_metrics_bytes) return refuse(from, offer.transfer, net::RefuseCode::malformed);
            feed(Bulk::OfferTaken{from, offer});
          },
      },
      offer.about);
}

// ---------------------------------------------------------------- deciders, fed and drained

template <typename Actions>
void Worker::enqueue(Actions&& actions) {
  for (auto& action : actions) queue_.emplace_back(std::move(action));
}

void Worker::drain() {
  while (!queue_.empty() && !exit_) {
    const Action action = std::move(queue_.front());
    queue_.pop_front();
    std::visit(
        [&](const auto& of_decider) {
          env_.listener.decided(action.index(), of_decider.index());
          std::visit([this](const auto& a) { carry_out(a); }, of_decider);
        },
        action);
  }
}

void Worker::feed(View::Event event) { enqueue(view_.on(event, now_)); }
void Worker::feed(Admission::Event event) { enqueue(admission_.on(event, swarm(), now_)); }
void Worker::feed(Bulk::Event event) { enqueue(bulk_.on(event, now_)); }
void Worker::feed(Exchange::Event event) { enqueue(exchange_.on(event, swarm(), stage_step_->round(), now_)); }
void Worker::feed(CatchUp::Event event) { enqueue(catch_up_.on(event, swarm(), now_)); }
void Worker::feed(StageStep::Event event) { enqueue(stage_step_->on(event, swarm(), now_)); }
void Worker::feed(InFlight::Event event) { enqueue(in_flight_.on(event, now_)); }
void Worker::feed(Originator::Event event) { enqueue(originator_.on(event, swarm(), originator_clock(), now_)); }
void Worker::feed(RunEnd::Event event) { enqueue(run_end_.on(event, swarm(), stage_step_->step(), now_)); }
void Worker::feed_placement(Placement::Event event) {
  if (config_.pipeline.takeover == pipeline::Takeover::never) return;
  const bool free = life_ == Life::active && !copying_stage_ && !stage_step_->ended() &&
                    swarm().largest_done() > (self_.resume ? self_.resume->step : 0);
  enqueue(placement_.on(event, swarm(), stage_, free ? Placement::MayMove::yes : Placement::MayMove::no, now_));
}

pipeline::Originator::Clock Worker::originator_clock() const {
  return {.step = stage_step_->step(),
          .done_half = stage_step_->done_half(swarm()),
          .began = stage_step_->step_began(),
          .tau = stage_step_->tau(),
          .own_seconds = stage_step_->microbatch_seconds(),
          .paused = !training_started_ || stage_step_->between_steps() || stage_step_->ended() || copying_stage_.has_value()};
}

// A D, a birth, a death, a new stage: everybody whose rules name the live ones looks again.
void Worker::swarm_changed() {
  if (active_worker()) {
    start_when_complete();
    feed(StageStep::SwarmChanged{});
    if (is_originator()) feed(Originator::Look{});
    feed_placement(Placement::Look{});
  }
  feed(RunEnd::Look{});
}

// Complete in this view is not complete in all: a hop that has not heard of the next one skips its stage, and one that has
// not heard of the originator cannot send home. One interval is enough for the last record to reach everybody.
void Worker::start_when_complete() {
  if (!is_originator() || training_started_) return;
  if (!pipeline::missing_to_start(swarm(), config_.parallelism.stages, config_.start_workers()).empty()) {
    start_at_ = never;
    return;
  }
  if (start_at_ == never) start_at_ = now_ + config_.membership.heartbeat_interval;
  training_started_ = start_at_ <= now_;
}

std::uint64_t Worker::accounted_bytes() const {
  std::uint64_t total = bulk_.receiving_bytes();
  for (const auto& [stage, versions] : backups_) {
    for (const auto& [part, buffer] : versions) total += buffer->size();
  }
  if (env_.compute == nullptr) return total;
  const auto activation = static_cast<std::uint64_t>(env_.compute->sizes().activation_bytes);
  return total + static_cast<std::uint64_t>(stage_step_->kept_bytes()) + (inputs_.size() + outputs_.size()) * activation;
}

std::string Worker::waiting_for() const {
  if (life_ == Life::loading) return "the weights of stage " + std::to_string(stage_);
  if (!is_originator() || training_started_) return {};
  return pipeline::missing_to_start(swarm(), config_.parallelism.stages, config_.start_workers());
}

// ---------------------------------------------------------------- sending

void Worker::send(const NodeId& to, const net::Message& message) {
  if (to == self_.id) return;
  Bytes frame = net::encode(message);
  counters_.sent_bytes[WorkerCounters::control] += static_cast<std::int64_t>(frame.size());
  ++counters_.messages_sent;
  env_.transport.send(to, net::Lane::control, std::move(frame));
}

void Worker::refuse(const NodeId& from, const TransferId& transfer, net::RefuseCode code) {
  feed(Bulk::OfferRefused{from, transfer, code});
}

TransferId Worker::offer_buffer(const NodeId& to, net::About about, Buffer buffer) {
  const TransferId transfer = bulk_.next_transfer();
  const Hash128 hash = xxh3_128(*buffer);
  feed(Bulk::OfferBuffer{to, transfer, std::move(about), std::move(buffer), hash});
  return transfer;
}

// ---------------------------------------------------------------- the device

void Worker::submit(Job job, JobFor what) {
  const JobId id = ++next_job_;
  jobs_.emplace(id, std::move(what));
  env_.compute->submit(id, std::move(job));
}

// The device gets the next microbatch job as soon as it has room for one.
void Worker::pump() {
  while (on_device_ < device_queue) {
    const auto next = stage_step_->next_work();
    if (!next) return;
    const MicrobatchId& id = next->header.id;
    const Pass pass = next->header.purpose == net::Purpose::eval ? Pass::eval : Pass::train;
    Buffer input;
    if (const auto it = inputs_.find(id); it != inputs_.end()) {
      input = std::move(it->second);
      inputs_.erase(it);
    }
    ++on_device_;
    const MicrobatchJob what{next->header, next->work, next->visit};
    switch (next->work) {
      case pipeline::Work::begin: submit(Begin{id, slot_, pass}, what); break;
      case pipeline::Work::forward: submit(Forward{id, input, pass, next->header.borders}, what); break;
      case pipeline::Work::loss: submit(Loss{id, input, pass}, what); break;
      case pipeline::Work::backward: submit(Backward{id, input}, what); break;
    }
  }
}

void Worker::done(Completion completion) {
  const auto it = jobs_.find(completion.job);
  if (it == jobs_.end()) {
    ++counters_.late_completions;
    return;
  }
  const JobFor what = std::move(it->second);
  jobs_.erase(it);
  std::visit([&](const auto& w) { finished(w, completion); }, what);
  drain();
  if (active_worker()) pump();
}

void Worker::finished(const MicrobatchJob& job, const Completion& completion) {
  --on_device_;
  StageStep::Computed computed{.microbatch = job.header.id,
                               .visit = job.visit,
                               .work = job.work,
                               .purpose = job.header.purpose,
                               .compute_seconds = completion.compute_seconds};
  const bool wanted = stage_step_->keeps(job.header.id, job.visit);
  if (!wanted) ++counters_.late_completions;
  const char* phase = job.work == pipeline::Work::backward ? "backward" : "forward";
  env_.listener.job_took(phase, completion.compute_seconds);
  std::visit(Overloaded{
                 [&](const ActivationMade& made) {
                   diverged_in_step_ |= made.diverged;
                   computed.good = made.output != nullptr;
                   feed(computed);
                   if (!computed.good || !wanted) return;
                   Header header = job.header;
                   header.age = age_of(header);
                   if (job.work == pipeline::Work::begin) {
                     header.borders = made.borders;
                     plan_path(header);
                   } else {
                     header.made.push_back({stage_, self_.id});
                   }
                   route_forward(std::move(header), made.output, {});
                 },
                 [&](const LossMade& made) {
                   diverged_in_step_ |= made.diverged;
                   computed.good = made.finite;
                   computed.tokens = job.header.purpose == net::Purpose::train ? made.tokens : 0;
                   added_in_step_ |= made.finite && computed.tokens > 0;
                   feed(computed);
                   if (!made.finite) {
                     ++counters_.rejected_non_finite;
                     return;
                   }
                   if (job.header.purpose == net::Purpose::eval) return eval_came_home(job.header, made);
                   loss_sum_ += made.loss_sum;
                   loss_tokens_ += made.tokens;
                   if (!wanted) return;
                   if (made.diverged)
                     return carry_out(StageStep::Drop{job.header.id, StageStep::Drop::Why::bad_input, std::nullopt});
                   Header header = job.header;
                   header.direction = Direction::backward;
                   header.ahead.clear();
                   header.borders.clear();  // each hop has them with its graph
                   header.age = age_of(header);
                   route_backward(std::move(header), made.gradient, {});
                 },
                 [&](const GradientMade& made) {
                   diverged_in_step_ |= made.diverged;
                   computed.good = made.finite;
                   computed.tokens = made.tokens;
                   added_in_step_ |= made.finite;
                   feed(computed);
                   if (!made.finite || made.diverged) ++counters_.rejected_non_finite;
                   if (!made.finite) return;
                   if (made.diverged) return free_microbatch(job.header.id);
                   if (job.header.id.originator == self_.id) return completed(job.header);
                   if (!wanted) return;
                   Header header = job.header;
                   header.age = age_of(header);
                   began_.erase(header.id);
                   route_backward(std::move(header), made.output, {});
                 },
                 [&](const auto&) { STARLING_CHECK(false, "the device answers a microbatch job in kind"); },
             },
             completion.result);
}

void Worker::woke_late(Duration gap) {
  feed(Bulk::WokeLate{gap});
  if (!active_worker()) return;
  feed(StageStep::WokeLate{gap});
  feed(InFlight::WokeLate{gap});
  if (is_originator()) feed(Originator::StoppedAll{});
  const bool in_exchange = exchange_.busy();
  feed(Exchange::Cancelled{});
  if (in_exchange) feed(StageStep::RoundFinished{});
  serve_those_who_waited();
  feed_placement(Placement::WokeLate{});
  feed(RunEnd::WokeLate{gap});
}

}  // namespace starling::trainer
