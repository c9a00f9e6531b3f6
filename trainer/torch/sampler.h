// Which token follows, given the logits. Torch-free.
//
// As in transformers, in this order: logits / temperature; the top_k largest stay; of these the fewest that together have a
// probability of top_p stay (nucleus sampling, arXiv 1904.09751); one is drawn. Of equal logits the lower id counts as the
// larger, so nothing depends on how a library sorts.
//
// A draw is a pure function of (seed, number of the draw, logits).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/random.h"

namespace starling::trainer {

struct SamplingConfig {
  double temperature = 0.8;  // 0: always the likeliest token
  std::int64_t top_k = 0;    // 0: all
  double top_p = 1.0;        // 1: all
  std::uint64_t seed = 0;

  // Every problem, as "key: what was expected, what came".
  std::vector<std::string> validate() const;
};

class Sampler {
 public:
  // REQUIRES: config.validate() finds nothing.
  explicit Sampler(const SamplingConfig& config);

  // The id of the next token. REQUIRES: logits are not empty. Errors: bad_input: a logit that is not finite.
  Result<std::int32_t> next(std::span<const float> logits);

 private:
  struct Candidate {
    std::int32_t id = 0;
    double weight = 0.0;  // its probability times a constant
  };
  std::int32_t draw(std::span<const Candidate> candidates, double total);

  SamplingConfig config_;
  Stream stream_;
  std::vector<Candidate> candidates_;
};

}  // namespace starling::trainer
