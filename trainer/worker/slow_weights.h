// The outer half of a stage's state: slow weights phi, outer momentum, and the delta of the round's snapshot; and how flat
// arrays become bytes and come back. Torch-free: the real device and the simulated one share it, so that an exchange means
// the same in both.
//
// Legend: N parameters of the stage; theta [N] are the weights now. Bytes of others are hostile: every reader checks size
// and finiteness before anything changes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/worker/compute.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

std::size_t encoded_bytes(std::int64_t values, Encoding encoding);
Buffer encode_values(std::span<const float> values, Encoding encoding);
// Errors of all: bad_input, saying what was expected: another number of bytes, or (not check_size) a value that is not finite.
Status check_size(std::size_t bytes, Encoding encoding, std::int64_t values);
Status decode_values(ByteView bytes, Encoding encoding, std::span<float> out);
Result<std::vector<float>> decode_part(const EncodedPart& part, std::int64_t values);

bool all_finite(std::span<const float> values);
bool all_finite(ByteView bytes, Encoding encoding);

class SlowWeights {
 public:
  // No snapshot. `momentum`: of the outer step, as long as phi; empty: zero.
  explicit SlowWeights(std::vector<float> phi, std::vector<float> momentum = {});

  std::span<const float> phi() const { return phi_; }
  std::span<const float> momentum() const { return momentum_; }

  // phi, then delta = theta - phi; the delta is kept for this round's outer step.
  Buffer snapshot(std::span<const float> theta, Encoding encoding);
  void drop_snapshot() { snapshot_delta_.reset(); }
  // Moves phi and drops the snapshot; the caller then sets theta = phi.
  OuterStepped outer_step(std::span<const float> theta, const OuterStep& job);

 private:
  // Of weights that have diverged: zero, so that neither phi nor a partner takes them over.
  std::vector<float> delta_of(std::span<const float> theta) const;

  std::vector<float> phi_;
  std::vector<float> momentum_;
  std::optional<std::vector<float>> snapshot_delta_;
};

// CheckFree (arXiv 2506.15461): a lost middle stage as the weighted mean of its neighbours, block j of block j; where a
// neighbour has fewer blocks its last one stands for the missing. `right` null: a copy of `left`.
// Errors: bad_input (see decode_values; a stage 0, which no neighbour resembles; a weight outside [0, 1]).
Result<std::vector<float>> average_of_neighbours(const ModelConfig& model, const std::vector<StageLayers>& cut,
                                                 const LoadFromNeighbours& job);

}  // namespace starling::trainer
