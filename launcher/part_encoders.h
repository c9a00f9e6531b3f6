// Encodes parts of a corpus side by side.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/corpus_reader.h"
#include "trainer/data/tokenizer.h"

namespace starling::launcher {

class PartEncoders {
 public:
  // REQUIRES: the tokenizer outlives this; threads >= 1.
  PartEncoders(const trainer::Tokenizer& tokenizer, trainer::CorpusShape shape, trainer::SpecialNames names,
               int threads);
  int threads() const { return static_cast<int>(encoders_.size()); }

  // The ids of each part, in their order. `meanwhile` runs on this thread while others encode.
  std::vector<Result<trainer::TokenIds>> encode(std::span<const trainer::CorpusPart> parts,
                                                const std::function<void()>& meanwhile);

 private:
  const trainer::Tokenizer& tokenizer_;
  trainer::CorpusShape shape_;
  trainer::SpecialNames names_;
  std::vector<std::unique_ptr<trainer::Encoder>> encoders_;  // each remembers its words
};

}  // namespace starling::launcher
