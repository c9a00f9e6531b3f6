// Who gets in: ZeroMQ asks this handler about every CURVE key that knocks on a bound socket of its context.
//
// The handler is a socket of the context's own, bound before any other and served by the loop like the rest, so there
// is no thread and no table shared between threads. While it does not answer, nobody gets in.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "gossip/net/zmq_socket.h"

namespace starling::net {

class ZapHandler {
 public:
  // 200: let in, and mark each of its frames with `user_id`. 300: not now; the dialler tries again by itself.
  // 400: never; the dialler is told and stops.
  enum class Status { let_in = 200, not_now = 300, never = 400 };
  struct Verdict {
    Status status = Status::never;
    std::string user_id;
  };
  using Judge = std::function<Verdict(std::string_view domain, const CurveKey& key)>;

  // Errors: io; failed, when the context has a handler already.
  static Result<ZapHandler> open(zmq::context_t& context, Judge judge);

  // Answers all that wait.
  void serve();
  int descriptor() const { return net::descriptor(socket_); }
  // How many were not let in.
  std::uint64_t refused() const { return refused_; }

 private:
  ZapHandler(zmq::socket_t socket, Judge judge) : socket_(std::move(socket)), judge_(std::move(judge)) {}
  zmq::socket_t socket_;
  Judge judge_;
  std::uint64_t refused_ = 0;
};

}  // namespace starling::net
