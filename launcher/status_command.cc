#include "launcher/status_command.h"

#include <fmt/format.h>
#include <httplib.h>

#include <chrono>
#include <filesystem>

#include "gossip/base/real_env.h"
#include "launcher/run_directory.h"
#include "metrics/status.h"

namespace starling::launcher {
namespace {

constexpr std::time_t answer_seconds = 2;

struct Answer {
  metrics::RunStatus status;
  std::string json;
  std::string note;      // "stale since ..."; empty: as it is now
};

// `address`: "http://host:port" or "host:port".
Result<std::string> ask(const std::string& address) {
  httplib::Client client(address.starts_with("http") ? address : "http://" + address);
  client.set_connection_timeout(answer_seconds, 0);
  client.set_read_timeout(answer_seconds, 0);
  const auto answer = client.Get("/api/v1/status");
  if (!answer) return fail(ErrorCode::unreachable, "nobody answers at " + address);
  if (answer->status != 200 || answer->body.size() > metrics::max_status_bytes) {
    return fail(ErrorCode::unreachable, fmt::format("{} answers with {}", address, answer->status));
  }
  return answer->body;
}

Result<Answer> parsed(std::string json, std::string note = {}) {
  auto status = metrics::parse_run_status(json);
  if (!status) return tl::unexpected(status.error());
  return Answer{std::move(*status), std::move(json), std::move(note)};
}

// The launcher, else any worker that is alive, else what was written last.
Result<Answer> ask_run(const RunDirectory& run) {
  if (const auto launch = read_launch_file(run); launch && !launch->http.empty()) {
    if (auto json = ask(launch->http)) return parsed(std::move(*json));
  }
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(run.path / "workers", failure)) {
    const auto worker = read_worker_file(entry.path());
    if (!worker || worker->exit_code || worker->http.empty()) continue;
    if (auto json = ask(worker->http)) return parsed(std::move(*json));
  }
  const auto bytes = read_file(run.status_json(), metrics::max_status_bytes);
  if (!bytes) {
    return fail(ErrorCode::unreachable, fmt::format("nobody answers for the run in '{}', and it has no status.json yet; "
                                                    "name a run's directory or its address",
                                                    run.path.string()));
  }
  auto last = parsed(std::string(as_text(*bytes)));
  if (!last || last->status.state == metrics::RunState::finished) return last;
  const auto written = std::filesystem::last_write_time(run.status_json(), failure);
  const std::chrono::duration<double> written_unix = std::chrono::file_clock::to_sys(written).time_since_epoch();
  last->note = fmt::format("stale since {:.0f} s", RealClock().unix_seconds() - written_unix.count());
  return last;
}

Result<Answer> find_status(const std::string& target) {
  const bool address = target.starts_with("http://") || (target.find(':') != std::string::npos && !std::filesystem::exists(target));
  if (address) {
    auto json = ask(target);
    if (!json) return tl::unexpected(json.error());
    return parsed(std::move(*json));
  }
  if (!target.empty()) {
    std::error_code failure;
    if (!std::filesystem::is_directory(target, failure)) {
      return fail(ErrorCode::not_found, "'" + target + "' is neither a run's directory nor an address");
    }
    return ask_run({target});
  }
  const auto newest = newest_run("runs");
  if (!newest) return tl::unexpected(newest.error());
  return ask_run(*newest);
}

ExitCode run_status(const Options& options) {
  const auto answer = find_status(options.argument("RUN"));
  if (!answer) {
    options.err() << "starling status: " << answer.error().message << "\n";
    return exit_code_of(answer.error().code);
  }
  if (options.has("json")) {
    options.out() << answer->json << (answer->json.ends_with('\n') ? "" : "\n");
    if (!answer->note.empty()) options.err() << answer->note << "\n";
  } else {
    options.out() << metrics::format_run_status(answer->status, answer->note);
  }
  return ExitCode::ok;
}

}  // namespace

Command status_command() {
  return {"status",
          "show a run: its step, loss, stages and workers",
          "RUN is a run's directory or the address of any of its nodes; by default the newest run in ./runs. Asks the\n"
          "launcher, then any local worker, then prints what was written last and since when it is stale.",
          {{"RUN", Argument::Presence::optional, "directory or http://host:port"}},
          {{"json", Flag::Kind::toggle, "", "print one JSON object instead; it holds the join token, if the launcher answers"}},
          run_status};
}

}  // namespace starling::launcher
