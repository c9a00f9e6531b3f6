// The server as strangers meet it: through real sockets on the loopback. No test sleeps; where one waits, it waits for the
// other side to answer or to hang up.
#include "metrics/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "gossip/base/host_port.h"
#include "gossip/base/real_env.h"
#include "metrics/http_socket.h"

namespace starling::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

// Real time, and a leap of it when a test wants something to be stale.
class LeapingClock final : public Clock {
 public:
  TimePoint now() const override { return real_.now() + Duration(leap_.load()); }
  double unix_seconds() const override { return real_.unix_seconds(); }
  void leap(Duration by) { leap_ += by.count(); }

 private:
  RealClock real_;
  std::atomic<Duration::rep> leap_{0};
};

Descriptor connect_to(const std::string& address) {
  const HostPort at = parse_host_port(address).value();
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(at.port);
  ::inet_pton(AF_INET, at.host.c_str(), &to.sin_addr);
  Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to), 0) << address;
  return socket;
}

// Sends as much as the other side takes.
void send_all(const Descriptor& socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

// All that comes until the other side closes.
std::string receive_all(const Descriptor& socket) {
  std::string out;
  char block[4096];
  for (ssize_t n; (n = ::recv(socket.get(), block, sizeof block, 0)) > 0;)
    out.append(block, static_cast<std::size_t>(n));
  return out;
}

class HttpServerTest : public ::testing::Test {
 protected:
  HttpServerTest() { start({}); }

  void start(HttpServerOptions options) {
    server_.reset();
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::start(options, clock_);
    ASSERT_TRUE(server) << server.error().message;
    server_ = std::move(*server);
  }
  std::shared_ptr<HttpSnapshot> snapshot() {
    auto out = std::make_shared<HttpSnapshot>();
    out->made_at = clock_.now();
    out->name = "observer";
    out->metrics_text = "starling_up 1\n";
    out->status_json = "{\"run_id\":\"r\"}";
    out->workers["abc"] = {"w00", std::make_shared<const std::string>("w00_up 1\n"), clock_.now()};
    return out;
  }
  std::string exchange(const std::string& request) {
    const Descriptor socket = connect_to(server_->address());
    send_all(socket, request);
    return receive_all(socket);
  }
  std::string get(const std::string& path, const std::string& headers = "") {
    return exchange("GET " + path + " HTTP/1.1\r\nHost: " + server_->address() + "\r\n" + headers + "\r\n");
  }
  static std::string body(const std::string& answer) {
    const std::size_t at = answer.find("\r\n\r\n");
    return at == std::string::npos ? "" : answer.substr(at + 4);
  }

  LeapingClock clock_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, SaysThatItIsStartingUntilTheFirstSnapshot) {
  for (const char* path : {"/metrics", "/healthz", "/api/v1/status", "/api/v1/sd", "/api/v1/workers/abc/metrics"}) {
    EXPECT_THAT(get(path), StartsWith("HTTP/1.1 503 ")) << path;
  }
  EXPECT_THAT(get("/"), HasSubstr("/api/v1/sd"));
}

TEST_F(HttpServerTest, ServesTheNewestSnapshot) {
  server_->publish(snapshot());
  EXPECT_THAT(get("/metrics"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(get("/metrics"), HasSubstr("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
  EXPECT_EQ(body(get("/metrics")), "starling_up 1\n");
  EXPECT_EQ(body(get("/healthz")), "ok\n");
  EXPECT_THAT(get("/api/v1/status"), HasSubstr("Content-Type: application/json\r\n"));
  EXPECT_EQ(body(get("/api/v1/status")), "{\"run_id\":\"r\"}");
  EXPECT_EQ(body(get("/api/v1/workers/abc/metrics")), "w00_up 1\n");
  auto next = snapshot();
  next->metrics_text = "starling_up 2\n";
  next->unhealthy = "stage 2 has no replica";
  server_->publish(next);
  EXPECT_EQ(body(get("/metrics")), "starling_up 2\n");
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(body(get("/healthz")), "stage 2 has no replica\n");
}

TEST_F(HttpServerTest, AnswersOnePerConnectionAndHead) {
  server_->publish(snapshot());
  EXPECT_THAT(get("/metrics"), HasSubstr("Connection: close\r\n"));
  const std::string head = exchange("HEAD /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(head, StartsWith("HTTP/1.1 200 "));
  EXPECT_EQ(body(head), "");
}

TEST_F(HttpServerTest, CompressesForWhoAsks) {
  auto large = snapshot();
  large->metrics_text = std::string(100000, 'x');
  server_->publish(large);
  EXPECT_LT(get("/metrics", "Accept-Encoding: gzip\r\n").size(), 2000U);
  httplib::Client client(server_->url());
  const auto answer = client.Get("/metrics", {{"Accept-Encoding", "gzip"}});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, large->metrics_text);
}

TEST_F(HttpServerTest, DiscoveryNamesThisNodeAndTheWorkersItReplays) {
  server_->publish(snapshot());
  const auto targets = nlohmann::json::parse(body(get("/api/v1/sd")));
  const std::string address = server_->address();
  EXPECT_EQ(
      targets,
      nlohmann::json::parse(
          "[{\"targets\":[\"" + address +
          "\"],\"labels\":{\"__metrics_path__\":\"/metrics\",\"instance\":\"observer\"}},"
          "{\"targets\":[\"" +
          address + "\"],\"labels\":{\"__metrics_path__\":\"/api/v1/workers/abc/metrics\",\"instance\":\"w00\"}}]"));
  EXPECT_THAT(get("/api/v1/sd"), HasSubstr("Content-Type: application/json\r\n"));
  // Under the name by which it was asked, and under its own when there is none or it is nonsense.
  EXPECT_THAT(exchange("GET /api/v1/sd HTTP/1.1\r\nHost: localhost:7777\r\n\r\n"), HasSubstr("\"localhost:7777\""));
  EXPECT_THAT(exchange("GET /api/v1/sd HTTP/1.0\r\n\r\n"), HasSubstr(address));
  EXPECT_THAT(exchange("GET /api/v1/sd HTTP/1.1\r\nHost: 127.0.0.1:x y\r\n\r\n"), HasSubstr(address));
}

TEST_F(HttpServerTest, AWorkerIsUnknownStaleOrThere) {
  EXPECT_THAT(get("/api/v1/workers/abc/metrics"), StartsWith("HTTP/1.1 503 "));
  server_->publish(snapshot());
  for (const char* path : {"/api/v1/workers/abd/metrics", "/api/v1/workers//metrics", "/api/v1/workers/metrics",
                           "/api/v1/workers/abc", "/api/v1/workers/abc/metrics/", "/api/v1/workers/../abc/metrics",
                           "/api/v1/workers/w00/metrics", "/api/v1/", "/favicon.ico", "/metrics/"}) {
    EXPECT_THAT(get(path), StartsWith("HTTP/1.1 404 ")) << path;
  }
  auto silent = snapshot();
  silent->workers["new"] = {"w01", nullptr, clock_.now()};
  silent->workers["old"] = {"w02", std::make_shared<const std::string>("x 1\n"), clock_.now() - 16s};
  silent->workers["late"] = {"w03", std::make_shared<const std::string>("x 1\n"), clock_.now() - 14s};
  server_->publish(silent);
  EXPECT_THAT(get("/api/v1/workers/new/metrics"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(get("/api/v1/workers/old/metrics"), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(body(get("/api/v1/workers/old/metrics")), "last heard of 16 s ago\n");
  EXPECT_THAT(get("/api/v1/workers/late/metrics"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, ALoopThatHangsIsNotWell) {
  server_->publish(snapshot());
  clock_.leap(14s);
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));
  clock_.leap(2s);
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(get("/metrics"), StartsWith("HTTP/1.1 503 "));
}

TEST_F(HttpServerTest, RefusesWhatIsNotAReadingRequest) {
  server_->publish(snapshot());
  const std::string post = exchange("POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello");
  EXPECT_THAT(post, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(post, HasSubstr("Allow: GET, HEAD\r\n"));
  EXPECT_THAT(exchange("DELETE / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(exchange("FLY / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
}

// A page on evil.example that points its own name at 127.0.0.1 must not read the join token.
TEST_F(HttpServerTest, OnTheLoopbackANameOfAStrangerIsRefused) {
  server_->publish(snapshot());
  const auto with_host = [&](const std::string& host) {
    return exchange("GET /api/v1/status HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
  };
  EXPECT_THAT(with_host("evil.example"), StartsWith("HTTP/1.1 403 "));
  EXPECT_THAT(with_host("evil.example:9464"), StartsWith("HTTP/1.1 403 "));
  EXPECT_THAT(with_host("127.0.0.1.evil.example:9464"), StartsWith("HTTP/1.1 403 "));
  EXPECT_THAT(with_host("localhost:1"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(with_host("127.0.0.1"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(with_host("[::1]:9464"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, TakesNoMoreThanItsBudget) {
  HttpServerOptions options;
  options.request_deadline = options.connection_deadline = 1h;  // it is the budget that ends these
  start(options);
  server_->publish(snapshot());
  const std::string long_line(http_request_bytes * 4, 'a');
  // A line without end, a header without end, headers without end: cut off, answered or not, never collected.
  EXPECT_THAT(exchange("GET /" + long_line), Not(HasSubstr(" 200 ")));
  EXPECT_THAT(exchange("GET /metrics HTTP/1.1\r\nX: " + long_line), Not(HasSubstr(" 200 ")));
  std::string headers;
  while (headers.size() < http_request_bytes * 4) headers += "X: y\r\n";
  EXPECT_THAT(exchange("GET /metrics HTTP/1.1\r\n" + headers), Not(HasSubstr(" 200 ")));
  // Within it all is well.
  EXPECT_THAT(get("/metrics", "Cookie: " + std::string(8000, 'c') + "\r\n"), StartsWith("HTTP/1.1 200 "));
  EXPECT_THAT(get("/" + std::string(8300, 'a')), StartsWith("HTTP/1.1 414 "));
}

TEST_F(HttpServerTest, ARangeIsNeitherAnAmplifierNorACrash) {
  auto large = snapshot();
  large->metrics_text = std::string(100000, 'x');
  server_->publish(large);
  std::string ranges = "Range: bytes=0-";
  while (ranges.size() < 8000) ranges += ",0-";
  EXPECT_LT(get("/metrics", ranges + "\r\n").size(), 101000U);
  EXPECT_LT(get("/metrics", "Range: bytes=" + std::string(8000, '1') + "-\r\n").size(), 101000U);
  EXPECT_THAT(get("/metrics"), StartsWith("HTTP/1.1 200 "));
}

TEST_F(HttpServerTest, SurvivesBytesThatAreNoRequest) {
  server_->publish(snapshot());
  std::string all_bytes;
  for (int i = 0; i < 1024; ++i) all_bytes += static_cast<char>(i * 7);
  for (const std::string& bytes :
       {std::string("\r\n\r\n"), std::string("\0\0\0\0\r\n\r\n", 8), std::string("GET\r\n\r\n"), all_bytes + "\r\n\r\n",
        std::string("GET /%zz%00%ff HTTP/1.1\r\n\r\n"), std::string("GET /metrics?a=%&&&== HTTP/1.1\r\n\r\n"),
        std::string("GET /metrics HTTP/9.9\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01", 8) + "\r\n\r\n"}) {
    exchange(bytes);
  }
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));
}

// As many silent connections as there are threads: each is dropped at its deadline, then others have their turn.
TEST_F(HttpServerTest, ASlowClientIsDroppedAtTheDeadline) {
  HttpServerOptions options;
  options.threads = 2;
  options.request_deadline = 50ms;
  start(options);
  server_->publish(snapshot());
  std::vector<Descriptor> slow;
  for (int i = 0; i < options.threads; ++i) {
    slow.push_back(connect_to(server_->address()));
    send_all(slow.back(), "GET /metr");
  }
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));
  for (const Descriptor& each : slow) EXPECT_EQ(receive_all(each), "");
}

// One byte at a time does not move the deadline.
TEST_F(HttpServerTest, ADripDoesNotKeepAConnection) {
  HttpServerOptions options;
  options.request_deadline = 50ms;
  start(options);
  server_->publish(snapshot());
  const Descriptor socket = connect_to(server_->address());
  pollfd closed = {socket.get(), POLLIN | POLLRDHUP, 0};
  send_all(socket, "GET / HTTP/1.1\r\nX: ");
  const TimePoint start_of_drip = clock_.now();
  while (::poll(&closed, 1, 5) == 0 && clock_.now() - start_of_drip < 20s) send_all(socket, "y");
  EXPECT_NE(closed.revents, 0);
}

TEST_F(HttpServerTest, WhoDoesNotReadIsDropped) {
  HttpServerOptions options;
  options.threads = 1;
  options.connection_deadline = 100ms;
  start(options);
  auto huge = snapshot();
  huge->metrics_text = std::string(64 << 20, 'x');  // more than the kernel buffers
  server_->publish(huge);
  const Descriptor socket = connect_to(server_->address());
  send_all(socket, "GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));  // the one thread is free again
}

TEST_F(HttpServerTest, StopEndsOpenConnectionsAtOnce) {
  HttpServerOptions options;
  options.request_deadline = options.connection_deadline = 1h;
  start(options);
  const Descriptor socket = connect_to(server_->address());
  send_all(socket, "GET /");
  server_->stop();
  server_->stop();
  server_.reset();
  EXPECT_EQ(receive_all(socket), "");
}

TEST_F(HttpServerTest, StartsAndStopsManyTimes) {
  for (int i = 0; i < 20; ++i) {
    start({});
    server_->publish(snapshot());
    if (i % 2 == 0) continue;  // also one that nobody asked
    EXPECT_THAT(get("/healthz"), StartsWith("HTTP/1.1 200 "));
  }
}

// For the thread sanitizer: readers, a publisher and the end of it all at once.
TEST_F(HttpServerTest, ReadersAndThePublisherDoNotMeet) {
  server_->publish(snapshot());
  std::atomic<int> answers{0};
  std::vector<std::thread> readers;
  for (int reader = 0; reader < 4; ++reader) {
    readers.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        const std::string answer = get(i % 2 == 0 ? "/metrics" : "/api/v1/sd");
        answers += answer.starts_with("HTTP/1.1 200 ");
      }
    });
  }
  for (int i = 0; i < 500; ++i) server_->publish(snapshot());
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(answers, 100);
}

TEST(HttpServerAddress, APortThatTheUserSetIsAnErrorWhenTaken) {
  const RealClock clock;
  const auto first = HttpServer::start({.listen = "127.0.0.1:0"}, clock).value();
  const auto second = HttpServer::start({.listen = first->address()}, clock);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::bad_config);
  EXPECT_THAT(second.error().message, HasSubstr(first->address() + " is in use"));
  EXPECT_THAT(second.error().message, HasSubstr("choose another port"));
}

TEST(HttpServerAddress, TheDefaultMovesOnToAFreeOne) {
  const RealClock clock;
  const auto first = HttpServer::start({.listen = "127.0.0.1:0"}, clock).value();
  const auto second = HttpServer::start({.listen = first->address(), .port_choice = PortChoice::or_another}, clock);
  ASSERT_TRUE(second) << second.error().message;
  const int taken = parse_host_port(first->address())->port;
  const int got = parse_host_port((*second)->address())->port;
  EXPECT_GT(got, taken);
  EXPECT_LT(got, taken + ports_to_try);
}

TEST(HttpServerAddress, SaysWhatIsWrongWithAnAddress) {
  const RealClock clock;
  for (const char* listen :
       {"", "9464", "127.0.0.1", "127.0.0.1:99999", "no such host:1", "203.0.113.77:0", "::1:9464"}) {
    const auto server = HttpServer::start({.listen = listen}, clock);
    ASSERT_FALSE(server) << listen;
    EXPECT_EQ(server.error().code, ErrorCode::bad_config) << listen;
    EXPECT_THAT(server.error().message, StartsWith("http.listen: ")) << listen;
  }
}

TEST(HttpServerAddress, HasAnAddressForPeople) {
  const RealClock clock;
  const auto everywhere = HttpServer::start({.listen = "0.0.0.0:0"}, clock).value();
  EXPECT_THAT(everywhere->address(), StartsWith("0.0.0.0:"));
  EXPECT_THAT(everywhere->url(), StartsWith("http://127.0.0.1:"));
  EXPECT_THAT(httplib::Client(everywhere->url()).Get("/")->body, StartsWith("Starling"));
  const auto here = HttpServer::start({.listen = "127.0.0.1:0"}, clock).value();
  EXPECT_EQ(here->url(), "http://" + here->address());
}

}  // namespace
}  // namespace starling::metrics
