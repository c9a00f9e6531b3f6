// SkipPipe's planner: which node holds which stage, and which way each microbatch goes, so that an iteration is short.
//
// Three parts, each handing its best to the next:
//   construction  annealing of whole groups (all microbatches of an originator go the same way) under the rough cost: a
//                 few milliseconds for 20 nodes. That is the first plan.
//   rough         the same, longer and from several draws, each judged once by the clock
//   exact         annealing of single paths and of the placement under the clock (plan_annealer.h), from the best of these
//
// Why so. The group structure is most of the answer and cheap to find: five groups are a far smaller search than thirty
// paths, and the rough cost is thirty times cheaper than the clock. From there, annealing at a low temperature beats a
// longer one from a hot start. A long search is cut into rounds, with groups of another size by turns: a second start finds
// more than twice the steps of one.
//
// The same (instance, seed, evaluations) give the same plan on every machine: there is no clock here, and chance comes from
// the seed. improve() may be called in slices of any size and be stopped between them; the best plan so far stands.
//
// Source: the problem is SkipPipe's (arXiv 2502.19913, sections 3 and 4), whose solver fixes the placement by a surrogate
// and then searches paths without collisions, in minutes; annealing both together under one clock is ours.
//
// Pure. One planner is used by one thread; independent ones with seeds of their own may run beside each other.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "gossip/base/random.h"
#include "pipeline/plan_annealer.h"
#include "pipeline/plan_instance.h"
#include "pipeline/plan_layout.h"
#include "pipeline/plan_rough.h"

namespace starling::pipeline {

// Annealing under the rough cost, of groups of microbatches that go the same way.
class PlanConstruction {
 public:
  // `group`: how many microbatches of an originator go the same way; a divisor of microbatches_per_originator.
  PlanConstruction(const PlanInstance& instance, int group, std::uint64_t steps, Stream& random);
  PlanConstruction(const PlanConstruction&) = delete;
  PlanConstruction& operator=(const PlanConstruction&) = delete;
  bool done() const { return done_ >= steps_; }
  void step(Stream& random);
  // The layout of the whole instance that came out.
  PlanLayout result(const PlanInstance& instance) const;

 private:
  int times_;             // microbatches in a group
  PlanInstance grouped_;  // the instance with groups for microbatches
  PlanLayout layout_;
  RoughCost rough_;
  double cost_ = 0.0;
  double scale_ = 0.0;  // of temperatures
  std::uint64_t steps_;
  std::uint64_t done_ = 0;
};

// Evaluations that fit into `seconds` of one core by a fixed price per job, which an idle 2.5 GHz Xeon beats: so a budget of
// time is a count, and the same plan everywhere.
std::uint64_t affordable_evaluations(const PlanInstance& instance, double seconds);

class Planner {
 public:
  // Makes the first plan. `evaluations`: how often the clock may be asked; the schedule is cut to that.
  // REQUIRES: a valid instance that outlives the planner.
  Planner(const PlanInstance& instance, std::uint64_t seed, std::uint64_t evaluations);
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  enum class Progress { going_on, done };
  // Up to about `evaluations` more (rough steps count as the share of one that they cost).
  Progress improve(std::uint64_t evaluations);

  const SkipPlan& best() const { return annealer_.best(); }
  double best_seconds() const { return annealer_.best_seconds(); }
  double first_seconds() const { return first_seconds_; }
  std::uint64_t evaluations_done() const { return done_; }

 private:
  void begin_round();
  void rough_chunk();
  void judge(PlanLayout layout);
  void begin_exact();

  const PlanInstance& instance_;
  Stream random_;
  std::uint64_t evaluations_;
  std::uint64_t done_ = 0;
  std::vector<int> groups_;  // sizes, by turns
  std::size_t round_ = 0;
  PlanAnnealer annealer_;
  double first_seconds_ = 0.0;

  std::uint64_t round_end_ = 0;    // in evaluations done, as the next two
  std::uint64_t rough_end_ = 0;    // constructions until then
  std::uint64_t exact_begin_ = 0;  // annealing under the clock since then
  std::optional<PlanConstruction> construction_;
  std::optional<PlanLayout> start_;  // the best construction of this round
  double start_seconds_ = 0.0;
};

}  // namespace starling::pipeline
