#include "pipeline/plan_repair.h"

#include <algorithm>
#include <numeric>

#include "gossip/base/random.h"
#include "pipeline/plan_annealer.h"
#include "pipeline/plan_layout.h"

namespace starling::pipeline {
namespace {

// A changed path must save this share of the iteration.
constexpr double price_share = 0.002;
constexpr double hot = 0.002;
constexpr double cold = 0.0;
constexpr int nobody = -1;

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Visits per stage, in microbatches.
std::vector<int> visits_of(const PlanInstance& instance, const SkipPlan& plan) {
  const std::vector<int> stage_of = stage_of_nodes(instance, plan);
  std::vector<int> out(plan.stages.size(), 0);
  for (const PlannedPath& path : plan.paths) {
    for (const int hop : path.hops) ++out[at(stage_of[at(hop)])];
  }
  return out;
}

Result<ChangedInstance> checked(ChangedInstance changed) {
  if (Status status = changed.instance.validate(); !status) return tl::unexpected(status.error());
  return changed;
}

void check_node(const PlanInstance& instance, int node) {
  STARLING_CHECK(node >= 0 && node < instance.nodes, "what changes is a node of the instance");
}

}  // namespace

Result<ChangedInstance> node_died(const PlanInstance& instance, const SkipPlan& plan, int node) {
  check_node(instance, node);
  ChangedInstance out;
  for (int n = 0; n < instance.nodes; ++n) {
    if (n != node) out.before.push_back(n);
  }
  PlanInstance& now = out.instance;
  now = instance;
  now.nodes = instance.nodes - 1;
  now.delays.clear();
  now.forward_seconds.clear();
  now.memory.clear();
  for (const int a : out.before) {
    for (const int b : out.before) now.delays.push_back(instance.delay(a, b));
    now.forward_seconds.push_back(instance.forward_seconds[at(a)]);
    now.memory.push_back(instance.memory[at(a)]);
  }
  const int stage = stage_of_nodes(instance, plan)[at(node)];
  if (!now.stage_sizes.empty() && --now.stage_sizes[at(stage)] == 0) {
    // The largest gives one, and stage 0 only where no other can: it would take its microbatches along.
    auto& sizes = now.stage_sizes;
    const auto middle = std::max_element(sizes.begin() + 1, sizes.end());
    --(*middle > 1 ? *middle : sizes[0]);
    ++sizes[at(stage)];
  }
  // With free sizes every other stage must still get a node.
  const int most = std::max(1, now.nodes - now.stages + 1);
  const int left = std::clamp(instance.originators - static_cast<int>(stage == 0), 1, most);
  now.originators = now.stage_sizes.empty() ? left : now.stage_sizes[0];
  return checked(std::move(out));
}

Result<ChangedInstance> node_joined(const PlanInstance& instance, const SkipPlan& plan, std::span<const double> to,
                                    std::span<const double> from, double forward_seconds, int memory) {
  if (to.size() != at(instance.nodes) || from.size() != at(instance.nodes)) {
    return fail(ErrorCode::bad_config, "a node that joins needs a delay to and from each of the others");
  }
  ChangedInstance out{instance, std::vector<int>(at(instance.nodes))};
  std::iota(out.before.begin(), out.before.end(), 0);
  out.before.push_back(nobody);
  PlanInstance& now = out.instance;
  now.nodes = instance.nodes + 1;
  now.delays.clear();
  for (int a = 0; a < instance.nodes; ++a) {
    for (int b = 0; b < instance.nodes; ++b) now.delays.push_back(instance.delay(a, b));
    now.delays.push_back(from[at(a)]);
  }
  now.delays.insert(now.delays.end(), to.begin(), to.end());
  now.delays.push_back(0.0);
  now.forward_seconds.push_back(forward_seconds);
  now.memory.push_back(memory);
  if (!now.stage_sizes.empty()) {
    const std::vector<int> visits = visits_of(instance, plan);
    int neediest = 1;
    for (int s = 2; s < instance.stages; ++s) {
      if (visits[at(s)] * now.stage_sizes[at(neediest)] > visits[at(neediest)] * now.stage_sizes[at(s)]) neediest = s;
    }
    ++now.stage_sizes[at(neediest)];
  }
  return checked(std::move(out));
}

Result<ChangedInstance> speed_changed(const PlanInstance& instance, int node, double forward_seconds) {
  check_node(instance, node);
  ChangedInstance out{instance, std::vector<int>(at(instance.nodes))};
  std::iota(out.before.begin(), out.before.end(), 0);
  out.instance.forward_seconds[at(node)] = forward_seconds;
  return checked(std::move(out));
}

namespace {

// Carries an old plan over to the changed instance.
class Repair {
 public:
  Repair(const SkipPlan& old, const ChangedInstance& changed) : instance_(changed.instance), before_(changed.before) {
    std::size_t old_nodes = 0;
    for (const auto& nodes : old.stages) old_nodes += nodes.size();
    after_.assign(old_nodes, nobody);
    for (std::size_t n = 0; n < before_.size(); ++n) {
      if (before_[n] != nobody) after_[at(before_[n])] = static_cast<int>(n);
    }
    old_stage_.assign(after_.size(), 0);
    for (std::size_t s = 0; s < old.stages.size(); ++s) {
      for (const int node : old.stages[s]) old_stage_[at(node)] = static_cast<int>(s);
    }
    for (const PlannedPath& path : old.paths) {
      PlannedPath carried{after_[at(path.originator)], {}, path.start};
      std::vector<int> stages;
      for (const int hop : path.hops) {
        carried.hops.push_back(after_[at(hop)]);
        stages.push_back(old_stage_[at(hop)]);
      }
      old_paths_.push_back(std::move(carried));
      old_path_stages_.push_back(std::move(stages));
    }
  }

  SkipPlan plan() {
    uses_.assign(before_.size(), 0);
    for (const PlannedPath& path : old_paths_) {
      for (const int hop : path.hops) uses_[at(std::max(hop, 0))] += static_cast<int>(hop != nobody);
    }
    place();
    choose_paths();
    for (std::size_t i = 0; i < plan_.paths.size(); ++i) mend(plan_.paths[i], path_stages_[i]);
    for (auto& nodes : plan_.stages) std::sort(nodes.begin(), nodes.end());
    return plan_;
  }

  // Valid after plan(): the old paths under the new numbers, for the microbatches of the new plan; -1: gone, or new.
  const SkipPlan& anchor() const { return anchor_; }

  int placements_changed(const SkipPlan& plan) const {
    const std::vector<int> stage_of = stage_of_nodes(instance_, plan);
    int out = 0;
    for (std::size_t n = 0; n < before_.size(); ++n) {
      out += static_cast<int>(before_[n] != nobody && stage_of[n] != old_stage_[at(before_[n])]);
    }
    return out;
  }

 private:
  // How many nodes a stage lacks (or has too many: negative).
  int lacks(std::size_t stage) const {
    const auto has = static_cast<int>(plan_.stages[stage].size());
    if (!instance_.stage_sizes.empty()) return instance_.stage_sizes[stage] - has;
    if (stage == 0) return instance_.originators - has;
    return has == 0 ? 1 : 0;
  }

  // The node of the stage that the fewest paths use.
  std::vector<int>::iterator least_used(std::size_t stage) {
    auto& nodes = plan_.stages[stage];
    return std::min_element(nodes.begin(), nodes.end(), [this](int a, int b) { return uses_[at(a)] < uses_[at(b)]; });
  }

  int take(std::size_t stage) {
    const auto node = least_used(stage);
    const int out = *node;
    plan_.stages[stage].erase(node);
    return out;
  }

  void place() {
    plan_.stages.assign(at(instance_.stages), {});
    std::vector<int> spare;
    for (std::size_t n = 0; n < before_.size(); ++n) {
      if (before_[n] == nobody) {
        spare.push_back(static_cast<int>(n));
      } else {
        plan_.stages[at(old_stage_[at(before_[n])])].push_back(static_cast<int>(n));
      }
    }
    for (std::size_t s = 0; s < plan_.stages.size(); ++s) {
      while (lacks(s) < 0) spare.push_back(take(s));
    }
    for (std::size_t s = 0; s < plan_.stages.size(); ++s) {
      while (lacks(s) > 0) {
        plan_.stages[s].push_back(spare.empty() ? take(giver(s)) : spare.back());
        if (!spare.empty()) spare.pop_back();
      }
    }
    // Sizes are free, and somebody is left: where most microbatches come to a node.
    for (const int node : spare) plan_.stages[neediest()].push_back(node);
  }

  // Who gives a node to a stage that lacks one although nobody is spare: sizes are free then.
  std::size_t giver(std::size_t stage) const {
    std::size_t out = stage == 1 ? 2 : 1;
    for (std::size_t s = 1; s < plan_.stages.size(); ++s) {
      if (s != stage && plan_.stages[s].size() > plan_.stages[out].size()) out = s;
    }
    return out;
  }

  std::size_t neediest() const {
    std::vector<double> visits(plan_.stages.size(), 0.0);
    for (const auto& stages : old_path_stages_) {
      for (const int stage : stages) visits[at(stage)] += 1.0;
    }
    std::size_t out = 1;
    const auto need = [&](std::size_t s) { return visits[s] / static_cast<double>(plan_.stages[s].size()); };
    for (std::size_t s = 2; s < plan_.stages.size(); ++s) {
      if (need(s) > need(out)) out = s;
    }
    return out;
  }

  // Every originator keeps its microbatches; those that have too few get what the dead left, then copies.
  void choose_paths() {
    std::vector<std::size_t> orphans;
    std::vector<int> started(before_.size(), 0);
    std::vector<char> originates(before_.size(), 0);
    for (const int node : plan_.stages[0]) originates[at(node)] = 1;
    for (std::size_t i = 0; i < old_paths_.size(); ++i) {
      const int originator = old_paths_[i].originator;
      if (originator == nobody || originates[at(originator)] == 0) {
        orphans.push_back(i);
      } else {
        add_path(i, originator, old_paths_[i]);
        ++started[at(originator)];
      }
    }
    const PlannedPath none{nobody, std::vector<int>(at(instance_.path_length - 1), nobody), 0.0};
    std::size_t copied = 0;
    for (const int node : plan_.stages[0]) {
      for (; started[at(node)] < instance_.microbatches_per_originator; ++started[at(node)]) {
        if (orphans.empty()) {
          add_path(copied++ % old_paths_.size(), node, none);
        } else {
          add_path(orphans.back(), node, old_paths_[orphans.back()]);
          orphans.pop_back();
        }
      }
    }
  }

  void add_path(std::size_t like, int originator, const PlannedPath& anchor) {
    plan_.paths.push_back(old_paths_[like]);
    plan_.paths.back().originator = originator;
    path_stages_.push_back(old_path_stages_[like]);
    anchor_.paths.push_back(anchor);
  }

  // Hops that are gone, or hold another stage now, go to another node of the stage.
  void mend(PlannedPath& path, const std::vector<int>& stages) {
    for (std::size_t k = 0; k < path.hops.size(); ++k) {
      const auto& nodes = plan_.stages[at(stages[k])];
      if (std::find(nodes.begin(), nodes.end(), path.hops[k]) != nodes.end()) continue;
      const int from = k == 0 ? path.originator : path.hops[k - 1];
      const auto cost = [&](int n) {
        return instance_.delay(from, n) +
               2.5 * instance_.forward_seconds[at(n)] * uses_[at(n)] / instance_.memory[at(n)];
      };
      path.hops[k] = *std::min_element(nodes.begin(), nodes.end(), [&](int a, int b) { return cost(a) < cost(b); });
      ++uses_[at(path.hops[k])];
    }
  }

  const PlanInstance& instance_;
  const std::vector<int>& before_;
  std::vector<int> after_;  // by old number; -1: gone
  std::vector<int> old_stage_;
  std::vector<PlannedPath> old_paths_;  // under the new numbers
  std::vector<std::vector<int>> old_path_stages_;
  std::vector<int> uses_;  // per node: paths that go through it

  SkipPlan plan_;
  SkipPlan anchor_;
  std::vector<std::vector<int>> path_stages_;
};

}  // namespace

RepairedPlan repair_plan(const SkipPlan& old, const ChangedInstance& changed, std::uint64_t seed,
                         std::uint64_t evaluations) {
  const PlanInstance& instance = changed.instance;
  STARLING_CHECK(old.stages.size() == at(instance.stages), "a repair keeps the number of stages");
  STARLING_CHECK(!old.paths.empty() && old.paths[0].hops.size() + 1 == at(instance.path_length),
                 "a repair keeps the path length");
  Repair repair(old, changed);
  PlanLayout layout(instance);
  layout.set(repair.plan());
  layout.even_out();
  PlanAnnealer annealer(instance, PlanAnnealer::Placement::kept);
  annealer.start_from(layout);
  const double scale = annealer.seconds();
  annealer.set_anchor(repair.anchor(), price_share * scale);
  annealer.start_from(layout);
  Stream random(mix_seed(seed, "plan repair"));
  for (std::uint64_t k = 0; k < evaluations; ++k) {
    const double progress = static_cast<double>(k) / static_cast<double>(evaluations);
    annealer.step(scale * temperature_at(progress, hot, cold), random);
  }
  return {annealer.best(), annealer.best_seconds(), annealer.best_changes(),
          repair.placements_changed(annealer.best())};
}

}  // namespace starling::pipeline
