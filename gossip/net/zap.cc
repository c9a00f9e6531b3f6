#include "gossip/net/zap.h"

#include <array>
#include <cstring>
#include <utility>
#include <vector>

namespace starling::net {
namespace {

// A request has these frames; a reply repeats the first two. Source: ZeroMQ RFC 27 (ZAP 1.0).
enum Frame { version, request_id, domain, address, routing_id, mechanism, credentials, frames_of_curve };

std::string_view text(const zmq::message_t& frame) { return as_text(view(frame)); }

}  // namespace

Result<ZapHandler> ZapHandler::open(zmq::context_t& context, Judge judge) {
  try {
    zmq::socket_t socket(context, zmq::socket_type::rep);
    socket.set(zmq::sockopt::linger, 0);
    socket.bind("inproc://zeromq.zap.01");
    return ZapHandler(std::move(socket), std::move(judge));
  } catch (const zmq::error_t& error) {
    return fail(ErrorCode::failed, std::string("cannot start the gatekeeper of the sockets: ") + error.what());
  }
}

void ZapHandler::serve() {
  zmq::message_t first;
  while (receive_now(socket_, first)) {
    std::vector<zmq::message_t> frames;
    frames.push_back(std::move(first));
    while (frames.back().more() && frames.size() < 16) {
      zmq::message_t next;
      if (!receive_now(socket_, next)) break;
      frames.push_back(std::move(next));
    }
    drop_rest(socket_, frames.back());
    Verdict verdict;
    if (frames.size() == frames_of_curve && text(frames[version]) == "1.0" && text(frames[mechanism]) == "CURVE" &&
        frames[credentials].size() == sizeof(CurveKey::key)) {
      CurveKey key;
      std::memcpy(key.key.data(), frames[credentials].data(), key.key.size());
      verdict = judge_(text(frames[domain]), key);
    }
    if (verdict.status != Status::let_in) ++refused_;
    const std::string status = std::to_string(static_cast<int>(verdict.status));
    const std::string id = frames.size() > request_id ? std::string(text(frames[request_id])) : std::string();
    const std::array<std::string, 6> reply{"1.0", id, status, std::string(), verdict.user_id, std::string()};
    for (std::size_t i = 0; i < reply.size(); ++i) {
      zmq::message_t message(reply[i].data(), reply[i].size());
      send_now(socket_, message, i + 1 < reply.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
    }
    first.rebuild();
  }
}

}  // namespace starling::net
