#include "pipeline/plan_layout.h"

#include <algorithm>
#include <numeric>

namespace starling::pipeline {
namespace {

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

// Of move_node where stage sizes are free, beside about a hundred of the other moves.
constexpr std::uint64_t free_size_parts = 6;

int below(Stream& random, std::size_t bound) { return static_cast<int>(random.below(bound)); }

}  // namespace

PlanLayout::PlanLayout(const PlanInstance& instance)
    : instance_(&instance),
      length_(at(instance.path_length)),
      microbatches_(instance.microbatches()),
      stage_of_(at(instance.nodes), 0),
      members_(at(instance.stages)),
      paths_(at(microbatches_) * length_, 0),
      starts_(at(microbatches_), 0.0),
      is_changed_(at(microbatches_), 0),
      old_paths_(paths_.size(), 0),
      old_starts_(at(microbatches_), 0.0) {}

// --- whole plans ---------------------------------------------------------------------------------------------------

void PlanLayout::draw(Stream& random) {
  std::vector<int> order(at(instance_->nodes));
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  std::size_t next = 0;
  for (int s = 0; s < instance_->stages; ++s) {
    members_[at(s)].clear();
    int size = instance_->stage_sizes.empty() ? 0 : instance_->stage_sizes[at(s)];
    if (instance_->stage_sizes.empty()) {  // the others share what stage 0 leaves
      const int others = instance_->nodes - instance_->originators;
      const int middle = instance_->stages - 1;
      size = s == 0 ? instance_->originators : others / middle + (s <= others % middle ? 1 : 0);
    }
    for (int k = 0; k < size; ++k) members_[at(s)].push_back(order[next++]);
    std::sort(members_[at(s)].begin(), members_[at(s)].end());
    for (const int node : members_[at(s)]) stage_of_[at(node)] = s;
  }
  std::vector<int> visits(at(instance_->stages), 0);
  std::vector<double> load(at(instance_->nodes), 0.0);
  std::vector<int> middle(at(instance_->stages - 1));
  for (int i = 0; i < microbatches_; ++i) {
    std::iota(middle.begin(), middle.end(), 1);
    std::stable_sort(middle.begin(), middle.end(), [&](int a, int b) { return visits[at(a)] < visits[at(b)]; });
    int* const nodes = mutable_path(i);
    nodes[0] = members_[0][at(i) % members_[0].size()];
    std::vector<int> stages(middle.begin(), middle.begin() + static_cast<std::ptrdiff_t>(length_) - 1);
    std::sort(stages.begin(), stages.end());
    for (std::size_t k = 1; k < length_; ++k) {
      const int stage = stages[k - 1];
      ++visits[at(stage)];
      const auto cost = [&](int n) { return instance_->delay(nodes[k - 1], n) + load[at(n)]; };
      nodes[k] = *std::min_element(members_[at(stage)].begin(), members_[at(stage)].end(),
                                   [&](int a, int b) { return cost(a) < cost(b); });
      load[at(nodes[k])] += instance_->forward_seconds[at(nodes[k])];
    }
    starts_[at(i)] = 0.0;
  }
}

void PlanLayout::set(const SkipPlan& plan) {
  members_ = plan.stages;
  stage_of_ = stage_of_nodes(*instance_, plan);
  for (int i = 0; i < microbatches_; ++i) {
    const PlannedPath& path = plan.paths[at(i)];
    *mutable_path(i) = path.originator;
    std::copy(path.hops.begin(), path.hops.end(), mutable_path(i) + 1);
    starts_[at(i)] = path.start;
  }
}

void PlanLayout::set_repeated(const PlanLayout& grouped, int times) {
  STARLING_CHECK(grouped.microbatches_ * times == microbatches_, "the groups make up the whole");
  members_ = grouped.members_;
  stage_of_ = grouped.stage_of_;
  for (int i = 0; i < microbatches_; ++i) {
    const auto from = grouped.path(i % grouped.microbatches_);
    std::copy(from.begin(), from.end(), mutable_path(i));
    starts_[at(i)] = 0.0;
  }
  even_out();
}

void PlanLayout::even_out() {
  std::vector<int> visits(at(instance_->stages), 0);
  for (int i = 0; i < microbatches_; ++i) {
    for (const int node : path(i)) ++visits[at(stage_of(node))];
  }
  for (int i = 0;; i = (i + 1) % microbatches_) {
    const auto [least, most] = std::minmax_element(visits.begin() + 1, visits.end());
    if (*most - *least <= 1) return;
    const auto from = hop_in(i, static_cast<int>(most - visits.begin()));
    const int to = static_cast<int>(least - visits.begin());
    if (from < 0 || hop_in(i, to) >= 0) continue;
    const int before = mutable_path(i)[from - 1];
    const auto& choice = members_[at(to)];
    mutable_path(i)[from] = *std::min_element(choice.begin(), choice.end(), [&](int a, int b) {
      return instance_->delay(before, a) < instance_->delay(before, b);
    });
    sort_path(i);
    --*most;
    ++*least;
  }
}

SkipPlan PlanLayout::plan() const {
  SkipPlan out;
  out.stages = members_;
  for (auto& nodes : out.stages) std::sort(nodes.begin(), nodes.end());
  for (int i = 0; i < microbatches_; ++i) {
    const auto nodes = path(i);
    out.paths.push_back({nodes[0], {nodes.begin() + 1, nodes.end()}, start(i)});
  }
  return out;
}

void PlanLayout::straighten() {
  for (int i = 0; i < microbatches_; ++i) {
    sort_path(i);
    starts_[at(i)] = 0.0;
  }
}

// --- one proposal ----------------------------------------------------------------------------------------------------

void PlanLayout::touch(int microbatch) {
  if (is_changed_[at(microbatch)] != 0) return;
  is_changed_[at(microbatch)] = 1;
  changed_.push_back(microbatch);
  std::copy_n(&paths_[row(microbatch)], length_, &old_paths_[row(microbatch)]);
  old_starts_[at(microbatch)] = starts_[at(microbatch)];
}

void PlanLayout::accept() {
  for (const auto& [node, before] : moved_) std::erase(members_[at(before)], node);
  for (const auto& [node, before] : moved_) members_[at(stage_of(node))].push_back(node);
  for (const int i : changed_) is_changed_[at(i)] = 0;
  changed_.clear();
  moved_.clear();
}

void PlanLayout::revert() {
  for (const int i : changed_) {
    std::copy_n(&old_paths_[row(i)], length_, &paths_[row(i)]);
    starts_[at(i)] = old_starts_[at(i)];
    is_changed_[at(i)] = 0;
  }
  for (const auto& [node, before] : moved_) stage_of_[at(node)] = before;
  changed_.clear();
  moved_.clear();
}

bool PlanLayout::propose(Move move, Hint hint, double latest_start, Stream& random) {
  if (try_move(move, hint, latest_start, random)) return true;
  revert();
  return false;
}

bool PlanLayout::try_move(Move move, Hint hint, double latest_start, Stream& random) {
  const auto any = [&] { return hint.microbatch >= 0 ? hint.microbatch : below(random, at(microbatches_)); };
  switch (move) {
    case Move::swap_nodes:
      return swap_nodes(hint, random);
    case Move::move_node:
      return move_node(hint, random);
    case Move::change_hop:
      return change_hop(any(), random);
    case Move::exchange_hops:
      return exchange_hops(any(), random);
    case Move::trade_stages:
      return trade_stages(any(), random);
    case Move::swap_order:
      return swap_order(any(), random);
    case Move::shift_start:
      return shift_start(any(), latest_start, random);
    case Move::swap_originators:
      return swap_originators(any(), random);
    case Move::change_group:
      return change_group(any(), random);
  }
  return false;
}

void PlanLayout::sort_path(int microbatch) {
  int* const nodes = mutable_path(microbatch);
  std::sort(nodes + 1, nodes + length_, [this](int a, int b) { return stage_of(a) < stage_of(b); });
}

bool PlanLayout::order_holds(int microbatch) const {
  const auto nodes = path(microbatch);
  int back = 0;
  for (std::size_t k = 1; k < length_; ++k) {
    const int step = stage_of(nodes[k]) - stage_of(nodes[k - 1]);
    if (step > 0) continue;
    if (step != -1 || ++back > 2) return false;
  }
  return true;
}

int PlanLayout::any_member(int stage, Stream& random) const {
  const auto& nodes = members_[at(stage)];
  return nodes[random.below(nodes.size())];
}

// Where the path visits the stage; -1: nowhere.
std::ptrdiff_t PlanLayout::hop_in(int microbatch, int stage) const {
  const auto nodes = path(microbatch);
  for (std::size_t k = 1; k < length_; ++k) {
    if (stage_of(nodes[k]) == stage) return static_cast<std::ptrdiff_t>(k);
  }
  return -1;
}

bool PlanLayout::swap_nodes(Hint hint, Stream& random) {
  const int a = hint.node >= 0 ? hint.node : below(random, at(instance_->nodes));
  const int b = below(random, at(instance_->nodes));
  if (stage_of(a) == stage_of(b)) return false;
  for (int i = 0; i < microbatches_; ++i) {
    int* const nodes = mutable_path(i);
    for (std::size_t k = 0; k < length_; ++k) {
      if (nodes[k] != a && nodes[k] != b) continue;
      touch(i);
      nodes[k] = nodes[k] == a ? b : a;
    }
  }
  moved_ = {{a, stage_of(a)}, {b, stage_of(b)}};
  std::swap(stage_of_[at(a)], stage_of_[at(b)]);
  return true;
}

bool PlanLayout::move_node(Hint hint, Stream& random) {
  if (!instance_->stage_sizes.empty() || instance_->stages < 3) return false;
  const int node = hint.node >= 0 ? hint.node : below(random, at(instance_->nodes));
  const int from = stage_of(node);
  const int to = 1 + below(random, at(instance_->stages - 1));
  if (from == 0 || from == to || members_[at(from)].size() < 2) return false;
  for (int i = 0; i < microbatches_; ++i) {
    int* const nodes = mutable_path(i);
    for (std::size_t k = 1; k < length_; ++k) {
      if (nodes[k] != node) continue;
      touch(i);
      while (nodes[k] == node) nodes[k] = any_member(from, random);
    }
  }
  moved_ = {{node, from}};
  stage_of_[at(node)] = to;
  return true;
}

bool PlanLayout::change_hop(int i, Stream& random) {
  const std::size_t k = 1 + random.below(length_ - 1);
  const int node = any_member(stage_of(path(i)[k]), random);
  if (node == path(i)[k]) return false;
  touch(i);
  mutable_path(i)[k] = node;
  return true;
}

bool PlanLayout::exchange_hops(int i, Stream& random) {
  const int j = below(random, at(microbatches_));
  const std::size_t k = 1 + random.below(length_ - 1);
  if (i == j) return false;
  const auto other = hop_in(j, stage_of(path(i)[k]));
  if (other < 0 || path(j)[static_cast<std::size_t>(other)] == path(i)[k]) return false;
  touch(i);
  touch(j);
  std::swap(mutable_path(i)[k], mutable_path(j)[other]);
  return true;
}

bool PlanLayout::trade_stages(int i, Stream& random) {
  const int j = below(random, at(microbatches_));
  const std::size_t k = 1 + random.below(length_ - 1);
  const std::size_t l = 1 + random.below(length_ - 1);
  const int s = stage_of(path(i)[k]);
  const int t = stage_of(path(j)[l]);
  if (i == j || s == t || hop_in(i, t) >= 0 || hop_in(j, s) >= 0) return false;
  touch(i);
  touch(j);
  if (random.below(2) == 0) {
    std::swap(mutable_path(i)[k], mutable_path(j)[l]);
  } else {
    mutable_path(i)[k] = any_member(t, random);
    mutable_path(j)[l] = any_member(s, random);
  }
  // Most go up through the stages again; the others keep their place in the order where that is allowed.
  for (const int changed : {i, j}) {
    if (random.below(10) < 7 || !order_holds(changed)) sort_path(changed);
  }
  return true;
}

bool PlanLayout::swap_order(int i, Stream& random) {
  if (length_ < 3) return false;
  const std::size_t k = 1 + random.below(length_ - 2);
  touch(i);
  std::swap(mutable_path(i)[k], mutable_path(i)[k + 1]);
  return order_holds(i);
}

bool PlanLayout::shift_start(int i, double latest, Stream& random) {
  // Often back to the begin, which a draw alone would never hit.
  const double start = random.below(10) < 3 ? 0.0 : random.uniform() * latest;
  if (start == starts_[at(i)]) return false;
  touch(i);
  starts_[at(i)] = start;
  return true;
}

bool PlanLayout::swap_originators(int i, Stream& random) {
  const int j = below(random, at(microbatches_));
  if (path(i)[0] == path(j)[0]) return false;
  touch(i);
  touch(j);
  std::swap(*mutable_path(i), *mutable_path(j));
  std::swap(starts_[at(i)], starts_[at(j)]);
  return true;
}

bool PlanLayout::change_group(int i, Stream& random) {
  const int originator = path(i)[0];
  const int from = path(i)[1 + random.below(length_ - 1)];
  const int to = any_member(stage_of(from), random);
  if (from == to) return false;
  for (int j = 0; j < microbatches_; ++j) {
    if (path(j)[0] != originator) continue;
    int* const nodes = mutable_path(j);
    int* const hop = std::find(nodes + 1, nodes + length_, from);
    if (hop == nodes + length_) continue;
    touch(j);
    *hop = to;
  }
  return true;
}

PlanLayout::Move draw_move(const PlanInstance& instance, std::span<const MoveShare> shares, Stream& random) {
  std::uint64_t parts = instance.stage_sizes.empty() ? free_size_parts : 0;
  for (const MoveShare& share : shares) parts += share.parts;
  std::uint64_t part = random.below(parts);
  for (const MoveShare& share : shares) {
    if (part < share.parts) return share.move;
    part -= share.parts;
  }
  return PlanLayout::Move::move_node;
}

}  // namespace starling::pipeline
