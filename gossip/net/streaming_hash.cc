#include "gossip/net/streaming_hash.h"

#include <xxhash.h>

namespace starling::net {

StreamingHash::StreamingHash() : state_(XXH3_createState()) {
  STARLING_CHECK(state_ != nullptr, "no memory for a hash");
  XXH3_128bits_reset(state_.get());
}

void StreamingHash::add(ByteView bytes) { XXH3_128bits_update(state_.get(), bytes.data(), bytes.size()); }

Hash128 StreamingHash::value() const {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_.get()));
  Hash128 out;
  std::memcpy(out.data(), canonical.digest, out.size());
  return out;
}

void StreamingHash::Free::operator()(XXH3_state_s* state) const { XXH3_freeState(state); }

}  // namespace starling::net
