#include "metrics/tensorboard.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "gossip/base/log.h"

namespace starling::metrics {
namespace {

// ---- protocol buffers: a field is a key, number << 3 | wire type, and a value.

enum class Wire : std::uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, std::uint64_t field, Wire wire) {
  put_varint(out, field << 3 | static_cast<std::uint64_t>(wire));
}

template <typename T>
void put_fixed(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void put_bytes(std::string& out, std::uint64_t field, std::string_view bytes) {
  put_key(out, field, Wire::bytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_integer(std::string& out, std::uint64_t field, std::uint64_t value) {
  put_key(out, field, Wire::varint);
  put_varint(out, value);
}

// Event: wall_time = 1, step = 2; what it is about comes behind.
std::string event_of(double unix_seconds, Step step) {
  std::string out;
  put_key(out, 1, Wire::fixed64);
  put_fixed(out, std::bit_cast<std::uint64_t>(unix_seconds));
  if (step != 0) put_integer(out, 2, static_cast<std::uint64_t>(step));
  return out;
}

std::string version_event(double unix_seconds) {
  std::string out = event_of(unix_seconds, 0);
  put_bytes(out, 3, "brain.Event:2");  // file_version
  return out;
}

std::string start_event(double unix_seconds, Step first_step) {
  std::string session;
  put_integer(session, 1, 1);  // status = START
  std::string out = event_of(unix_seconds, first_step);
  put_bytes(out, 7, session);  // session_log
  return out;
}

std::string summary_event(double unix_seconds, Step step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;
    put_bytes(value, 1, scalar.tag);
    put_key(value, 2, Wire::fixed32);  // simple_value
    put_fixed(value, std::bit_cast<std::uint32_t>(static_cast<float>(scalar.value)));
    put_bytes(summary, 1, value);
  }
  std::string out = event_of(unix_seconds, step);
  put_bytes(out, 5, summary);
  return out;
}

// ---- records

std::uint32_t masked_checksum(std::string_view bytes) {
  const std::uint32_t sum = crc32c(bytes);
  return std::rotr(sum, 15) + 0xa282ead8U;
}

std::string record_of(std::string_view event) {
  std::string out;
  put_fixed(out, std::uint64_t{event.size()});
  put_fixed(out, masked_checksum(out));
  out += event;
  put_fixed(out, masked_checksum(event));
  return out;
}

tl::unexpected<Error> failed(const std::filesystem::path& path, int error) {
  return fail(error == ENOSPC || error == EDQUOT || error == EFBIG ? ErrorCode::disk_full : ErrorCode::io,
              fmt::format("cannot write '{}': {}", path.string(), std::strerror(error)));
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> out{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t sum = i;
      for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ ((sum & 1) != 0 ? 0x82f63b78U : 0U);
      out[i] = sum;
    }
    return out;
  }();
  std::uint32_t sum = ~0U;
  for (const char byte : bytes) sum = (sum >> 8) ^ table[(sum ^ static_cast<std::uint8_t>(byte)) & 0xff];
  return ~sum;
}

Result<TensorBoardFile> TensorBoardFile::create(const std::filesystem::path& folder, double unix_seconds,
                                                Step first_step) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return failed(folder, error.value());
  // Readers take the files of a folder in the order of their names.
  constexpr int most_in_a_second = 1000;
  int fd = -1;
  std::filesystem::path path;
  for (int i = 0; i < most_in_a_second && fd < 0; ++i) {
    path = folder / fmt::format("events.out.tfevents.{:010d}.{:03d}.starling", static_cast<std::int64_t>(unix_seconds), i);
    fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0 && errno != EEXIST) return failed(path, errno);
  }
  if (fd < 0) return failed(path, EEXIST);
  TensorBoardFile out(path, fd);
  if (Status ok = out.append(version_event(unix_seconds)); !ok) return tl::unexpected(ok.error());
  if (Status ok = out.append(start_event(unix_seconds, first_step)); !ok) return tl::unexpected(ok.error());
  return out;
}

TensorBoardFile::~TensorBoardFile() {
  if (fd_ >= 0) ::close(fd_);
}

void TensorBoardFile::add(double unix_seconds, Step step, const std::vector<Scalar>& scalars) {
  if (scalars.empty()) return;
  const Status written = append(summary_event(unix_seconds, step, scalars));
  if (written || std::exchange(said_, true)) return;
  log_warning("{}; what TensorBoard would show is lost until there is room, training goes on", written.error().message);
}

Status TensorBoardFile::append(std::string_view event) {
  const std::string record = record_of(event);
  const off_t before = ::lseek(fd_, 0, SEEK_END);
  std::size_t done = 0;
  while (done < record.size()) {
    const ssize_t written = ::write(fd_, record.data() + done, record.size() - done);
    if (written > 0) {
      done += static_cast<std::size_t>(written);
    } else if (written == 0 || errno != EINTR) {
      const int error = written == 0 ? ENOSPC : errno;
      if (before >= 0 && done > 0 && ::ftruncate(fd_, before) != 0) {
        return fail(ErrorCode::io, fmt::format("'{}' ends with half a record: {}", path_.string(), std::strerror(errno)));
      }
      return failed(path_, error);
    }
  }
  return {};
}

}  // namespace starling::metrics
