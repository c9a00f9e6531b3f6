// One StageStep at a middle worker (11, stage 1) or at an originator (1, stage 0), driven by hand.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "pipeline/stage_step.h"
#include "tests/pipeline/small_swarm.h"

namespace starling::pipeline {

struct StageBench {
  static constexpr std::int64_t tokens = 32;       // of a microbatch
  static constexpr std::int64_t kept_bytes = 100;

  explicit StageBench(int self, StageStep::Config config = {}) : swarm(two_originators()), now(at(std::chrono::seconds(100))),
        stage_step([&] {
          config.self = id_of(self);
          if (config.last_step == 0) config.last_step = 1000;
          if (config.memory_bytes == 0) config.memory_bytes = 100 * kept_bytes;
          return config;
        }(), now) {
    on(StageStep::Adopted{.step = 1, .stage = self < 10 ? 0 : 1, .kept_bytes = kept_bytes});
  }

  static membership::Swarm two_originators() {
    membership::Swarm swarm;
    add_worker(swarm, 1, 0, 0);
    add_worker(swarm, 2, 0, 0);
    add_worker(swarm, 11, 1);
    return swarm;
  }

  std::vector<StageStep::Action> on(const StageStep::Event& event = StageStep::Tick{}) {
    return stage_step.on(event, swarm, now);
  }
  // Originator `number` has closed `step`.
  std::vector<StageStep::Action> done(int number, Step step) {
    swarm.peers[id_of(number)].done = step;
    return on(StageStep::SwarmChanged{});
  }
  MicrobatchHeader header(const MicrobatchId& id, Direction direction = Direction::forward, Purpose purpose = Purpose::train) {
    MicrobatchHeader out;
    out.id = id;
    out.direction = direction;
    out.purpose = purpose;
    out.stage = stage();
    out.give_up_age = std::chrono::seconds(60);
    return out;
  }
  Stage stage() const { return stage_; }
  std::vector<StageStep::Action> offer(const MicrobatchHeader& h, int from = 1) {
    return on(StageStep::Offered{id_of(from), next_transfer(), h});
  }
  std::optional<net::RefuseCode> refusal(const MicrobatchHeader& h, int from = 1) {
    const auto refused = first<StageStep::Refuse>(offer(h, from));
    return refused ? std::optional(refused->code) : std::nullopt;
  }
  // Offered, taken and arrived.
  std::vector<StageStep::Action> arrive(const MicrobatchHeader& h, int from = 1) {
    EXPECT_TRUE(has<StageStep::Take>(offer(h, from)));
    return on(StageStep::Arrived{id_of(from), transfer_, h});
  }
  // The device takes the next work and answers.
  std::vector<StageStep::Action> compute(Work expected, double took = 0.1) {
    const auto next = stage_step.next_work();
    EXPECT_TRUE(next.has_value());
    if (!next) return {};
    EXPECT_EQ(static_cast<int>(next->work), static_cast<int>(expected));
    return computed(*next, next->work, took);
  }
  std::vector<StageStep::Action> computed(const StageStep::NextWork& job, Work work, double took = 0.1, bool good = true) {
    const MicrobatchHeader& h = job.header;
    const bool adds = h.purpose == Purpose::train && (work == Work::loss || work == Work::backward);
    return on(StageStep::Computed{h.id, job.visit, work, h.purpose, adds ? tokens : 0, took, good});
  }
  // Closes steps of a second each, so that tau is 1 s: its first sample is step 2, as step 1 began before the others came.
  void steps_of_a_second(Step upto) {
    while (stage_step.step() < upto) {
      const Step k = stage_step.step();
      now += std::chrono::seconds(1);
      if (stage_ == 0) {
        on(StageStep::ShareStarted{k});
        swarm.peers[id_of(1)].done = k;
      } else {
        done(1, k);
      }
      done(2, k);
      ASSERT_EQ(stage_step.step(), k + 1);
    }
  }
  // The whole stay of one microbatch at a middle worker.
  std::vector<StageStep::Action> pass_through(const MicrobatchId& id) {
    arrive(header(id));
    compute(Work::forward);
    arrive(header(id, Direction::backward));
    return compute(Work::backward);
  }
  // At an originator, with nobody else on its path: begun, lost and backward here.
  std::vector<StageStep::Action> own_round_trip(const MicrobatchId& id) {
    on(StageStep::Started{header(id)});
    compute(Work::begin);
    on(StageStep::HereAlready{id, Direction::forward});
    compute(Work::loss);
    on(StageStep::HereAlready{id, Direction::backward});
    return compute(Work::backward);
  }
  TransferId next_transfer() { return transfer_ = {id_of(1), 1, ++transfers_}; }

  membership::Swarm swarm;
  TimePoint now;
  StageStep stage_step;
  TransferId transfer_;
  std::uint64_t transfers_ = 0;
  Stage stage_ = 1;
};

struct MiddleBench : StageBench {
  explicit MiddleBench(StageStep::Config config = {}) : StageBench(11, config) {}
};
struct OriginatorBench : StageBench {
  explicit OriginatorBench(StageStep::Config config = {}) : StageBench(1, config) { stage_ = 0; }
};

}  // namespace starling::pipeline
