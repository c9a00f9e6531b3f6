#include "tests/gossip/net/raw_peer.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sodium.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "gossip/base/real_env.h"
#include "gossip/net/address.h"

namespace starling::net {
namespace {

constexpr Duration patience = std::chrono::seconds(2);

const unsigned char* raw(const void* bytes) { return static_cast<const unsigned char*>(bytes); }

std::string big_endian(std::uint64_t value, int bytes) {
  std::string out;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) out.push_back(static_cast<char>((value >> shift) & 0xff));
  return out;
}

std::string text_of(const CurveKey& key) { return std::string(as_text(key.key)); }

// A box with libzmq's nonces: a text, then the short or long nonce that travels with it.
std::string box(std::string_view plain, std::string_view nonce, const CurveKey& to, const CurveKeyPair& from) {
  std::string out(plain.size() + crypto_box_MACBYTES, '\0');
  const int rc = crypto_box_easy(reinterpret_cast<unsigned char*>(out.data()), raw(plain.data()), plain.size(),
                                 raw(nonce.data()), raw(to.key.data()), raw(from.secret().reveal().data()));
  STARLING_CHECK(rc == 0, "a test seals boxes for real keys");
  return out;
}

std::string open_box(std::string_view sealed, std::string_view nonce, const CurveKey& from, const CurveKeyPair& to) {
  if (sealed.size() < crypto_box_MACBYTES) return {};
  std::string out(sealed.size() - crypto_box_MACBYTES, '\0');
  const int rc = crypto_box_open_easy(reinterpret_cast<unsigned char*>(out.data()), raw(sealed.data()), sealed.size(),
                                      raw(nonce.data()), raw(from.key.data()), raw(to.secret().reveal().data()));
  return rc == 0 ? out : std::string();
}

}  // namespace

RawTcp::RawTcp(const std::string& endpoint, Pump pump) : pump_(std::move(pump)) {
  const auto address = parse_endpoint(endpoint);
  STARLING_CHECK(address, "tests attack endpoints");
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(address->port);
  ::inet_pton(AF_INET, address->host.c_str(), &target.sin_addr);
  const RealClock clock;
  for (const TimePoint end = clock.now() + patience; clock.now() < end; pump_()) {
    fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    // The kernel accepts for a listening socket, whether or not its process runs: this does not wait.
    if (::connect(fd_, reinterpret_cast<const sockaddr*>(&target), sizeof target) == 0) break;
    ::close(std::exchange(fd_, -1));
  }
  STARLING_CHECK(fd_ >= 0, "a door that is attacked is open, or opens again");
  ::fcntl(fd_, F_SETFL, O_NONBLOCK);
}

RawTcp::~RawTcp() { ::close(fd_); }

bool RawTcp::send(ByteView bytes) {
  const RealClock clock;
  TimePoint last = clock.now();
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(n));
      last = clock.now();
      continue;
    }
    if (errno != EAGAIN && errno != EWOULDBLOCK) return false;
    if (clock.now() - last > patience) return false;
    pump_();
  }
  return true;
}

Bytes RawTcp::receive(std::size_t size) {
  const RealClock clock;
  const TimePoint end = clock.now() + patience;
  Bytes out(size);
  std::size_t done = 0;
  while (done < size && clock.now() < end) {
    const ssize_t n = ::recv(fd_, out.data() + done, size - done, 0);
    if (n > 0) done += static_cast<std::size_t>(n);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) break;
    if (n < 0) pump_();
  }
  out.resize(done);
  return out;
}

bool RawTcp::is_closed() {
  char scratch[4096];
  ssize_t n = 0;
  do {
    n = ::recv(fd_, scratch, sizeof scratch, 0);
  } while (n > 0);
  return n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

RawCurveClient::RawCurveClient(const std::string& endpoint, const CurveKeyPair& key, const CurveKey& server,
                               RawTcp::Pump pump, std::map<std::string, std::string> metadata)
    : tcp_(endpoint, std::move(pump)), key_(key.clone()), server_(server), metadata_(std::move(metadata)) {
  metadata_["Socket-Type"] = "DEALER";
}

bool RawCurveClient::send_command(std::string_view body) {
  std::string frame(1, body.size() < 256 ? '\x04' : '\x06');
  frame += big_endian(body.size(), body.size() < 256 ? 1 : 8);
  return tcp_.send(as_bytes(frame + std::string(body)));
}

std::string RawCurveClient::receive_command() {
  const Bytes flags = tcp_.receive(1);
  if (flags.empty()) return {};
  const bool is_long = (flags[0] & std::byte{2}) != std::byte{0};
  std::size_t size = 0;
  for (const std::byte b : tcp_.receive(is_long ? 8 : 1)) size = size * 256 + static_cast<std::size_t>(b);
  return std::string(as_text(tcp_.receive(std::min<std::size_t>(size, 4096))));
}

std::string RawCurveClient::metadata_bytes() const {
  std::string out;
  for (const auto& [name, value] : metadata_) {
    out += static_cast<char>(name.size()) + name + big_endian(value.size(), 4) + value;
  }
  return out;
}

bool RawCurveClient::shake_hands() {
  std::string greeting = std::string("\xff\0\0\0\0\0\0\0\1\x7f\3\0CURVE", 17);
  greeting.resize(64, '\0');
  if (!tcp_.send(as_bytes(greeting)) || tcp_.receive(64).size() != 64) return false;

  const std::string hello_nonce = big_endian(nonce_++, 8);
  if (!send_command("\5HELLO" + std::string("\1\0", 2) + std::string(72, '\0') + text_of(session_.public_key()) +
                    hello_nonce + box(std::string(64, '\0'), "CurveZMQHELLO---" + hello_nonce, server_, session_))) {
    return false;
  }
  const std::string welcome = receive_command();
  if (welcome.size() != 168 || !welcome.starts_with("\7WELCOME")) return false;
  const std::string opened = open_box(welcome.substr(24), "WELCOME-" + welcome.substr(8, 16), server_, session_);
  if (opened.size() != 128) return false;
  std::memcpy(server_session_.key.data(), opened.data(), 32);
  const std::string cookie = opened.substr(32);

  const std::string vouch_nonce(16, '\7');
  const std::string vouch =
      box(text_of(session_.public_key()) + text_of(server_), "VOUCH---" + vouch_nonce, server_session_, key_);
  const std::string nonce = big_endian(nonce_++, 8);
  const std::string plain = text_of(key_.public_key()) + vouch_nonce + vouch + metadata_bytes();
  if (!send_command("\10INITIATE" + cookie + nonce +
                    box(plain, "CurveZMQINITIATE" + nonce, server_session_, session_))) {
    return false;
  }
  return receive_command().starts_with("\5READY");
}

bool RawCurveClient::send(ByteView payload, More more) {
  const std::string nonce = big_endian(nonce_++, 8);
  const std::string plain = static_cast<char>(more) + std::string(as_text(payload));
  const std::string body = "\7MESSAGE" + nonce + box(plain, "CurveZMQMESSAGEC" + nonce, server_session_, session_);
  const std::string frame =
      std::string(1, body.size() < 256 ? '\0' : '\2') + big_endian(body.size(), body.size() < 256 ? 1 : 8) + body;
  return tcp_.send(as_bytes(frame));
}

}  // namespace starling::net
