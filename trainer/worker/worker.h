// One node of a run. Read this first, then worker.cc.
//
// The worker is a shell: it decides nothing and computes nothing. Events come in (frames, finished jobs, time); each goes
// to one decider; the actions that a decider returns are queued and carried out in order, and carrying one out may feed
// the next decider. The table at the top of worker.cc says which. The same class runs on real sockets and in SimWorld.
//
//   worker.cc             events in, the queue of actions, jobs to and from the device, timers
//   worker_pipeline.cc    the way of a microbatch
//   worker_round.cc       closing steps, exchanges, backups, checkpoints, evaluation
//   worker_state.cc       the state of a stage, given to others and taken from them
//   worker_membership.cc  joining, the view, admission, the end of the run
//
//   life:  (Joiner) -> loading -> active -> (copying | taking over -> active)* -> ended
//
// Loop thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "gossip/base/env.h"
#include "gossip/base/random.h"
#include "gossip/membership/admission.h"
#include "gossip/membership/view.h"
#include "gossip/net/bulk.h"
#include "gossip/net/transport.h"
#include "gossip/net/wire.h"
#include "gossip/outer/catch_up.h"
#include "gossip/outer/exchange.h"
#include "pipeline/in_flight.h"
#include "pipeline/originator.h"
#include "pipeline/placement.h"
#include "pipeline/router.h"
#include "pipeline/run_end.h"
#include "pipeline/stage_step.h"
#include "trainer/worker/compute.h"
#include "trainer/worker/credentials.h"
#include "trainer/worker/worker_config.h"
#include "trainer/worker/worker_report.h"

namespace starling::trainer {

class Worker {
 public:
  struct Self {
    NodeId id;
    Boot boot = 1;
    std::string name;
    membership::Role role = membership::Role::worker;
    bool has_data = true;
    std::uint64_t host = 0;
    std::int64_t pid = 0;
    std::string http;
    // A worker comes through a seed (Joiner); an observer that founds a run has its certificate from the owner.
    std::variant<Credentials::Welcome, Bytes> admission;
    // A run that goes on from stored state: the last step that it holds (0: of weights to begin with), the tokens of all
    // originators until then, and the state of the stage that this worker was admitted for.
    struct Resume {
      Step step = 0;
      std::int64_t tokens = 0;
      Load load;
    };
    std::optional<Resume> resume = {};
    std::vector<Bytes> known = {};       // an observer that comes back: signed records of members, to be asked for news
  };
  // The record of a node that has no stage yet: for its join request.
  static membership::Record first_record(const Self& self, const net::Transport& transport);
  struct Environment {
    Random random;
    net::Transport& transport;
    Compute* compute = nullptr;          // null: an observer
    Credentials& credentials;
    Listener& listener;
  };

  struct ComputeDone {
    Completion completion;
  };
  struct LeaveWished {};                 // Ctrl-C on this worker: say it, then exit
  struct FinishWished {                  // Ctrl-C on the launcher: the owner's signed statement
    Bytes statement;
  };
  // Deadlines are looked at here alone, once all that came has been handed over: after a pause of this process the answers
  // that wait for it are read before anybody is called late.
  struct Tick {};
  using Event = std::variant<net::TransportEvent, ComputeDone, LeaveWished, FinishWished, Tick>;

  // `made` is called before the first callback of the listener, so that it may ask the worker.
  using Made = std::function<void(Worker&)>;
  Worker(WorkerConfig config, Self self, Environment environment, TimePoint now, const Made& made = {});
  ~Worker();

  void on(Event event, TimePoint now);
  TimePoint next_deadline() const;

  // To every live observer: a line for the run's files, or this node's metrics as text.
  void tell_observers(const net::Report& report);
  void show_metrics(Buffer text);

  enum class Exit { finished, left, alone, elsewhere };
  struct ExitReason {
    Exit exit = Exit::finished;
    std::string why;
  };
  // Set once; the process then flushes its sockets and ends.
  const std::optional<ExitReason>& exit() const { return exit_; }

  const membership::Swarm& swarm() const { return view_.swarm(); }
  const pipeline::StageStep& clock() const { return *stage_step_; }
  const pipeline::Originator& originator() const { return originator_; }
  const WorkerCounters& counters() const { return counters_; }
  // What is missing before training starts, for a person; empty: nothing, or not ours to know.
  std::string waiting_for() const;
  Stage stage() const { return stage_; }
  bool active() const { return life_ == Life::active; }
  const membership::Record& record() const { return record_; }
  // Of up to `limit` active members other than this node: for another start of it.
  std::vector<Bytes> signed_members(std::size_t limit) const { return view_.signed_active(limit); }
  bool saw_finished() const { return run_end_.saw_finished(); }
  std::size_t outputs_kept() const { return outputs_.size(); }
  // Memory that is known to be ours and comes and goes: what is kept for microbatches, transfers, copies for others.
  std::uint64_t accounted_bytes() const;

 private:
  using View = membership::View;
  using Admission = membership::Admission;
  using Bulk = net::Bulk;
  using Exchange = outer::Exchange;
  using CatchUp = outer::CatchUp;
  using StageStep = pipeline::StageStep;
  using InFlight = pipeline::InFlight;
  using Originator = pipeline::Originator;
  using Placement = pipeline::Placement;
  using RunEnd = pipeline::RunEnd;
  using Key = InFlight::Key;
  using Header = net::MicrobatchHeader;
  using Direction = net::Direction;

  enum class Life { loading, active, ended };
  enum class CopyFor { joining, behind, takeover };

  using Action = std::variant<View::Action, Admission::Action, Bulk::Action, Exchange::Action, CatchUp::Action,
                              StageStep::Action, InFlight::Action, Originator::Action, Placement::Action, RunEnd::Action>;

  // ---- worker.cc
  template <typename Actions>
  void enqueue(Actions&& actions);
  void drain();
  void handle(const net::Received& event);
  void handle(const net::PeerConnected& event);
  void handle(const net::PeerRefused& event);
  void handle(const net::LobbyRequested& event);
  void handle(const net::LobbyAnswered&) {}  // late: we are in
  void control_frame(const net::Received& event);
  void bulk_frame(const net::Received& event);
  void message(const NodeId& from, net::Message message);
  void send(const NodeId& to, const net::Message& message);
  void refuse(const NodeId& from, const TransferId& transfer, net::RefuseCode code);
  TransferId offer_buffer(const NodeId& to, net::About about, Buffer buffer);
  void tick();
  std::int64_t resumed_tokens() const;
  void woke_late(Duration gap);
  bool is_originator() const { return stage_ == 0; }
  bool is_worker() const { return self_.role == membership::Role::worker; }
  bool active_worker() const { return is_worker() && life_ == Life::active; }

  // What a job on the device was for.
  struct MicrobatchJob {
    Header header;
    pipeline::Work work;
    std::uint64_t visit = 0;
  };
  struct StepJob {
    StepReport report;
  };
  struct SnapshotJob {
    Round round;
  };
  struct OuterJob {
    Round round;
  };
  struct BackupJob {
    net::BackupPart part;
    std::vector<NodeId> holders;
  };
  struct CheckpointJob {
    NodeId to;
    net::CheckpointPart part;
  };
  struct ServeJob {
    NodeId to;
    net::StatePart part;
  };
  enum class WeightsFrom { seed, donor, neighbours, checkpoint };
  struct LoadJob {
    Stage stage;
    WeightsFrom from;
    std::int64_t adam_steps = 0;         // of a checkpoint
  };
  struct ReloadJob {
    Step step;  // the last of those that were not finite
  };
  struct Unanswered {};                  // its answer says nothing that is not known
  using JobFor = std::variant<MicrobatchJob, StepJob, SnapshotJob, OuterJob, BackupJob, CheckpointJob, ServeJob, LoadJob, ReloadJob, Unanswered>;
  void submit(Job job, JobFor what);
  void pump();
  void done(Completion completion);
  void finished(const MicrobatchJob& job, const Completion& completion);
  void finished(const StepJob& job, const Completion& completion);
  void finished(const SnapshotJob& job, const Completion& completion);
  void finished(const OuterJob& job, const Completion& completion);
  void finished(const BackupJob& job, const Completion& completion);
  void finished(const CheckpointJob& job, const Completion& completion);
  void send_checkpoint(Round round, bool run_ends);
  NodeId collector_of_checkpoints() const;
  void leave_when_delivered();
  void finished(const ServeJob& job, const Completion& completion);
  void finished(const LoadJob& job, const Completion& completion);
  void finished(const ReloadJob& job, const Completion& completion);
  void finished(const Unanswered& job, const Completion& completion);
  void step_diverged(Step step);

  // ---- deciders, fed and drained
  void feed(View::Event event);
  void feed(Admission::Event event);
  void feed(Bulk::Event event);
  void feed(Exchange::Event event);
  void feed(CatchUp::Event event);
  void feed(StageStep::Event event);
  void feed(InFlight::Event event);
  void feed(Originator::Event event);
  void feed_placement(Placement::Event event);
  void feed(RunEnd::Event event);
  Originator::Clock originator_clock() const;

  // ---- actions carried out: worker_membership.cc
  void carry_out(const View::Send& action);
  void carry_out(const View::PeerChanged& action);
  void carry_out(const View::PeerForgotten& action);
  void carry_out(const View::DoneRose& action);
  void carry_out(const View::SelfIsElsewhere& action);
  void carry_out(const View::WokeLate& action);
  void carry_out(const View::RoundTrip& action);
  void carry_out(const Admission::Issue& action);
  void carry_out(const Admission::Introduce& action);
  void carry_out(const Admission::Answer& action);
  void carry_out(const Admission::Refuse& action);
  void carry_out(const RunEnd::RunLastEval& action);
  void carry_out(const RunEnd::PublishFinished& action);
  void carry_out(const RunEnd::PublishLastStep& action);
  void carry_out(const RunEnd::LastStepIs& action);
  void carry_out(const RunEnd::TryPeers& action);
  void carry_out(const RunEnd::Exit& action);
  void welcomed(const Credentials::Welcome& welcome);
  void introduced(const NodeId& from, const net::Introduce& message);
  void finish_wished(ByteView statement);
  void publish(View::SelfChanged::Kind kind);
  void refresh_record();
  void swarm_changed();
  void start_when_complete();
  void peer_gone(const NodeId& peer);
  void leave(Exit exit, std::string why);

  // ---- worker_pipeline.cc
  void carry_out(const Bulk::SendControl& action);
  void carry_out(const Bulk::SendChunk& action);
  const Bulk::SendChunk* next_chunk_of(const net::Offer& offer) const;
  void send_bulk(const NodeId& to, Bytes frame, std::uint64_t payload_bytes);
  void carry_out(const Bulk::OfferAnnounced& action);
  void carry_out(const Bulk::Delivered& action);
  void carry_out(const Bulk::ReceiveFailed& action);
  void carry_out(const Bulk::SendEnded& action);
  void carry_out(const StageStep::Take& action);
  void carry_out(const StageStep::Refuse& action);
  void carry_out(const StageStep::Acknowledge& action);
  void carry_out(const StageStep::Run& action);
  void carry_out(const StageStep::Drop& action);
  void carry_out(const InFlight::Reroute& action);
  void carry_out(const InFlight::TellPassed& action);
  void carry_out(const InFlight::Settled& action);
  void carry_out(const InFlight::SendAsk& action);
  void carry_out(const InFlight::FreeGraph& action);
  void carry_out(const InFlight::TimedOut& action);
  void carry_out(const InFlight::Answered& action);
  void carry_out(const Originator::Start& action);
  void carry_out(const Originator::GiveUp& action);
  void carry_out(const Originator::ShareStarted& action);
  bool well_formed(const NodeId& from, const net::Offer& offer, const Header& header) const;
  // `tried`: who has failed to take it already.
  void route_forward(Header header, Buffer output, const std::set<NodeId>& tried);
  void route_backward(Header header, Buffer gradient, const std::set<NodeId>& tried);
  void send_microbatch(const NodeId& to, Header header, Buffer buffer);
  void plan_path(Header& header);
  bool may_originate(const NodeId& peer) const;
  void skipped(Stage stage, const MicrobatchId& id);
  void drop_output(const Key& key);
  void answer(const NodeId& from, const net::Ask& ask);
  void abandoned(const NodeId& from, const net::Abandon& abandon);
  void abandon(const MicrobatchId& id, const std::vector<net::Hop>& hops, const std::vector<net::Hop>& except);
  void free_microbatch(const MicrobatchId& id);
  void completed(const Header& header);
  Duration age_of(const Header& header) const;

  // ---- worker_round.cc
  void carry_out(const StageStep::CloseStep& action);
  void carry_out(const StageStep::AnnounceDone& action);
  void carry_out(const StageStep::EndRound& action);
  void carry_out(const StageStep::StepBegan& action);
  void carry_out(const StageStep::TrainingEnded& action);
  void carry_out(const Exchange::Send& action);
  void carry_out(const Exchange::MakeSnapshot& action);
  void carry_out(const Exchange::OfferPart& action);
  void carry_out(const Exchange::TakeOffer& action);
  void carry_out(const Exchange::RefuseOffer& action);
  void carry_out(const Exchange::Average& action);
  void carry_out(const Exchange::Solo& action);
  void carry_out(const Exchange::RoundFinished& action);
  void carry_out(const Exchange::BehindBy& action);
  void carry_out(const Exchange::OneSided& action);
  void keep_backup(const net::BackupPart& part, Buffer buffer);
  enum class WhichEval { during, last };
  void begin_eval(Step step, WhichEval which);
  void eval_came_home(const Header& header, const LossMade& loss);
  void start_eval_windows();
  void end_eval();
  Encoding exchange_encoding() const;
  std::uint64_t exchange_bytes() const;

  // ---- worker_state.cc
  void serve(const NodeId& to, const net::StateRequest& request);
  void encode_for(const ServeJob& job);
  void serve_those_who_waited();
  void carry_out(const StageStep::FarBehind& action);
  void carry_out(const CatchUp::Send& action);
  void carry_out(const CatchUp::TakeOffer& action);
  void carry_out(const CatchUp::RefuseOffer& action);
  void carry_out(const CatchUp::Load& action);
  void carry_out(const CatchUp::Finished& action);
  void carry_out(const CatchUp::Exhausted& action);
  void carry_out(const Placement::Claim& action);
  void carry_out(const Placement::Load& action);
  void carry_out(const Placement::CancelLoad& action);
  void begin_loading();
  void copy(CopyFor purpose, Stage stage, CatchUp::From from);
  void draw_weights(Stage stage);
  void restore_without_copy(Stage stage);
  void load_neighbours(Stage asked);
  void took_over_or_joined(Stage stage, WeightsFrom from, Step donor_step, Duration tau, std::int64_t adam_steps);
  void become_active(Stage stage, Step step, Duration tau, std::int64_t adam_steps);
  void drop_everything();
  std::uint64_t state_part_bytes(const net::StatePart& part) const;
  std::int64_t kept_bytes(Stage stage) const;

  WorkerConfig config_;
  Self self_;
  Environment env_;
  TimePoint now_;
  WorkerCounters counters_;

  View view_;
  Admission admission_;
  Bulk bulk_;
  Exchange exchange_;
  CatchUp catch_up_;
  std::unique_ptr<StageStep> stage_step_;
  InFlight in_flight_;
  Originator originator_;
  pipeline::Router router_;
  Placement placement_;
  RunEnd run_end_;
  std::deque<Action> queue_;

  Life life_ = Life::loading;
  std::optional<ExitReason> exit_;
  Stage stage_ = no_stage;
  Slot slot_ = no_slot;
  membership::Record record_;
  bool training_started_ = false;        // originator: everything that a start needs was there for an interval, once
  TimePoint start_at_ = never;
  bool last_round_ = false;              // the round that is being ended is the run's last
  TimePoint leave_at_ = never;           // the run is finished; what a checkpoint still lacks is waited for until then

  // parts of checkpoints that wait for the device, and those on their way
  int checkpoint_jobs_ = 0;
  std::set<TransferId> checkpoint_out_;
  TimePoint report_at_{};

  // letting others in
  std::map<std::uint64_t, Credentials::Knock> knocks_;
  bool finish_passed_on_ = false;

  // the device
  JobId next_job_ = 0;
  std::map<JobId, JobFor> jobs_;
  int on_device_ = 0;                    // microbatch jobs submitted and not answered

  // microbatches: bytes that wait for the device, outputs that wait to be passed on, who gave us what
  std::map<MicrobatchId, Buffer> inputs_;
  struct Output {
    Header header;                       // as it was sent
    Buffer buffer;
  };
  std::map<Key, Output> outputs_;
  std::map<Key, NodeId> upstream_;
  std::map<MicrobatchId, TimePoint> began_;   // now - age at arrival
  std::map<MicrobatchId, std::uint64_t> bypassed_;           // own: hops around which the gradient went from here
  std::map<TransferId, net::Offer> offers_;   // offered, not yet taken or refused
  std::optional<TransferId> first_chunk_sent_;  // with its Offer; the action that sends it comes next

  // the step
  double loss_sum_ = 0.0;
  std::int64_t loss_tokens_ = 0;
  std::int64_t adam_steps_ = 0;
  double gradient_norm_ = 0.0;           // of the last step, before clipping
  bool diverged_in_step_ = false;        // a microbatch of the open step did here
  bool added_in_step_ = false;           // a gradient was added
  int diverged_steps_ = 0;               // in a row
  TimePoint round_ended_at_{};
  std::optional<double> divergence_;     // of the exchange that is ending

  // copies
  CopyFor copy_for_ = CopyFor::joining;
  std::optional<Stage> copying_stage_;
  TimePoint copy_again_at_ = never;      // nobody could give it yet
  struct Neighbour {
    EncodedPart phi;
    double gradient_norm = 0.0;
  };
  struct Neighbours {
    std::optional<Neighbour> left, right;
  };
  std::optional<Neighbours> neighbours_;  // of copying_stage_, while they are asked for in its stead
  std::map<Stage, std::deque<std::pair<net::BackupPart, Buffer>>> backups_;  // newest two each
  int serving_ = 0;                      // state parts being encoded for others, those of serve_later_ among them
  std::vector<ServeJob> serve_later_;    // asked for during an exchange: of the weights that it leaves

  // evaluation
  struct Eval {
    Step step = 0;
    std::int64_t next_window = 0;
    std::set<std::uint32_t> out;         // windows under way
    double loss_sum = 0.0;
    std::int64_t tokens = 0;
    std::int64_t windows = 0;
    TimePoint until{};
    bool last = false;
  };
  std::optional<Eval> eval_;
};

}  // namespace starling::trainer
