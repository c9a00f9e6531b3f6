// What a node tells the world by HTTP: its metrics, its health, the status of the run, and the metrics of workers that
// cannot be scraped themselves.
//
//   GET /metrics                       this node's metrics in the text format of Prometheus
//   GET /healthz                       200 "ok", or 503 and why not
//   GET /api/v1/status                 the run as JSON (status.h)
//   GET /api/v1/sd                     HTTP service discovery of Prometheus: this node and the workers it replays
//   GET /api/v1/workers/ID/metrics     the last snapshot of a worker's metrics; 404 unknown, 503 stale
//   GET /                              this list
//
// The loop publishes one immutable snapshot about once a second; HTTP threads read the newest and nothing else, so no
// request can reach or delay the loop. The mutex guards the swap of one pointer.
//
// Anybody who reaches the port may ask, so everything is bounded: a handful of threads that each serve one connection
// at a time (more wait in the kernel's backlog), one request per connection, http_request_bytes of it, a deadline for
// the request and one for all. There is no TLS and no password: the port listens on the loopback unless the user says
// otherwise, and then refuses Host names that are not this machine's, so that no web page can ask by a name that it
// points here. Who opens the port to others also shows them the join token in the status.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "gossip/base/env.h"
#include "gossip/base/error.h"
#include "gossip/base/time.h"

namespace starling::metrics {

// A worker's own text of metrics, as it last sent it. Shared, so that a new snapshot costs a pointer per worker.
struct WorkerSnapshot {
  std::string name;  // label `instance`
  std::shared_ptr<const std::string> metrics_text;
  TimePoint received_at;
};

struct HttpSnapshot {
  TimePoint made_at;
  std::string name;                               // label `instance` of this node's own metrics
  std::string metrics_text;                       // Metrics::text()
  std::string status_json;                        // to_json(RunStatus)
  std::map<std::string, WorkerSnapshot> workers;  // by node id in hex; those that left are not in it
  std::string unhealthy;                          // why /healthz says no; empty: all is well
};

inline constexpr std::size_t http_request_bytes = 16 << 10;
// What a receiver takes as a worker's text; with all its series in use, a worker of a run of 16 stages stays below it.
inline constexpr std::size_t max_worker_metrics_bytes = 48 << 10;

enum class PortChoice {
  fixed,      // a port that is taken is an error: the user chose it
  or_another  // moves on to the next free one
};

struct HttpServerOptions {
  std::string listen = "127.0.0.1:9464";  // port 0: any free one
  PortChoice port_choice = PortChoice::fixed;
  Duration snapshot_stale_after = std::chrono::seconds(15);  // the loop hangs: nothing it said counts any more
  Duration worker_stale_after = std::chrono::seconds(15);
  Duration request_deadline = std::chrono::seconds(3);
  Duration connection_deadline = std::chrono::seconds(10);
  int threads = 3;
};

class HttpServer {
 public:
  // Listens, and answers 503 until the first snapshot. `clock` is read by several threads and outlives the server.
  // Errors: bad_config (no such address), io (in use, naming the fix; no right to it).
  static Result<std::unique_ptr<HttpServer>> start(const HttpServerOptions& options, const Clock& clock);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Any thread. REQUIRES: not null.
  void publish(std::shared_ptr<const HttpSnapshot> snapshot);

  // Where it listens: "127.0.0.1:9465".
  const std::string& address() const;
  // An address for people and for `starling status` on this machine: "http://127.0.0.1:9465".
  std::string url() const;

  // Ends open connections and threads; at once, and again does nothing. The destructor does it too.
  void stop();

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace starling::metrics
