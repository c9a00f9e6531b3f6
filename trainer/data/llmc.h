// The header of llm.c's shards: 256 little-endian int32, of which three mean something: magic, version, number of tokens.
#pragma once

#include <cstddef>
#include <cstdint>

namespace starling::trainer::llmc {

inline constexpr std::size_t header_bytes = 256 * sizeof(std::int32_t);
inline constexpr std::int32_t magic_16 = 20240520;  // uint16 ids (GPT-2)
inline constexpr std::int32_t version_16 = 1;
inline constexpr std::int32_t magic_32 = 20240801;  // uint32 ids (Llama 3)
inline constexpr std::int32_t version_32 = 7;

}  // namespace starling::trainer::llmc
