// How long to wait for an acknowledgement, learned from how long they took.
//
// deadline = (2 x q90 of the last 64 samples + 50 ms) x b per peer and lane. Late answers are samples too: learning from
// successes only makes deadlines shrink until a healthy run re-routes itself to death. b grows by 1.5 per time-out up to
// 64 and is 1 again on any answer; before the first sample the deadline is 2 s x b.
#pragma once

#include <array>
#include <cstddef>
#include <map>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"

namespace starling::net {

// The last 64 durations and their 0.9 quantile (nearest rank).
class Quantile90 {
 public:
  void add(Duration sample);
  bool empty() const { return count_ == 0; }
  // REQUIRES: !empty().
  Duration value() const;

 private:
  std::array<Duration, 64> samples_{};
  std::size_t count_ = 0;
  std::size_t next_ = 0;
  Duration value_{};
};

class AckDeadline {
 public:
  // How long to wait for the next answer.
  Duration deadline() const;
  void answered(Duration took);
  void timed_out();

 private:
  Quantile90 samples_;
  double backoff_ = 1.0;
};

// One deadline for many things that wait for the same peer: those that run out together are one time-out, not one each.
class SharedDeadline {
 public:
  Duration deadline() const { return ack_.deadline(); }
  void answered(Duration took) { ack_.answered(took); }
  void timed_out(TimePoint now) {
    if (now < grown_until_) return;
    ack_.timed_out();
    grown_until_ = now + ack_.deadline();
  }

 private:
  AckDeadline ack_;
  TimePoint grown_until_{};
};

}  // namespace starling::net
