#include "trainer/worker/simulated_compute.h"

#include <gtest/gtest.h>

#include <deque>
#include <memory>
#include <utility>

#include "tests/trainer/worker/compute_conformance.h"

namespace starling::trainer {
namespace {

class SimulatedHarness final : public ComputeHarness {
 public:
  SimulatedHarness()
      : device_(scheduler_, {.seed = 3}, Stream(1),
                [this](Completion completion) { ready_.push_back(std::move(completion)); }) {}

  Compute& device() override { return device_; }
  Completion next() override {
    while (ready_.empty()) scheduler_.run_one();
    Completion out = std::move(ready_.front());
    ready_.pop_front();
    return out;
  }

 private:
  sim::Scheduler scheduler_;
  std::deque<Completion> ready_;
  SimulatedCompute device_;
};

INSTANTIATE_TEST_SUITE_P(SimulatedCompute, ComputeConformance,
                         testing::Values(ConformanceParam{"SimulatedCompute",
                                                          [] { return std::make_unique<SimulatedHarness>(); }}));

}  // namespace
}  // namespace starling::trainer
