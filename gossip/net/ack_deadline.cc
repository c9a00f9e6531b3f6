#include "gossip/net/ack_deadline.h"

#include <algorithm>

#include "gossip/base/error.h"

namespace starling::net {
namespace {

using std::chrono::milliseconds;

constexpr Duration margin = milliseconds(50);
constexpr Duration before_first_sample = milliseconds(2000);
constexpr double growth = 1.5;
constexpr double max_backoff = 64.0;

}  // namespace

void Quantile90::add(Duration sample) {
  samples_[next_] = sample;
  next_ = (next_ + 1) % samples_.size();
  count_ = std::min(count_ + 1, samples_.size());

  // Once per sample, so that the many who ask between two samples pay nothing.
  std::array<Duration, 64> sorted = samples_;
  const std::size_t rank = (9 * count_ + 9) / 10;  // ceil(0.9 count), 1-based
  const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(sorted.begin(), nth, sorted.begin() + static_cast<std::ptrdiff_t>(count_));
  value_ = *nth;
}

Duration Quantile90::value() const {
  STARLING_CHECK(!empty(), "there is no quantile of nothing");
  return value_;
}

Duration AckDeadline::deadline() const {
  const Duration base = samples_.empty() ? before_first_sample : 2 * samples_.value() + margin;
  return scale(base, backoff_);
}

void AckDeadline::answered(Duration took) {
  samples_.add(std::max(took, Duration::zero()));
  backoff_ = 1.0;
}

void AckDeadline::timed_out() { backoff_ = std::min(backoff_ * growth, max_backoff); }

}  // namespace starling::net
