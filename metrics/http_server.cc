#include "metrics/http_server.h"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string_view>
#include <thread>
#include <vector>

#include "gossip/base/host_port.h"
#include "gossip/base/log.h"
#include "metrics/http_socket.h"

namespace starling::metrics {
namespace {

constexpr const char* prometheus_text = "text/plain; version=0.0.4; charset=utf-8";
constexpr const char* plain_text = "text/plain; charset=utf-8";
constexpr const char* json_text = "application/json";

constexpr const char* index_text =
    "Starling\n\n"
    "/metrics                      this node's metrics, for Prometheus\n"
    "/healthz                      whether this node is well\n"
    "/api/v1/status                the run\n"
    "/api/v1/sd                    service discovery for Prometheus\n"
    "/api/v1/workers/ID/metrics    the last metrics of a worker\n";

void answer(httplib::Response& response, int status, std::string text, const char* type = plain_text) {
  response.status = status;
  response.set_content(std::move(text), type);
}

bool is_address(const std::string& host) {
  in6_addr ignored;
  return ::inet_pton(AF_INET, host.c_str(), &ignored) == 1 || ::inet_pton(AF_INET6, host.c_str(), &ignored) == 1;
}

// The host of a Host header, whose port may be left out: "localhost", "127.0.0.1:9464", "[::1]".
std::string host_of(std::string header) {
  if (header.starts_with('[')) return header.substr(1, header.find(']') - 1);
  if (std::count(header.begin(), header.end(), ':') == 1) header.resize(header.find(':'));
  return header;
}

bool is_loopback(std::string_view address) { return address.starts_with("127.") || address.starts_with("[::1]"); }

// What Prometheus is to call: this node itself, under the name by which it was asked, since the node cannot know by
// which of its addresses others reach it.
std::string service_discovery(const HttpSnapshot& snapshot, const std::string& target) {
  using Json = nlohmann::json;
  Json targets = Json::array();
  const auto add = [&](const std::string& path, const std::string& instance) {
    targets.push_back({{"targets", {target}}, {"labels", {{"__metrics_path__", path}, {"instance", instance}}}});
  };
  add("/metrics", snapshot.name);
  for (const auto& [id, worker] : snapshot.workers) add("/api/v1/workers/" + id + "/metrics", worker.name);
  return targets.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// cpp-httplib's reading of requests and writing of answers, without its sockets and threads.
class Protocol final : public httplib::Server {
 public:
  void serve(BoundedStream& stream) {
    bool closed = false;
    // A request for ranges could ask for the same bytes a thousand times over in one answer.
    process_request(stream, /*close_connection=*/true, closed,
                    [](httplib::Request& request) { request.ranges.clear(); });
  }
};

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpServerOptions& options, const Clock& clock, Descriptor listener, Descriptor wake, std::string address)
      : options_(options),
        clock_(clock),
        listener_(std::move(listener)),
        wake_(std::move(wake)),
        address_(std::move(address)) {
    protocol_.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      route(request, response);
      return httplib::Server::HandlerResponse::Handled;
    });
    protocol_.set_default_headers({{"Cache-Control", "no-store"}, {"X-Content-Type-Options", "nosniff"}});
  }
  ~Impl() { stop(); }

  void start_threads() {
    for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { run(); });
  }

  void stop() {
    const std::uint64_t one = 1;
    // Never read, so it wakes every thread, now and later.
    while (::write(wake_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void publish(std::shared_ptr<const HttpSnapshot> snapshot) {
    const std::lock_guard lock(mutex_);
    // The old one is let go of outside the lock, by whoever holds it last.
    snapshot_.swap(snapshot);
  }

  const std::string& address() const { return address_; }

 private:
  void run();
  void serve(int socket);
  void route(const httplib::Request& request, httplib::Response& response) const;
  void route_worker(const HttpSnapshot& snapshot, std::string_view id, httplib::Response& response) const;
  std::shared_ptr<const HttpSnapshot> current() const {
    const std::lock_guard lock(mutex_);
    return snapshot_;
  }

  const HttpServerOptions options_;
  const Clock& clock_;
  const Descriptor listener_;
  const Descriptor wake_;
  const std::string address_;
  Protocol protocol_;
  mutable std::mutex mutex_;
  std::shared_ptr<const HttpSnapshot> snapshot_;
  std::vector<std::thread> threads_;
};

// Each thread takes a connection, serves it and closes it: so as many are open as there are threads.
void HttpServer::Impl::run() {
  for (;;) {
    std::array<pollfd, 2> fds = {{{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    const Descriptor socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.get() >= 0) {
      serve(socket.get());
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      // The connection stays in the backlog and the poll above would not wait: pause until something may be free.
      ::poll(&fds[1], 1, 100);
    }
  }
}

void HttpServer::Impl::serve(int socket) {
  try {
    BoundedStream stream(socket, wake_.get(), clock_, options_.request_deadline, options_.connection_deadline);
    protocol_.serve(stream);
    stream.drain();
  } catch (const std::exception& failure) {
    log_warning("an HTTP request ended in: {}", failure.what());
  }
}

void HttpServer::Impl::route(const httplib::Request& request, httplib::Response& response) const {
  const std::string host = request.get_header_value("Host");
  const std::string name = host_of(host);
  if (is_loopback(address_) && !name.empty() && name != "localhost" && !is_address(name)) {
    return answer(response, 403, "ask by the address of this machine\n");
  }
  if (request.method != "GET" && request.method != "HEAD") {
    response.set_header("Allow", "GET, HEAD");
    return answer(response, 405, "only GET is served\n");
  }
  if (request.path == "/") return answer(response, 200, index_text);

  const auto snapshot = current();
  if (!snapshot) return answer(response, 503, "starting\n");
  const Duration age = clock_.now() - snapshot->made_at;
  const bool hangs = age > options_.snapshot_stale_after;
  if (hangs) {
    return answer(response, 503,
                  "nothing new for " + std::to_string(std::chrono::ceil<std::chrono::seconds>(age).count()) + " s\n");
  }
  static constexpr std::string_view workers = "/api/v1/workers/";
  static constexpr std::string_view metrics = "/metrics";
  std::string_view path = request.path;
  if (path == "/metrics") {
    answer(response, 200, snapshot->metrics_text, prometheus_text);
  } else if (path == "/healthz") {
    const bool well = snapshot->unhealthy.empty();
    answer(response, well ? 200 : 503, (well ? "ok" : snapshot->unhealthy) + "\n");
  } else if (path == "/api/v1/status") {
    answer(response, 200, snapshot->status_json, json_text);
  } else if (path == "/api/v1/sd") {
    const bool usable = is_host(host) || parse_host_port(host).has_value();
    answer(response, 200, service_discovery(*snapshot, usable ? host : address_), json_text);
  } else if (path.starts_with(workers) && path.ends_with(metrics) && path.size() > workers.size() + metrics.size()) {
    path.remove_prefix(workers.size());
    path.remove_suffix(metrics.size());
    route_worker(*snapshot, path, response);
  } else {
    answer(response, 404, "there is nothing here; / lists what there is\n");
  }
}

void HttpServer::Impl::route_worker(const HttpSnapshot& snapshot, std::string_view id,
                                    httplib::Response& response) const {
  const auto worker = snapshot.workers.find(std::string(id));
  if (worker == snapshot.workers.end()) return answer(response, 404, "this node knows no such worker\n");
  const Duration age = clock_.now() - worker->second.received_at;
  if (!worker->second.metrics_text) return answer(response, 503, "this worker has sent no metrics yet\n");
  if (age > options_.worker_stale_after) {
    return answer(
        response, 503,
        "last heard of " + std::to_string(std::chrono::floor<std::chrono::seconds>(age).count()) + " s ago\n");
  }
  answer(response, 200, *worker->second.metrics_text, prometheus_text);
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() = default;

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpServerOptions& options, const Clock& clock) {
  STARLING_CHECK(options.threads > 0, "somebody has to answer");
  const auto asked = parse_host_port(options.listen);
  if (!asked) return fail(ErrorCode::bad_config, "http.listen: " + asked.error().message);
  auto listener = listen_on(*asked, options.port_choice);
  if (!listener) return tl::unexpected<Error>(listener.error());
  auto address = local_address(listener->get());
  if (!address) return tl::unexpected<Error>(address.error());
  Descriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (wake.get() < 0) return fail(ErrorCode::io, std::string("cannot make an eventfd: ") + std::strerror(errno));
  try {
    auto impl = std::make_unique<Impl>(options, clock, std::move(*listener), std::move(wake), std::move(*address));
    impl->start_threads();
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::system_error& failure) {
    return fail(ErrorCode::io, std::string("cannot start the threads of the HTTP server: ") + failure.what());
  }
}

void HttpServer::publish(std::shared_ptr<const HttpSnapshot> snapshot) {
  STARLING_CHECK(snapshot != nullptr, "there is always something to say");
  impl_->publish(std::move(snapshot));
}

const std::string& HttpServer::address() const { return impl_->address(); }

std::string HttpServer::url() const {
  // What listens on every address is asked on the loopback.
  const std::string& bound = impl_->address();
  const std::string port = bound.substr(bound.rfind(':'));
  if (bound.starts_with("0.0.0.0:")) return "http://127.0.0.1" + port;
  if (bound.starts_with("[::]:")) return "http://[::1]" + port;
  return "http://" + bound;
}

void HttpServer::stop() { impl_->stop(); }

}  // namespace starling::metrics
