// Peers that do not play by the rules: bare TCP, and a CURVE client written by hand, which can send what libzmq never
// would: frames beyond a limit, messages without an end, metadata of its own invention.
//
// They share a thread with what they attack, so all of their sockets are non-blocking and every wait calls `pump`.
// Source of the bytes: ZeroMQ RFC 23 (ZMTP 3.0) and RFC 26 (CurveZMQ).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "gossip/base/bytes.h"
#include "gossip/net/identity.h"

namespace starling::net {

class RawTcp {
 public:
  using Pump = std::function<void()>;
  // Connects to "tcp://127.0.0.1:port"; pumps and tries again for two seconds while nobody listens there.
  RawTcp(const std::string& endpoint, Pump pump);
  ~RawTcp();
  RawTcp(const RawTcp&) = delete;
  RawTcp& operator=(const RawTcp&) = delete;

  // Sends all, pumping whenever the peer is slow. False: the peer closed, or took nothing for two seconds.
  bool send(ByteView bytes);
  // Exactly `size` bytes; fewer when the peer closed or sent nothing for two seconds.
  Bytes receive(std::size_t size);
  // Whether the peer has closed, after what it sent was thrown away.
  bool is_closed();

 private:
  int fd_ = -1;
  Pump pump_;
};

class RawCurveClient {
 public:
  // `metadata` goes into INITIATE beside the socket type.
  RawCurveClient(const std::string& endpoint, const CurveKeyPair& key, const CurveKey& server, RawTcp::Pump pump,
                 std::map<std::string, std::string> metadata = {});

  // Greeting, HELLO, WELCOME, INITIATE, READY. False where the server does not go along.
  bool shake_hands();
  enum class More : std::uint8_t { last = 0, more = 1 };
  // One encrypted frame. REQUIRES: hands were shaken.
  bool send(ByteView payload, More more = More::last);
  RawTcp& tcp() { return tcp_; }

 private:
  bool send_command(std::string_view body);
  std::string receive_command();
  std::string metadata_bytes() const;

  RawTcp tcp_;
  CurveKeyPair key_;
  CurveKey server_;
  CurveKeyPair session_ = CurveKeyPair::generate();
  CurveKey server_session_;
  std::map<std::string, std::string> metadata_;
  std::uint64_t nonce_ = 1;
};

}  // namespace starling::net
