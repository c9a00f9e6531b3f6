// The section outer of the run file: how replicas of a stage average.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/ids.h"

namespace starling::outer {

enum class Algorithm { noloco, diloco, none };
enum class Compression { none, bf16 };
std::string_view to_string(Algorithm algorithm);

struct OuterConfig {
  Algorithm algorithm = Algorithm::noloco;
  std::int64_t local_steps = 50;
  std::int64_t group_size = 2;
  double lr = 0.7;                   // beta
  double momentum = 0.5;             // alpha
  std::optional<double> gamma;       // unset: equal to lr
  Compression compression = Compression::bf16;

  double effective_gamma() const { return gamma.value_or(lr); }
  // Every problem as a sentence. For a pair the update is stable when alpha < gamma < sqrt(2 + alpha^2)
  // (NoLoCo, arXiv 2506.10911); outside of that is an error.
  std::vector<std::string> validate() const;
  // The round that step k belongs to. With `none` there are no rounds, but counting goes on.
  Round round_of(Step step) const { return (step - 1) / local_steps + 1; }
  bool ends_round(Step step) const { return step % local_steps == 0; }
};

}  // namespace starling::outer
