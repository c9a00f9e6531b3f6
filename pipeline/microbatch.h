// Words that the deciders of this folder share.
#pragma once

#include <cstdint>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/wire.h"

namespace starling::pipeline {

using net::Direction;
using net::Hop;
using net::MicrobatchHeader;
using net::Purpose;

// What a microbatch asks of one worker's device. A middle stage does forward and backward; its originator begins it,
// computes its loss when it is home, and does the last backward pass.
enum class Work : std::uint8_t { begin, forward, loss, backward };

// Why a stage was left out of a path.
enum class SkipReason : std::uint8_t { timeout, dead };

}  // namespace starling::pipeline
