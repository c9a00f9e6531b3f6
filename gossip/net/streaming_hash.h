// XXH3-128 over bytes as they come, equal to xxh3_128 of all of them: a buffer of hundreds of megabytes is never hashed in
// one go, which would hold up the loop.
#pragma once

#include <memory>

#include "gossip/base/bytes.h"

struct XXH3_state_s;

namespace starling::net {

class StreamingHash {
 public:
  StreamingHash();
  void add(ByteView bytes);
  Hash128 value() const;

 private:
  struct Free {
    void operator()(XXH3_state_s* state) const;
  };
  std::unique_ptr<XXH3_state_s, Free> state_;
};

}  // namespace starling::net
