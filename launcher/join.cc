#include "launcher/join.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "gossip/base/log.h"
#include "gossip/base/real_env.h"
#include "launcher/node.h"
#include "launcher/run_directory.h"
#include "metrics/process.h"
#include "trainer/checkpoint/checkpoint_directory.h"
#include "trainer/worker/joiner.h"
#include "trainer/worker/slow_weights.h"

namespace starling::launcher {
namespace {

constexpr std::uint64_t most_token_bytes = 64 << 10;
constexpr Duration say_knocking_interval = std::chrono::seconds(15);

ExitCode complain(const Options& options, const Error& error) {
  options.err() << "starling join: " << error.message << "\n";
  if (options.has("log-file")) log_error("{}", error.message);  // else the log is the same stderr
  return exit_code_of(error.code);
}

// What the sockets call a key of the run file is a flag here.
Error as_flag(Error error, std::string_view key, std::string_view flag) {
  if (error.message.starts_with(key)) error.message.replace(0, key.size(), flag);
  if (error.code == ErrorCode::bad_config) error.code = ErrorCode::usage;
  return error;
}

// A token that was given as itself, or the file that holds it. Whatever is wrong with it, nobody gets in by it.
Result<net::JoinToken> read_token(const std::string& given, const Clock& clock) {
  std::string text = given;
  std::string from;
  std::error_code ignored;
  if (std::filesystem::exists(given, ignored)) {
    const auto bytes = read_file(given, most_token_bytes);
    if (!bytes) return fail(ErrorCode::unauthenticated, "no token there: " + bytes.error().message);
    text = as_text(*bytes);
    from = "'" + given + "': ";
  } else if (given.find('/') != std::string::npos && !given.starts_with("starling")) {
    return fail(ErrorCode::unauthenticated, "there is no file '" + given + "', and it is no token by itself");
  }
  auto token = net::parse_token(text, clock.unix_seconds());
  if (!token) return fail(ErrorCode::unauthenticated, from + token.error().message);
  return token;
}

ExitCode exit_code_for(trainer::Worker::Exit exit) {
  switch (exit) {
    case trainer::Worker::Exit::finished:
    case trainer::Worker::Exit::left:
      return ExitCode::ok;
    case trainer::Worker::Exit::alone:
    case trainer::Worker::Exit::elsewhere:
      return ExitCode::unreachable;
  }
  return ExitCode::failed;
}

struct Place {
  std::filesystem::path directory;      // of this worker
  std::filesystem::path run_directory;  // the run's, when it is on this machine; else empty
  std::filesystem::path data;
  std::string name;
  std::string listen;
  std::string http;
  std::int64_t local_workers = 1;
  Duration wait{};
  trainer::DeviceWish device = trainer::DeviceWish::automatic;
  std::filesystem::path resume;         // a checkpoint to go on from; empty: none
};

// What `--resume` names, for the Worker. Errors: those of Checkpoint::open; bad_input: no momentum or Adam state is no error.
Result<trainer::Worker::Self::Resume> resume_from(const std::filesystem::path& path, const RunConfig& config) {
  auto opened = trainer::Checkpoint::open(path, &config.model);
  if (!opened) return tl::unexpected(opened.error());
  auto checkpoint = std::make_shared<const trainer::Checkpoint>(std::move(*opened));
  const auto load = [checkpoint, cut = config.stage_layers()](Stage stage) {
    const auto part = [](const Result<std::vector<float>>& values) -> std::optional<trainer::EncodedPart> {
      if (!values) return std::nullopt;  // the manifest says that it was missed
      return trainer::EncodedPart{trainer::encode_values(*values, trainer::Encoding::fp32), trainer::Encoding::fp32};
    };
    const auto scalars = nlohmann::json::parse(checkpoint->scalars(stage), nullptr, false);
    trainer::Load out;
    out.stage = stage;
    out.phi = part(checkpoint->weights().stage(cut[static_cast<std::size_t>(stage)], stage));
    out.momentum = part(checkpoint->array(stage, "momentum"));
    out.adam_m = part(checkpoint->array(stage, "adam_m"));
    out.adam_v = part(checkpoint->array(stage, "adam_v"));
    if (out.adam_m && out.adam_v && scalars.is_object()) out.adam_steps = scalars.value("adam_steps", std::int64_t{0});
    return out;
  };
  return trainer::Worker::Self::Resume{checkpoint->manifest().step, load};
}

Result<trainer::DeviceWish> device_wish(const std::string& text) {
  if (text == "auto") return trainer::DeviceWish::automatic;
  if (text == "cpu") return trainer::DeviceWish::cpu;
  if (text == "cuda") return trainer::DeviceWish::cuda;
  return fail(ErrorCode::usage, fmt::format("--device {}: expected cuda, cpu or auto", text));
}

Result<Place> place_of(const Options& options, const net::JoinToken& token) {
  Place out;
  out.name = options.text("name").value_or("worker");
  out.directory = options.text("dir").value_or("starling-" + token.grant.run.brief() + "/" + out.name);
  out.run_directory = options.text("run-dir").value_or("");
  out.data = options.text("data").value_or("");
  out.listen = options.text("listen").value_or("tcp://0.0.0.0:29400");
  out.http = options.text("http").value_or("127.0.0.1:9464");
  out.wait = std::chrono::seconds(std::clamp<std::int64_t>(options.integer("wait").value_or(300), 1, 365 * 24 * 3600));
  out.local_workers = std::max<std::int64_t>(1, options.integer("local-workers").value_or(1));
  auto device = device_wish(options.text("device").value_or("auto"));
  if (!device) return tl::unexpected(device.error());
  out.device = *device;
  out.resume = options.text("resume").value_or("");
  return out;
}

// Knocks until somebody lets this node in, or the user or every seed says no.
Result<trainer::Credentials::Welcome> knock(trainer::Joiner& joiner, net::ZmqTransport& transport, const Signals& signals,
                                            const Clock& clock) {
  std::string said;
  TimePoint say_at = clock.now() + say_knocking_interval;
  while (!joiner.outcome()) {
    if (signals.interrupts() > 0) return fail(ErrorCode::failed, "interrupted");
    const TimePoint now = clock.now();
    if (joiner.last_refusal() != said || now >= say_at) {
      said = joiner.last_refusal();
      say_at = now + say_knocking_interval;
      log_info("nobody has let us in yet ({}); still trying", said.empty() ? "no answer" : said);
    }
    const Duration wait = std::min<Duration>(joiner.next_deadline() - now, std::chrono::milliseconds(200));
    for (auto& event : transport.poll(std::max(Duration::zero(), wait))) {
      if (const auto* answer = std::get_if<net::LobbyAnswered>(&event)) joiner.on(*answer, clock.now());
    }
    joiner.tick(clock.now());
  }
  return *joiner.outcome();
}

int run_threads(std::int64_t local_workers) {
  const std::int64_t cores = std::max<std::int64_t>(1, ::sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, static_cast<int>(cores / local_workers));
}

// What this life has cost, for whoever asks about a run afterwards. Loop thread.
void tell_totals(const trainer::WorkerCounters& counters, NodeReport& report) {
  const std::int64_t bytes = std::accumulate(counters.sent_bytes.begin(), counters.sent_bytes.end(), std::int64_t{0});
  report.event("totals", {{"microbatches", counters.completed},
                          {"messages_sent", counters.messages_sent},
                          {"bytes_sent", bytes},
                          {"loop_seconds", metrics::thread_cpu_seconds()}});
}

// One life of a worker, from its identity to its exit.
Result<trainer::Worker::ExitReason> live(const Place& place, net::JoinToken token, const Signals& signals) {
  const RealClock clock;
  auto device_type = choose_device(place.device);
  if (!device_type) return tl::unexpected(device_type.error());
  RealStorage storage(place.directory);
  auto identity = net::Identity::open(storage);
  if (!identity) return tl::unexpected(identity.error());
  net::ZmqTransport::Config network;
  network.network.listen = place.listen;
  network.network.listen_is_default = place.listen == "tcp://0.0.0.0:29400";
  const trainer::Worker* worker = nullptr;  // once it is made; it ends before the transport
  network.lobby.accounted_bytes = [&worker] { return worker == nullptr ? 0 : worker->accounted_bytes(); };
  auto transport = net::ZmqTransport::open(std::move(network), identity->key(), token.lobby_key, clock);
  if (!transport) return tl::unexpected(as_flag(transport.error(), "network.listen", "--listen"));
  auto http = metrics::HttpServer::start({.listen = place.http, .port_choice = metrics::PortChoice::or_another}, clock);
  if (!http) return tl::unexpected(as_flag(http.error(), "http.listen", "--http"));

  WorkerFile file{::getpid(), identity->id().hex(), (*http)->address(), std::nullopt};
  if (auto written = write_worker_file(place.directory, file); !written) return tl::unexpected(written.error());

  trainer::Joiner::Config knocking;
  knocking.give_up_after = place.wait;
  for (const net::Seed& seed : token.seeds) {
    if (seed.node != identity->id()) knocking.seeds.push_back({seed.node, seed.lobby});
  }
  const ByteView stored = identity->stored_chain();
  NodeCredentials credentials(identity->key(), token.clone(), Bytes(stored.begin(), stored.end()), "", clock);
  trainer::Worker::Self self{.id = identity->id(),
                             .boot = identity->boot(),
                             .name = place.name,
                             .has_data = !place.data.empty(),
                             .host = host_number(),
                             .pid = ::getpid(),
                             .http = (*http)->address()};
  membership::Record first = trainer::Worker::first_record(self, **transport);
  first.certificate = credentials.chain();
  trainer::Joiner joiner(std::move(knocking), std::move(first), credentials, **transport, clock.now());
  log_info("knocking at {} of run {}", token.seeds.size() == 1 ? "the seed" : fmt::format("{} seeds", token.seeds.size()),
           token.grant.run.brief());
  auto welcome = knock(joiner, **transport, signals, clock);
  if (!welcome) return tl::unexpected(welcome.error());
  if (auto kept = net::store_chain(storage, welcome->certificate); !kept) return tl::unexpected(kept.error());
  auto config = read_run_spec(welcome->run_spec);
  if (!config) return tl::unexpected(config.error());
  log_info("admitted as {} for stage {} of run '{}'", welcome->name, welcome->stage, config->run.name);

  net::ZmqTransport* wake = transport->get();
  auto device = open_device(*config, place.data, *device_type, run_threads(place.local_workers), clock,
                            [wake] { wake->wake(); });
  if (!device) return tl::unexpected(device.error());

  const std::filesystem::path files = place.run_directory.empty() ? place.directory : place.run_directory;
  auto report = open_report(report_config(*config, token.grant.run, welcome->name), files, clock);
  if (!report) return tl::unexpected(report.error());
  if (!place.resume.empty()) {
    auto resume = resume_from(place.resume, *config);
    if (!resume) return tl::unexpected(resume.error());
    self.resume = std::move(*resume);
  }
  self.admission = std::move(*welcome);
  Node node({*config, clock, **transport, credentials, **report, http->get(), device->compute.get(), device->take_completions},
            std::move(self), worker_config(*config, place.local_workers));
  worker = &node.worker();
  bool leaving = false;
  while (node.turn(std::chrono::milliseconds(500))) {
    if (signals.interrupts() > 1) return fail(ErrorCode::failed, "interrupted twice");
    if (signals.interrupts() > 0 && !leaving) {
      leaving = true;
      node.tell(trainer::Worker::LeaveWished{});
    }
  }
  tell_totals(node.worker().counters(), **report);
  node.flush();
  file.exit_code = static_cast<int>(exit_code_for(node.worker().exit()->exit));
  if (auto written = write_worker_file(place.directory, file); !written) log_warning("{}", written.error().message);
  return *node.worker().exit();
}

ExitCode run_join(const Options& options) {
  const Signals signals;
  auto token = read_token(options.argument("TOKEN"), RealClock());
  if (!token) return complain(options, token.error());
  const auto placed = place_of(options, *token);
  if (!placed) return complain(options, placed.error());
  const Place& place = *placed;
  if (!net::is_valid_name(place.name)) {
    options.err() << "starling join: --name '" << place.name << "': expected 1 to 32 of a-z, 0-9 and '-'\n";
    return ExitCode::usage;
  }
  std::error_code failure;
  std::filesystem::create_directories(place.directory, failure);
  if (options.has("log-file")) {
    if (auto opened = open_log({.file = place.directory / "log.txt"}); !opened) return complain(options, opened.error());
  }
  auto reason = live(place, std::move(*token), signals);
  if (!reason) {
    const ExitCode code = signals.interrupts() > 0 ? ExitCode::interrupted : launcher::exit_code_of(reason.error().code);
    complain(options, reason.error());
    if (auto file = read_worker_file(place.directory)) {
      file->exit_code = static_cast<int>(code);
      if (auto written = write_worker_file(place.directory, *file); !written) log_warning("{}", written.error().message);
    }
    return code;
  }
  log_info("exit: {}", reason->why);
  options.err() << "starling join: " << reason->why << "\n";
  return exit_code_for(reason->exit);
}

}  // namespace

Command join_command() {
  using Kind = Flag::Kind;
  return {"join",
          "join a run as a worker",
          "TOKEN is the line that the run's owner gave you, or a file that holds it. Ctrl-C leaves politely, twice at once.\n"
          "Whoever has the token can make a key of his own a member until the token expires: keep it to yourself.\n"
          "Without --data the worker is given middle stages only, and never sees a line of the training text.",
          {{"TOKEN", Argument::Presence::required, "the token, or a file with it"}},
          {{"name", Kind::text, "NAME", "what others call this worker: a-z, 0-9, '-' (default: worker)"},
           {"dir", Kind::text, "DIR", "where its key and log are kept (default: starling-<run>/<name>)"},
           {"data", Kind::text, "DIR", "the folder that the run's data paths may resolve in"},
           {"listen", Kind::text, "tcp://HOST:PORT", "where others reach it; three ports from here, 0: any free ones"},
           {"http", Kind::text, "HOST:PORT", "metrics and status of this worker (default: 127.0.0.1:9464 or the next free)"},
           {"device", Kind::text, "cuda|cpu|auto", "what it computes on (default: auto, a GPU if there is one)"},
           {"wait", Kind::integer, "SECONDS", "how long to knock when nobody opens (default: 300)"},
           {"local-workers", Kind::integer, "N", "how many workers share this machine: cores and memory are divided"},
           {"run-dir", Kind::text, "DIR", "the run's own directory, when it is on this machine: log lines go there"},
           {"resume", Kind::text, "CKPT", "the checkpoint that a run of which nobody was left goes on from"},
           {"log-file", Kind::toggle, "", "log to DIR/log.txt instead of stderr"}},
          run_join};
}

}  // namespace starling::launcher
