#include "gossip/base/large_buffer.h"

#include <sys/mman.h>

#include <cstdint>

namespace starling {

void reserve_large(Bytes& bytes, std::size_t size) {
  constexpr std::uintptr_t page = 2 << 20;
  bytes.reserve(size);
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + size) / page * page;
  // Refused: small pages do as well, only slower.
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace starling
