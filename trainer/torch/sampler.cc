#include "trainer/torch/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace starling::trainer {

std::vector<std::string> SamplingConfig::validate() const {
  std::vector<std::string> problems;
  if (!(temperature >= 0.0) || !std::isfinite(temperature)) {
    problems.push_back(
        fmt::format("temperature: expected a number from 0 (always the likeliest token) up, got {}", temperature));
  }
  if (top_k < 0) problems.push_back(fmt::format("top-k: expected a number of tokens, 0 for all, got {}", top_k));
  if (!(top_p > 0.0) || !(top_p <= 1.0)) {
    problems.push_back(fmt::format("top-p: expected a probability above 0 and at most 1 (all tokens), got {}", top_p));
  }
  return problems;
}

Sampler::Sampler(const SamplingConfig& config) : config_(config), stream_(mix_seed(config.seed, "generate.sample")) {
  STARLING_CHECK(config.validate().empty(), "a configuration that was checked");
}

Result<std::int32_t> Sampler::next(std::span<const float> logits) {
  STARLING_CHECK(!logits.empty(), "logits of a vocabulary");
  const auto wrong = std::ranges::find_if(logits, [](float logit) { return !std::isfinite(logit); });
  if (wrong != logits.end()) {
    return fail(
        ErrorCode::bad_input,
        fmt::format("the model gives token {} a logit of {}: expected finite numbers; its weights have diverged",
                    wrong - logits.begin(), *wrong));
  }
  const auto likeliest = static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin());
  if (config_.temperature == 0.0) return likeliest;

  const double highest = logits[static_cast<std::size_t>(likeliest)];
  candidates_.clear();
  double total = 0.0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double weight = std::exp((static_cast<double>(logits[id]) - highest) / config_.temperature);
    candidates_.push_back({static_cast<std::int32_t>(id), weight});
    total += weight;
  }
  // By logits, not by weights: different logits may have one weight, as all that underflow do.
  const auto before = [&](const Candidate& a, const Candidate& b) {
    const float left = logits[static_cast<std::size_t>(a.id)];
    const float right = logits[static_cast<std::size_t>(b.id)];
    return left != right ? left > right : a.id < b.id;
  };
  auto kept = candidates_.size();
  if (config_.top_k > 0 && static_cast<std::size_t>(config_.top_k) < kept) {
    kept = static_cast<std::size_t>(config_.top_k);
    const auto end = candidates_.begin() + config_.top_k;
    std::nth_element(candidates_.begin(), end - 1, candidates_.end(), before);
    // The order that is left depends on the library; sums and draws must not.
    std::sort(candidates_.begin(), end, before);
    total = 0.0;
    for (auto it = candidates_.begin(); it != end; ++it) total += it->weight;
  }
  if (config_.top_p < 1.0) {
    // The largest come off a heap one by one, as few as are needed: sorting all is slower than a small model.
    const auto first = candidates_.begin();
    const auto end = first + static_cast<std::ptrdiff_t>(kept);
    const auto after = [&](const Candidate& a, const Candidate& b) { return before(b, a); };
    std::make_heap(first, end, after);
    auto heap_end = end;
    double sum = 0.0;
    do {
      std::pop_heap(first, heap_end, after);
      --heap_end;
      sum += heap_end->weight;
    } while (heap_end != first && sum < config_.top_p * total);
    return draw({heap_end, end}, sum);
  }
  return draw({candidates_.data(), kept}, total);
}

std::int32_t Sampler::draw(std::span<const Candidate> candidates, double total) {
  double rest = stream_.uniform() * total;
  for (const Candidate& candidate : candidates) {
    rest -= candidate.weight;
    if (rest < 0.0) return candidate.id;
  }
  return candidates.back().id;  // rounding has left a rest
}

}  // namespace starling::trainer
