// A plan while it is searched for: the placement and all paths in flat arrays, and the small changes ("moves") that lead
// from one plan that obeys the rules to another that does.
//
// A move is proposed, its cost is looked at from outside, and then it is accepted or reverted; `changed()` says which
// paths to look at. The moves, and why these:
//   swap_nodes        two nodes of different stages change places, in the placement and in every path: the one move that
//                     changes the placement and leaves the stages of every path as they are
//   move_node         a node goes to another stage, others of its stage take its hops over (free stage sizes only)
//   change_hop        another node of the same stage
//   exchange_hops     two paths trade their nodes of one stage: no node gets more or less to do
//   trade_stages      one path visits t instead of s, another s instead of t: the use of stages stays even
//   swap_order        two stages of a path in the other order: one of the two allowed steps back
//   shift_start       a microbatch starts later, or at once
//   swap_originators  two paths trade their originators
//   change_group      all paths of one originator go to another node of a stage together
// Where a path is sorted, it goes up through the stages; a plan of such paths cannot lock up.
//
// Pure: chance comes from the Stream that is handed in.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gossip/base/random.h"
#include "pipeline/plan_instance.h"

namespace starling::pipeline {

class PlanLayout {
 public:
  enum class Move {
    swap_nodes,
    move_node,
    change_hop,
    exchange_hops,
    trade_stages,
    swap_order,
    shift_start,
    swap_originators,
    change_group
  };

  // What a move begins with, when somebody knows where the trouble is.
  struct Hint {
    int microbatch = -1;  // -1: any
    int node = -1;
  };

  // REQUIRES: a valid instance that outlives the layout.
  explicit PlanLayout(const PlanInstance& instance);

  // A random placement, paths that go up through the stages, each hop to the nearest node that has least to do.
  void draw(Stream& random);
  void set(const SkipPlan& plan);
  // As a plan for `instance`, whose originators start `times` as many microbatches: each path that often, then the least
  // number of trades that make the use of the stages even again.
  void set_repeated(const PlanLayout& grouped, int times);
  SkipPlan plan() const;

  // False: this move is not possible here, and nothing is changed.
  bool propose(Move move, Hint hint, double latest_start, Stream& random);
  std::span<const int> changed() const { return changed_; }
  void accept();
  void revert();

  std::span<const int> path(int microbatch) const { return {&paths_[row(microbatch)], length_}; }
  std::span<const int> path_before(int microbatch) const { return {&old_paths_[row(microbatch)], length_}; }
  double start(int microbatch) const { return starts_[static_cast<std::size_t>(microbatch)]; }
  double start_before(int microbatch) const { return old_starts_[static_cast<std::size_t>(microbatch)]; }
  int stage_of(int node) const { return stage_of_[static_cast<std::size_t>(node)]; }
  int microbatches() const { return microbatches_; }
  // All paths in ascending order of stages, starting at once: this cannot lock up.
  void straighten();
  // The least number of trades that make the use of the stages even.
  void even_out();

 private:
  std::size_t row(int microbatch) const { return static_cast<std::size_t>(microbatch) * length_; }
  int* mutable_path(int microbatch) { return &paths_[row(microbatch)]; }
  void touch(int microbatch);
  void sort_path(int microbatch);
  bool order_holds(int microbatch) const;
  int any_member(int stage, Stream& random) const;
  std::ptrdiff_t hop_in(int microbatch, int stage) const;

  bool swap_nodes(Hint hint, Stream& random);
  bool move_node(Hint hint, Stream& random);
  bool change_hop(int i, Stream& random);
  bool exchange_hops(int i, Stream& random);
  bool trade_stages(int i, Stream& random);
  bool swap_order(int i, Stream& random);
  bool shift_start(int i, double latest, Stream& random);
  bool swap_originators(int i, Stream& random);
  bool change_group(int i, Stream& random);
  bool try_move(Move move, Hint hint, double latest_start, Stream& random);

  const PlanInstance* instance_;
  std::size_t length_;
  int microbatches_;
  std::vector<int> stage_of_;
  std::vector<std::vector<int>> members_;
  std::vector<int> paths_;  // microbatches x path_length nodes
  std::vector<double> starts_;

  // What the open proposal changed.
  std::vector<int> changed_;
  std::vector<char> is_changed_;
  std::vector<int> old_paths_;
  std::vector<double> old_starts_;
  std::vector<std::pair<int, int>> moved_;  // (node, its stage before)
};

// How often a search tries a move: this many parts of all.
struct MoveShare {
  PlanLayout::Move move;
  std::uint64_t parts;
};
// One of these moves or, if stage sizes are free, move_node.
PlanLayout::Move draw_move(const PlanInstance& instance, std::span<const MoveShare> shares, Stream& random);

}  // namespace starling::pipeline
