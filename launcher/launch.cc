#include "launcher/launch.h"

#include <fmt/format.h>
#include <unistd.h>

#include "gossip/base/log.h"
#include "gossip/base/real_env.h"
#include "gossip/net/address.h"
#include "launcher/chaos.h"
#include "launcher/claim.h"
#include "launcher/config_yaml.h"
#include "launcher/node.h"
#include "launcher/run_directory.h"
#include "launcher/run_keys.h"
#include "launcher/supervisor.h"

namespace starling::launcher {
namespace {

constexpr Duration status_interval = std::chrono::seconds(5);
constexpr Duration wait_for_workers = std::chrono::seconds(20);
constexpr Duration wait_for_members = std::chrono::seconds(20);
constexpr Duration wait_before_resume = std::chrono::seconds(8);  // for somebody who lives, when there is a checkpoint
constexpr Duration say_waiting_interval = std::chrono::seconds(5);
constexpr std::size_t most_members_kept = 256;

ExitCode complain(const Options& options, const Error& error) {
  options.err() << "starling launch: " << error.message << "\n";
  return exit_code_of(error.code);
}

// Paths that hold on this machine wherever a worker is started.
void make_absolute(std::string& path) { path = std::filesystem::absolute(path).lexically_normal().string(); }
void make_absolute(std::vector<std::string>& paths) {
  for (std::string& path : paths) make_absolute(path);
}

class Launch {
 public:
  // `kept`: the run whose observer's place is taken; none: a new one. `resume`: its newest checkpoint.
  Launch(const Options& options, RunDirectory directory, RunConfig config, RunKeys keys, std::optional<KeptToken> kept,
         std::optional<ResumePoint> resume, std::vector<Chaos> chaos, std::int64_t workers)
      : options_(options),
        directory_(std::move(directory)),
        config_(std::move(config)),
        keys_(std::move(keys)),
        kept_(std::move(kept)),
        resume_(std::move(resume)),
        chaos_(std::move(chaos), config_.run.seed),
        workers_(workers) {}

  Result<ExitCode> run();

 private:
  Status open_doors();
  Result<std::string> token();
  Result<std::unique_ptr<NodeReport>> open_report(const std::string& token);
  Result<ExitCode> watch(Node& node, const NodeReport& report, bool heard);
  bool somebody_answers(Node& node);
  Status start_workers();
  Status resume();
  void adopt_workers();
  void note_ended();
  bool cannot_begin() const;
  void keep_up_files(Node& node, const NodeReport& report);
  void say_waiting(Node& node, TimePoint now);
  void end_workers();

  const Options& options_;
  RunDirectory directory_;
  RunConfig config_;
  RunKeys keys_;
  std::optional<KeptToken> kept_;  // of a run whose observer's place we take
  std::optional<ResumePoint> resume_;  // of that run: where it goes on if nobody is left of it
  ChaosCrew chaos_;
  std::int64_t workers_;
  RealClock clock_;
  Signals signals_;
  Supervisor supervisor_;
  std::optional<net::Identity> identity_;
  std::unique_ptr<net::ZmqTransport> transport_;
  std::unique_ptr<metrics::HttpServer> http_;
  const trainer::Worker* worker_ = nullptr;  // once it is made; it ends before the transport
  std::optional<metrics::JsonEventLog> events_;
  TimePoint waiting_said_{};
  TimePoint files_at_{};
  std::size_t members_seen_ = 0;            // alive when the files were written last
  std::string last_failure_;                // of a local worker
  std::string files_fail_;                  // what was said about it; empty: they can be written
};

Status Launch::start_workers() {
  for (std::int64_t i = 0; i < workers_; ++i) {
    const std::string name = fmt::format("w{:02}", i);
    const std::filesystem::path folder = directory_.worker(name);
    // One that was here before goes on under its name.
    if (!resume_ || !std::filesystem::exists(folder / "identity.key")) {
      if (auto made = make_worker_identity(directory_, keys_, name, clock_.unix_seconds()); !made) return made;
    }
    std::vector<std::string> arguments{"join",      directory_.token().string(),
                                             "--name",    name,
                                             "--dir",     folder.string(),
                                             "--run-dir", directory_.path.string(),
                                             "--data",    "/",
                                             "--listen",  "tcp://127.0.0.1:0",
                                             "--http",    "127.0.0.1:0",
                                             "--log-file", "--local-workers",
                                             std::to_string(workers_),
                                             "--device",  options_.text("device").value_or("auto")};
    if (resume_) arguments.insert(arguments.end(), {"--resume", resume_->path.string()});
    if (auto started = supervisor_.start(name, arguments, folder); !started) return started;
  }
  return {};
}

// Nobody is left of the run: it goes on from its newest checkpoint.
Status Launch::resume() {
  options_.err() << "nobody is left of this run; going on after step " << resume_->step << ", from "
                 << resume_->path.string() << "\n";
  for (const std::string& why : resume_->passed_over) events_->write("checkpoint_damaged", {{"why", why}});
  events_->write("resume", {{"step", static_cast<std::int64_t>(resume_->step)}, {"path", resume_->path.string()}});
  return start_workers();
}

// Those that the launcher before us started and that live: not our children, but as much ours as if they were.
void Launch::adopt_workers() {
  std::string names;
  for (const auto& [name, pid] : living_workers(directory_.path)) {
    if (auto adopted = supervisor_.adopt(name, directory_.worker(name)); !adopted) continue;  // has ended since
    names += (names.empty() ? "" : ", ") + name;
  }
  const auto count = static_cast<std::int64_t>(supervisor_.running().size());
  options_.err() << "this run has lost its launcher; taking the place (local workers that live: "
                 << (count > 0 ? names : "none") << ")\n";
  if (count < workers_) {
    options_.err() << "of " << workers_ << " local workers " << workers_ - count
                   << " do not live any more and are not started again; more can join by the token\n";
  }
}

void Launch::note_ended() {
  for (const auto& ended : supervisor_.reap()) {
    if (ended.well) continue;
    last_failure_ = ended.name + " " + ended.how;
    options_.err() << "worker " << last_failure_ << "; see " << (directory_.worker(ended.name) / "log.txt").string() << "\n";
  }
}

// Nothing has begun, every local worker has failed, and nobody else is there.
bool Launch::cannot_begin() const {
  const auto& swarm = worker_->swarm();
  return workers_ > 0 && !last_failure_.empty() && supervisor_.running().empty() && swarm.largest_done() == 0 &&
         swarm.live_workers().empty();
}

// For `starling status` when nobody answers, and for a launcher that takes our place.
void Launch::keep_up_files(Node& node, const NodeReport& report) {
  const std::string json = metrics::to_json(report.status()) + "\n";
  auto written = replace_file(directory_.status_json(), as_bytes(json), FileMode::secret);
  const std::vector<Bytes> members = node.worker().signed_members(most_members_kept);
  members_seen_ = node.worker().swarm().live_workers().size();
  // Until somebody answers, what was kept is still the best there is.
  if (written && (!kept_ || node.has_heard())) written = write_members(directory_, members);
  if (!written && files_fail_ != written.error().message) {
    options_.err() << written.error().message << "\nthe run goes on; lines for its files are lost until that is put right\n";
  }
  files_fail_ = written ? "" : written.error().message;
}

void Launch::say_waiting(Node& node, TimePoint now) {
  auto& worker = node.worker();
  if (worker.swarm().largest_done() > 0 || signals_.interrupts() > 0) return;
  if (now < waiting_said_ + say_waiting_interval) return;
  waiting_said_ = now;
  const std::string missing =
      pipeline::missing_to_start(worker.swarm(), config_.parallelism.stages, config_.start_workers());
  if (!missing.empty()) options_.err() << "waiting for " << missing << "\n";
}

// The observer's identity and sockets. Whoever has an earlier token knocks where the lobby was, so it goes there again.
Status Launch::open_doors() {
  RealStorage storage(directory_.observer());
  auto identity = net::Identity::open(storage);
  if (!identity) return tl::unexpected(identity.error());
  identity_.emplace(std::move(*identity));
  net::ZmqTransport::Config network;
  network.network = config_.network;
  if (kept_) {
    if (const auto lobby = net::parse_endpoint(kept_->seeds.front().lobby)) network.lobby_port = lobby->port;
  }
  network.lobby.accounted_bytes = [this] { return worker_ == nullptr ? 0 : worker_->accounted_bytes(); };
  const net::CurveKeyPair& lobby_key = keys_.lobby_key;
  auto transport = net::ZmqTransport::open(std::move(network), identity_->key(), lobby_key, clock_);
  if (!transport) return tl::unexpected(transport.error());
  transport_ = std::move(*transport);
  const auto wished = net::parse_endpoint(config_.network.listen);
  const auto bound = net::parse_endpoint(transport_->bound().control);
  if (config_.network.listen_is_default && wished && bound && wished->port != bound->port) {
    options_.err() << "the default port is taken; listening on " << transport_->bound().control << "\n";
  }
  auto http = metrics::HttpServer::start(
      {.listen = config_.http.listen,
       .port_choice = config_.http.listen_is_default ? metrics::PortChoice::or_another : metrics::PortChoice::fixed},
      clock_);
  if (!http) return tl::unexpected(http.error());
  http_ = std::move(*http);
  return write_launch_file(directory_, {::getpid(), http_->url(), keys_.run.brief()});
}

// The line with which others join: the one that was given out before, as long as it leads here and holds.
Result<std::string> Launch::token() {
  const std::vector<net::Seed> seeds{{transport_->bound().lobby, identity_->id()}};
  const double now = clock_.unix_seconds();
  if (kept_) {
    const bool holds = static_cast<double>(kept_->expiry) > now;
    if (holds && kept_->seeds == seeds) return kept_->line;
    options_.err() << "the join line given out before "
                   << (holds ? "names an address that is taken now" : "has expired")
                   << "; give newcomers the new one\n";
  }
  return issue_token(directory_, keys_, seeds, now);
}

Result<std::unique_ptr<NodeReport>> Launch::open_report(const std::string& token) {
  auto own_events = metrics::LineFile::open(directory_.events_jsonl());
  if (!own_events) return tl::unexpected(own_events.error());
  events_.emplace(std::move(*own_events), clock_, "observer");
  NodeReport::Config config = report_config(config_, keys_.run, "observer");
  config.join_token = token;
  config.local_workers = directory_.path / "workers";
  config.voice = NodeReport::Config::Voice::step_lines;
  if (config_.logging.tensorboard) config.tensorboard = directory_.tensorboard();
  return launcher::open_report(std::move(config), directory_.path, clock_);
}

Result<ExitCode> Launch::run() {
  if (auto opened = open_doors(); !opened) return tl::unexpected(opened.error());
  const auto line = token();
  if (!line) return tl::unexpected(line.error());
  auto report = open_report(*line);
  if (!report) return tl::unexpected(report.error());
  auto parsed = net::parse_token(*line, clock_.unix_seconds());
  if (!parsed) return tl::unexpected(parsed.error());
  const Bytes certificate = certify_observer(keys_, identity_->id(), clock_.unix_seconds());
  NodeCredentials credentials(identity_->key(), std::move(*parsed), certificate, keys_.spec, clock_);
  trainer::Worker::Self self{.id = identity_->id(),
                             .boot = identity_->boot(),
                             .name = "observer",
                             .role = membership::Role::observer,
                             .has_data = false,
                             .host = host_number(),
                             .pid = ::getpid(),
                             .http = http_->address(),
                             .admission = certificate};
  if (kept_) self.known = read_members(directory_);
  (*report)->collect(collector_config(config_, keys_.run, directory_.path));
  std::optional<Node> node;
  const auto begin = [&] {
    const NodeParts parts{config_, clock_, *transport_, credentials, **report, http_.get(), nullptr, {}};
    worker_ = &node.emplace(parts, self, worker_config(config_, 1)).worker();
  };
  begin();
  options_.out() << "run " << config_.run.name << " in " << directory_.path.string() << "\n"
                 << "status " << http_->url() << "\n"
                 << "join with: starling join " << *line << "\n"
                 << "(whoever has this line can join until it expires, 7 days after it was made; it is also in "
                 << directory_.token().string() << ")\n"
                 << std::flush;
  bool heard = !kept_;
  if (resume_) {
    heard = !self.known.empty() && somebody_answers(*node);
    if (heard) {
      adopt_workers();
    } else {
      // What was known of the members is about the dead: nobody shall wait for them.
      worker_ = nullptr;
      node.reset();
      self.known.clear();
      begin();
      if (auto resumed = resume(); !resumed) return tl::unexpected(resumed.error());
      heard = true;
    }
  } else if (kept_) {
    adopt_workers();
  } else if (auto started = start_workers(); !started) {
    return tl::unexpected(started.error());
  }
  auto ended = watch(*node, **report, heard);
  if (!ended || *ended != ExitCode::ok) return ended;
  (*report)->finish_checkpoints();
  end_workers();
  options_.err() << node->worker().exit()->why << "\n";
  return node->worker().exit()->exit == trainer::Worker::Exit::finished ? ExitCode::ok : ExitCode::unreachable;
}

// Whether any member that was known is still there; waited for so long only where there is a checkpoint to go on from.
bool Launch::somebody_answers(Node& node) {
  const TimePoint until = clock_.now() + wait_before_resume;
  options_.err() << "asking whether anybody of this run is left\n";
  while (!node.has_heard() && clock_.now() < until && signals_.interrupts() == 0) node.turn(std::chrono::milliseconds(200));
  return node.has_heard();
}

// Until the run ends, or the user goes without waiting for that.
Result<ExitCode> Launch::watch(Node& node, const NodeReport& report, bool heard) {
  const TimePoint began = clock_.now();
  int interrupts = 0;
  while (node.turn(std::chrono::milliseconds(200))) {
    const TimePoint now = clock_.now();
    note_ended();
    if (cannot_begin()) {
      return fail(ErrorCode::failed,
                  fmt::format("all local workers have ended before the first step, the last of them {}; put right what "
                              "their logs in {} say and launch again{}",
                              last_failure_, (directory_.path / "workers").string(), resume_ ? "" : " with --fresh"));
    }
    chaos_.look(node.worker().swarm(), supervisor_, *events_, options_.err());
    say_waiting(node, now);
    if (now >= files_at_ || node.worker().swarm().live_workers().size() > members_seen_) {
      files_at_ = now + status_interval;
      keep_up_files(node, report);
    }
    if (!heard && node.has_heard()) {
      heard = true;
      options_.err() << "the run goes on, and has a launcher again\n";
      events_->write("launcher_returned", {});
    }
    if (!heard && now - began > wait_for_members) {
      return fail(
          ErrorCode::failed,
          fmt::format("nobody of the run in '{}' answers within {:.0f} s; give --fresh to move it aside and start a "
                      "new one, or set run.name to another name",
                      directory_.path.string(), seconds(wait_for_members)));
    }
    if (signals_.interrupts() == interrupts) continue;
    interrupts = signals_.interrupts();
    if (interrupts > 1) {
      options_.err() << "starling launch: interrupted twice; the workers end the run by themselves\n";
      return ExitCode::interrupted;
    }
    options_.err() << "ending the run politely; Ctrl-C again to leave at once\n";
    node.tell(trainer::Worker::FinishWished{net::sign_finish(keys_.owner, keys_.run, net::LastStep::soon)});
  }
  node.flush();
  keep_up_files(node, report);
  return ExitCode::ok;
}

// The run has ended: its workers end by themselves, but for those that were stopped.
void Launch::end_workers() {
  const TimePoint until = clock_.now() + wait_for_workers;
  while (supervisor_.running().size() > chaos_.stopped() && clock_.now() < until) {
    note_ended();
    transport_->poll(std::chrono::milliseconds(100));
  }
  note_ended();
  for (const std::string& name : supervisor_.running()) {
    options_.err() << "ending " << name << ", which does not end by itself\n";
  }
  supervisor_.kill_rest();
  // Nobody is left whose place could be taken.
  if (auto written = write_members(directory_, {}); !written) log_warning("{}", written.error().message);
}

ExitCode run_launch(const Options& options) {
  const std::string file = options.argument("RUN.YAML");
  DataSummary data;
  ConfigReading reading = load_config(file, options.overrides(), &data);
  options.err() << describe(reading.problems);
  if (!reading.ok()) return ExitCode::bad_config;
  const std::int64_t workers = options.integer("local-workers").value_or(0);
  if (workers < 0 || workers > 1000) {
    options.err() << "starling launch: --local-workers " << workers << ": expected 0 to 1000\n";
    return ExitCode::usage;
  }
  std::vector<Chaos> chaos;
  if (const auto text = options.text("chaos")) {
    auto parsed = parse_chaos(*text);
    if (!parsed) return complain(options, parsed.error());
    chaos = std::move(*parsed);
  }
  make_absolute(reading.config.data.train);
  make_absolute(reading.config.data.val);
  if (reading.config.data.tokenizer != "byte") make_absolute(reading.config.data.tokenizer);
  if (!reading.config.init_from.empty()) make_absolute(reading.config.init_from);
  const std::filesystem::path place = std::filesystem::path(reading.config.run.output_dir) / reading.config.run.name;
  const RunDirectory directory{std::filesystem::absolute(place).lexically_normal()};
  const auto old_one = options.has("fresh") ? OldRun::move_aside : OldRun::take_up;
  auto claim = claim_directory(directory, old_one, options.err());
  if (!claim) return complain(options, claim.error());
  if (auto opened = open_log({.file = directory.path / "launch.log"}); !opened)
    return complain(options, opened.error());
  RunConfig config = std::move(reading.config);
  std::optional<KeptToken> token;
  if (claim->kept) {
    config = config_of(*claim->kept, config, options.err());
    token = std::move(claim->kept->token);
  }
  std::optional<ResumePoint> resume;
  if (claim->kept && living_workers(directory.path).empty()) {
    auto found = resume_point(directory, config, options.err());
    // Without one the run can still go on where somebody elsewhere answers.
    if (!found && read_members(directory).empty()) return complain(options, found.error());
    if (found) {
      resume = std::move(*found);
    } else {
      options.err() << found.error().message << "\n";
    }
  }
  auto keys = claim->kept ? Result<RunKeys>(std::move(claim->kept->keys)) : found_run(directory, config);
  if (!keys) return complain(options, keys.error());
  Launch launch(options, directory, std::move(config), std::move(*keys), std::move(token), std::move(resume), std::move(chaos),
                workers);
  auto code = launch.run();
  return code ? *code : complain(options, code.error());
}

}  // namespace

Command launch_command() {
  using Kind = Flag::Kind;
  return {
      "launch",
      "start a run: an observer here and local workers as processes of their own",
      "Prints the line with which others join and the address of the status, then a line per logged step.\n"
      "Ends when the run ends. Ctrl-C ends the run politely; twice leaves that to the workers. Local workers outlive\n"
      "a killed launcher; another launch with the same run file then takes up its place.",
      {{"RUN.YAML", Argument::Presence::required, "the run file"}},
      {set_flag(),
       {"local-workers", Kind::integer, "N", "start N workers on this machine"},
       {"device", Kind::text, "cuda|cpu|auto", "what they compute on (default: auto, a GPU if there is one)"},
       {"chaos", Kind::text, "WHAT", "'kill 50% at step 100', 'stop 50% at step 100', 'kill stage 2 at step 100'"},
       {"fresh", Kind::toggle, "", "a new run where the directory of an old one stands; the old one is moved aside"}},
      run_launch};
}

}  // namespace starling::launcher
