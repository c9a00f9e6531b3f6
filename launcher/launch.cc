#include "launcher/launch.h"

#include <fmt/format.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "gossip/base/log.h"
#include "gossip/base/real_env.h"
#include "launcher/chaos.h"
#include "launcher/config_yaml.h"
#include "launcher/node.h"
#include "launcher/run_directory.h"
#include "launcher/supervisor.h"

namespace starling::launcher {
namespace {

constexpr std::int64_t token_seconds = 7LL * 24 * 3600;
constexpr std::int64_t delegate_seconds = 90LL * 24 * 3600;
constexpr Duration status_interval = std::chrono::seconds(5);
constexpr Duration wait_for_workers = std::chrono::seconds(20);
constexpr Duration say_waiting_interval = std::chrono::seconds(5);

ExitCode complain(const Options& options, const Error& error) {
  options.err() << "starling launch: " << error.message << "\n";
  return exit_code_of(error.code);
}

// Data paths that hold on this machine wherever a worker is started.
void make_absolute(std::vector<std::string>& paths) {
  for (std::string& path : paths) path = std::filesystem::absolute(path).lexically_normal().string();
}

// Everything that a new run needs before anybody joins it.
struct Founded {
  net::NodeKey owner;
  net::NodeKey observer;
  Bytes observer_chain;
  RunId run;
  net::CurveKeyPair lobby_key;
  std::string spec;
};

Result<Founded> found(const RunDirectory& directory, const RunConfig& config, double unix_seconds) {
  net::NodeKey owner = net::NodeKey::generate();
  net::NodeKey observer = net::NodeKey::generate();
  const RunId run = net::make_run_id(owner.id(), net::random_bytes_256());
  net::CertificateFields fields;
  fields.subject = observer.id();
  fields.name = "observer";
  fields.role = net::Role::observer;
  fields.delegation = net::Delegation::may_admit;
  fields.serial = 1;
  fields.expiry = static_cast<std::int64_t>(unix_seconds) + delegate_seconds;
  Bytes chain = net::issue_certificate(owner, run, fields);
  RealStorage secrets(directory.observer());
  if (auto kept = net::save_key(secrets, "owner.key", owner); !kept) return tl::unexpected(kept.error());
  if (auto kept = net::create_identity(secrets, observer, chain); !kept) return tl::unexpected(kept.error());
  const std::string file = resolved_file(config);
  if (auto kept = replace_file(directory.run_yaml(), as_bytes(file)); !kept) return tl::unexpected(kept.error());
  return Founded{std::move(owner), std::move(observer), std::move(chain), run, net::CurveKeyPair::generate(), run_spec(config)};
}

// A local worker's identity, made by the owner: it may admit newcomers, so that the run does not need the observer.
Status make_identity(const RunDirectory& directory, const Founded& run, const std::string& name, double unix_seconds) {
  RealStorage folder(directory.worker(name));
  const net::NodeKey key = net::NodeKey::generate();
  net::CertificateFields fields;
  fields.subject = key.id();
  fields.name = name;
  fields.role = net::Role::worker;
  fields.delegation = net::Delegation::may_admit;
  fields.serial = 1;
  fields.expiry = static_cast<std::int64_t>(unix_seconds) + delegate_seconds;
  return net::create_identity(folder, key, net::issue_certificate(run.owner, run.run, fields));
}

Status prepare_directory(const RunDirectory& directory, const Options& options) {
  std::error_code failure;
  if (std::filesystem::exists(directory.path, failure)) {
    if (!options.has("fresh")) {
      return fail(ErrorCode::failed, fmt::format("'{}' holds a run already; give --fresh to move it aside and start a new "
                                                 "one, or set run.name to another name",
                                                 directory.path.string()));
    }
    for (int number = 1;; ++number) {
      const std::filesystem::path aside = directory.path.string() + fmt::format(".old-{}", number);
      if (std::filesystem::exists(aside, failure)) continue;
      std::filesystem::rename(directory.path, aside, failure);
      if (failure) return fail(ErrorCode::io, "cannot move '" + directory.path.string() + "' aside: " + failure.message());
      options.err() << "the old run is now in " << aside.string() << "\n";
      break;
    }
  }
  std::filesystem::create_directories(directory.path, failure);
  if (failure) return fail(ErrorCode::io, "cannot create '" + directory.path.string() + "': " + failure.message());
  return {};
}

// The lobby of this observer as others dial it.
std::string reachable(const std::string& endpoint, const std::string& advertise, bool local_only) {
  const std::size_t colon = endpoint.rfind(':');
  const std::string port = endpoint.substr(colon);
  if (advertise != "auto") return "tcp://" + advertise + port;
  if (!endpoint.starts_with("tcp://0.0.0.0:")) return endpoint;
  if (local_only) return "tcp://127.0.0.1" + port;
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return "tcp://" + std::string(name) + port;
}

class Launch {
 public:
  Launch(const Options& options, RunConfig config, RunDirectory directory, std::vector<Chaos> chaos, std::int64_t workers)
      : options_(options),
        config_(std::move(config)),
        directory_(std::move(directory)),
        chaos_(std::move(chaos)),
        workers_(workers) {}

  Result<ExitCode> run();

 private:
  Status start_workers(const Founded& run);
  void note_ended();
  void unleash(Node& node);
  void write_status(const NodeReport& report);
  void say_waiting(Node& node, TimePoint now);

  const Options& options_;
  RunConfig config_;
  RunDirectory directory_;
  std::vector<Chaos> chaos_;
  std::int64_t workers_;
  RealClock clock_;
  Signals signals_;
  Supervisor supervisor_;
  std::set<std::string> stopped_;
  std::map<std::string, Stage> stages_;     // of local workers, as last seen
  std::optional<metrics::JsonEventLog> events_;
  TimePoint waiting_said_{};
};

Status Launch::start_workers(const Founded& run) {
  for (std::int64_t i = 0; i < workers_; ++i) {
    const std::string name = fmt::format("w{:02}", i);
    if (auto made = make_identity(directory_, run, name, clock_.unix_seconds()); !made) return made;
    const std::filesystem::path folder = directory_.worker(name);
    const std::vector<std::string> arguments{"join",      directory_.token().string(),
                                             "--name",    name,
                                             "--dir",     folder.string(),
                                             "--run-dir", directory_.path.string(),
                                             "--data",    "/",
                                             "--listen",  "tcp://127.0.0.1:0",
                                             "--http",    "127.0.0.1:0",
                                             "--log-file", "--local-workers",
                                             std::to_string(workers_)};
    if (auto started = supervisor_.start(name, arguments, folder / "output.txt"); !started) return started;
  }
  return {};
}

void Launch::note_ended() {
  for (const auto& [name, code] : supervisor_.reap()) {
    if (code == 0) continue;
    options_.err() << "worker " << name << (code > 0 ? fmt::format(" ended with exit code {}", code)
                                                     : fmt::format(" was ended by signal {}", -code))
                   << "; see " << (directory_.worker(name) / "log.txt").string() << "\n";
  }
}

void Launch::unleash(Node& node) {
  auto& worker = node.worker();
  for (const auto& [id, peer] : worker.swarm().peers) stages_[peer.record.name] = peer.record.stage;
  const Step done = worker.swarm().largest_done();
  for (auto it = chaos_.begin(); it != chaos_.end();) {
    if (done < it->step) {
      ++it;
      continue;
    }
    std::vector<std::string> names;
    for (const std::string& name : supervisor_.running()) {
      if (!stopped_.contains(name) && (it->stage == no_stage || stages_[name] == it->stage)) names.push_back(name);
    }
    for (const std::string& name : chaos_victims(*it, config_.run.seed, names)) {
      const bool kill = it->kind == Chaos::Kind::kill;
      if (!supervisor_.send_signal(name, kill ? SIGKILL : SIGSTOP)) continue;
      if (!kill) stopped_.insert(name);
      options_.err() << "chaos at step " << done << ": " << (kill ? "kill " : "stop ") << name << " (stage " << stages_[name]
                     << ")\n";
      events_->write("chaos", {{"worker", name},
                               {"action", std::string(kill ? "kill" : "stop")},
                               {"stage", static_cast<std::int64_t>(stages_[name])},
                               {"step", static_cast<std::int64_t>(done)}});
    }
    it = chaos_.erase(it);
  }
}

void Launch::write_status(const NodeReport& report) {
  const std::string json = metrics::to_json(report.status()) + "\n";
  if (auto written = replace_file(directory_.status_json(), as_bytes(json), FileMode::secret); !written) {
    log_warning("{}", written.error().message);
  }
}

void Launch::say_waiting(Node& node, TimePoint now) {
  auto& worker = node.worker();
  if (worker.swarm().largest_done() > 0 || now < waiting_said_ + say_waiting_interval) return;
  waiting_said_ = now;
  const std::string missing = pipeline::missing_to_start(worker.swarm(), config_.parallelism.stages, config_.start_workers());
  if (!missing.empty()) options_.err() << "waiting for " << missing << "\n";
}

Result<ExitCode> Launch::run() {
  make_absolute(config_.data.train);
  make_absolute(config_.data.val);
  auto founded = found(directory_, config_, clock_.unix_seconds());
  if (!founded) return tl::unexpected(founded.error());
  RealStorage storage(directory_.observer());
  auto identity = net::Identity::open(storage);
  if (!identity) return tl::unexpected(identity.error());

  net::ZmqTransport::Config network;
  network.network = config_.network;
  const trainer::Worker* worker = nullptr;  // once it is made; it ends before the transport
  network.lobby.accounted_bytes = [&worker] { return worker == nullptr ? 0 : worker->accounted_bytes(); };
  auto transport = net::ZmqTransport::open(std::move(network), identity->key(), founded->lobby_key, clock_);
  if (!transport) return tl::unexpected(transport.error());
  auto http = metrics::HttpServer::start(
      {.listen = config_.http.listen,
       .port_choice = config_.http.listen_is_default ? metrics::PortChoice::or_another : metrics::PortChoice::fixed},
      clock_);
  if (!http) return tl::unexpected(http.error());

  net::TokenFields fields;
  fields.run = founded->run;
  fields.role = net::Role::worker;
  fields.expiry = static_cast<std::int64_t>(clock_.unix_seconds()) + token_seconds;
  fields.spec_hash = blake2b_256(as_bytes(founded->spec));
  const std::string& bound = (*transport)->bound().lobby;
  fields.seeds.push_back({reachable(bound, config_.network.advertise, true), identity->id()});
  const std::string outside = reachable(bound, config_.network.advertise, false);
  if (outside != fields.seeds.front().lobby) fields.seeds.push_back({outside, identity->id()});
  const std::string token = net::create_token(founded->owner, founded->lobby_key, fields);
  if (auto kept = replace_file(directory_.token(), as_bytes(token + "\n"), FileMode::secret); !kept) {
    return tl::unexpected(kept.error());
  }
  if (auto kept = write_launch_file(directory_, {::getpid(), (*http)->url(), founded->run.brief()}); !kept) {
    return tl::unexpected(kept.error());
  }
  auto parsed = net::parse_token(token, clock_.unix_seconds());
  if (!parsed) return tl::unexpected(parsed.error());

  auto metrics_file = metrics::LineFile::open(directory_.metrics_jsonl());
  if (!metrics_file) return tl::unexpected(metrics_file.error());
  auto events_file = metrics::LineFile::open(directory_.events_jsonl());
  if (!events_file) return tl::unexpected(events_file.error());
  auto chaos_file = metrics::LineFile::open(directory_.events_jsonl());
  if (!chaos_file) return tl::unexpected(chaos_file.error());
  events_.emplace(std::move(*chaos_file), clock_, "observer");

  NodeReport::Config reporting;
  reporting.run_name = config_.run.name;
  reporting.run_id = founded->run.brief();
  reporting.name = "observer";
  reporting.host = host_number();
  reporting.log_interval = config_.logging.log_interval;
  reporting.stages = config_.parallelism.stages;
  reporting.workers_wanted = config_.parallelism.stages * config_.parallelism.replicas;
  reporting.tokens_per_microbatch = config_.training.tokens_per_microbatch();
  reporting.model = config_.model.model_type;
  reporting.algorithm = outer::to_string(config_.outer.algorithm);
  reporting.join_token = token;
  reporting.jsonl = config_.logging.jsonl;
  reporting.voice = NodeReport::Config::Voice::step_lines;
  NodeReport report(std::move(reporting), clock_, std::move(*metrics_file), std::move(*events_file));

  NodeCredentials credentials(identity->key(), std::move(*parsed), founded->observer_chain, founded->spec, clock_);
  trainer::Worker::Self self{.id = identity->id(),
                             .boot = identity->boot(),
                             .name = "observer",
                             .role = membership::Role::observer,
                             .has_data = false,
                             .host = host_number(),
                             .pid = ::getpid(),
                             .http = (*http)->address()};
  self.admission = founded->observer_chain;
  Node node({config_, clock_, **transport, credentials, report, http->get(), nullptr, {}}, std::move(self),
            worker_config(config_, 1));

  worker = &node.worker();
  options_.out() << "run " << config_.run.name << " in " << directory_.path.string() << "\n"
                 << "status " << (*http)->url() << "\n"
                 << "join with: starling join " << token << "\n"
                 << "(whoever has this line can join until it expires in 7 days; it is also in "
                 << directory_.token().string() << ")\n"
                 << std::flush;
  if (auto started = start_workers(*founded); !started) return tl::unexpected(started.error());

  TimePoint status_at = clock_.now();
  int interrupts = 0;
  while (node.turn(std::chrono::milliseconds(200))) {
    const TimePoint now = clock_.now();
    note_ended();
    unleash(node);
    say_waiting(node, now);
    if (now >= status_at) {
      status_at = now + status_interval;
      write_status(report);
    }
    if (signals_.interrupts() == interrupts) continue;
    interrupts = signals_.interrupts();
    if (interrupts > 1) {
      options_.err() << "starling launch: interrupted twice; the workers go on\n";
      return ExitCode::interrupted;
    }
    options_.err() << "ending the run politely; Ctrl-C again to leave at once\n";
    node.tell(trainer::Worker::FinishWished{net::sign_finish(founded->owner, founded->run, net::LastStep::soon)});
  }
  node.flush();
  write_status(report);
  const TimePoint until = clock_.now() + wait_for_workers;
  while (supervisor_.running().size() > stopped_.size() && clock_.now() < until) {
    note_ended();
    (*transport)->poll(std::chrono::milliseconds(100));
  }
  note_ended();
  for (const std::string& name : supervisor_.running()) options_.err() << "ending " << name << ", which does not end by itself\n";
  supervisor_.kill_rest();
  const bool finished = node.worker().exit()->exit == trainer::Worker::Exit::finished;
  options_.err() << node.worker().exit()->why << "\n";
  return finished ? ExitCode::ok : ExitCode::unreachable;
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
  const RunDirectory directory{std::filesystem::absolute(std::filesystem::path(reading.config.run.output_dir) /
                                                         reading.config.run.name)};
  if (auto prepared = prepare_directory(directory, options); !prepared) return complain(options, prepared.error());
  if (auto opened = open_log({.file = directory.path / "launch.log"}); !opened) return complain(options, opened.error());
  Launch launch(options, std::move(reading.config), directory, std::move(chaos), workers);
  auto code = launch.run();
  return code ? *code : complain(options, code.error());
}

}  // namespace

Command launch_command() {
  using Kind = Flag::Kind;
  return {"launch",
          "start a run: an observer here and local workers as processes of their own",
          "Prints the line with which others join and the address of the status, then a line per logged step.\n"
          "Ends when the run ends. Ctrl-C ends the run politely; twice leaves the workers running. Local workers outlive\n"
          "a killed launcher.",
          {{"RUN.YAML", Argument::Presence::required, "the run file"}},
          {set_flag(),
           {"local-workers", Kind::integer, "N", "start N workers on this machine"},
           {"chaos", Kind::text, "WHAT", "'kill 50% at step 100', 'stop 50% at step 100', 'kill stage 2 at step 100'"},
           {"fresh", Kind::toggle, "", "a new run where the directory of an old one stands; the old one is moved aside"}},
          run_launch};
}

}  // namespace starling::launcher
