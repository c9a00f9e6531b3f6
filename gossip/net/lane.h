// The three lanes between nodes: what may be on each, and where a node listens.
//
// A lane is a kind of socket with its own limits, so that a heartbeat never waits behind an activation and a stranger
// never reaches a decoder of members. No I/O here: records, codecs and deciders use these words without seeing the
// transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace starling::net {

enum class Lane : std::uint8_t { control, bulk, lobby };

inline constexpr std::size_t max_control_frame_bytes = 64 << 10;
inline constexpr std::size_t max_bulk_frame_bytes = 256 << 10;
// Below the frame limit by more than the chunk header: CURVE adds its own bytes, and a frame beyond the limit makes the
// connection vanish without a word.
inline constexpr std::size_t max_chunk_payload_bytes = 252 << 10;
inline constexpr std::size_t max_lobby_request_bytes = 4 << 10;
inline constexpr std::size_t max_lobby_answer_bytes = 64 << 10;

// Where a node listens: "tcp://host:port" per lane.
struct Endpoints {
  std::string control;
  std::string bulk;
  std::string lobby;
  bool operator==(const Endpoints&) const = default;
};

}  // namespace starling::net
