#include "pipeline/plan_clock.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace starling::pipeline {
namespace {

// A node that is free within this time of an arrival counts as free.
constexpr double tolerance_seconds = 1e-12;
// So a run begins at most a twelfth of the kept one before what changes; each costs a copy of the state.
constexpr std::size_t checkpoint_count = 12;

constexpr std::size_t at(int index) { return static_cast<std::size_t>(index); }

}  // namespace

PlanClock::PlanClock(const PlanInstance& instance)
    : instance_(instance),
      length_(at(instance.path_length)),
      job_count_(at(plan_job_count(instance.path_length))),
      row_size_(job_count_ + 1),
      microbatches_(at(instance.microbatches())),
      jobs_(microbatches_ * row_size_),
      starts_(microbatches_, 0.0),
      bound_(microbatches_, 0.0),
      checkpoints_(checkpoint_count),
      fresh_(checkpoint_count),
      stride_(std::max<std::size_t>(1, (microbatches_ * job_count_ + checkpoint_count - 1) / checkpoint_count)),
      kept_order_(microbatches_ * row_size_, 0),
      is_changed_(microbatches_, 0) {
  log_.resize(microbatches_ * job_count_);
  kept_log_.reserve(microbatches_ * job_count_);
}

void PlanClock::set_path(int microbatch, std::span<const int> nodes, double start) {
  STARLING_CHECK(nodes.size() == length_, "a path has as many nodes as the instance says");
  const std::size_t first = row(microbatch);
  if (has_kept_ && is_changed_[at(microbatch)] == 0) {
    is_changed_[at(microbatch)] = 1;
    changed_.push_back({microbatch, starts_[at(microbatch)], saved_jobs_.size()});
    saved_jobs_.insert(saved_jobs_.end(), jobs_.begin() + static_cast<std::ptrdiff_t>(first),
                       jobs_.begin() + static_cast<std::ptrdiff_t>(first + row_size_));
  }
  starts_[at(microbatch)] = start;
  Job* const jobs = &jobs_[first];
  for (std::size_t k = 0; k < job_count_; ++k) {
    const std::size_t hop = k <= length_ ? k % length_ : job_count_ - 1 - k;
    Job& job = jobs[k];
    job.node = nodes[hop];
    job.takes_slot = k < length_;
    job.frees_slot = k > length_;
    const double work = instance_.forward_seconds[at(job.node)];
    job.seconds = job.takes_slot ? work : job.frees_slot ? 1.5 * work : work / 4;
  }
  jobs[job_count_].remaining = 0.0;
  for (std::size_t k = job_count_; k-- > 0;) {
    jobs[k].delay = k + 1 < job_count_ ? instance_.delay(jobs[k].node, jobs[k + 1].node) : 0.0;
    jobs[k].remaining = jobs[k].seconds + jobs[k].delay + jobs[k + 1].remaining;
  }
}

void PlanClock::revert() {
  for (const Changed& change : changed_) {
    std::copy_n(saved_jobs_.begin() + static_cast<std::ptrdiff_t>(change.saved_at), row_size_,
                jobs_.begin() + static_cast<std::ptrdiff_t>(row(change.microbatch)));
    starts_[at(change.microbatch)] = change.start;
    is_changed_[at(change.microbatch)] = 0;
  }
  changed_.clear();
  saved_jobs_.clear();
}

void PlanClock::keep() {
  STARLING_CHECK(run_finished_, "only a run that finished is kept");
  for (const Changed& change : changed_) is_changed_[at(change.microbatch)] = 0;
  changed_.clear();
  saved_jobs_.clear();
  kept_log_.resize(state_.begun);
  for (std::size_t c = log_from_; c < state_.begun; ++c) {
    kept_log_[c] = log_[c];
    kept_order_[row(log_[c].microbatch) + at(log_[c].job)] = static_cast<std::uint32_t>(c);
  }
  for (std::size_t c = log_from_ / stride_ + 1; c < checkpoint_count; ++c) std::swap(checkpoints_[c], fresh_[c]);
  has_kept_ = true;
}

// How many jobs of the kept run begin before anything that the changes touch. A path that goes elsewhere at job k is the
// same until its job k - 1 ends, and that is settled when that one begins.
std::size_t PlanClock::first_affected() const {
  std::size_t first = std::numeric_limits<std::size_t>::max();
  for (const Changed& change : changed_) {
    if (change.start != starts_[at(change.microbatch)]) return 0;
    const Job* const now = &jobs_[row(change.microbatch)];
    const Job* const before = &saved_jobs_[change.saved_at];
    std::size_t k = 0;
    while (k < length_ && now[k].node == before[k].node) ++k;
    if (k == 0) return 0;
    if (k < length_) first = std::min<std::size_t>(first, kept_order_[row(change.microbatch) + k - 1]);
  }
  return first;
}

// Sets the state to where this run can begin; returns how many jobs have begun by then.
std::size_t PlanClock::restore() {
  const std::size_t affected = has_kept_ ? std::min(first_affected(), microbatches_ * job_count_ - 1) : 0;
  const std::size_t checkpoint = affected / stride_;
  if (checkpoint == 0) {
    begin_state();
    return 0;
  }
  state_ = checkpoints_[checkpoint];
  return state_.begun;
}

void PlanClock::begin_state() {
  state_.heap.clear();
  state_.nodes.assign(at(instance_.nodes), Node{});
  for (std::size_t n = 0; n < state_.nodes.size(); ++n) state_.nodes[n].free_slots = instance_.memory[n];
  state_.microbatches.assign(microbatches_, Microbatch{});
  state_.last = 0.0;
  state_.finished = 0;
  state_.begun = 0;
  for (std::size_t i = 0; i < microbatches_; ++i) {
    state_.microbatches[i].ready = starts_[i];
    push({starts_[i], static_cast<std::uint32_t>(2 * i + 1)});
  }
}

void PlanClock::estimate() {
  bound_max_ = 0.0;
  bound_sum_ = 0.0;
  for (std::size_t i = 0; i < microbatches_; ++i) {
    const Microbatch& m = state_.microbatches[i];
    bound_[i] = m.ready + jobs_[i * row_size_ + at(m.job)].remaining;
    bound_max_ = std::max(bound_max_, bound_[i]);
    bound_sum_ += bound_[i];
  }
}

void PlanClock::push(Event event) {
  std::vector<Event>& heap = state_.heap;
  std::size_t hole = heap.size();
  heap.push_back(event);
  while (hole > 0) {
    const std::size_t parent = (hole - 1) / 2;
    if (!event.before(heap[parent])) break;
    heap[hole] = heap[parent];
    hole = parent;
  }
  heap[hole] = event;
}

void PlanClock::replace_top(Event event) {
  Event* const heap = state_.heap.data();
  const std::size_t size = state_.heap.size();
  std::size_t hole = 0;
  for (std::size_t child = 1; child < size; child = 2 * hole + 1) {
    if (child + 1 < size && heap[child + 1].before(heap[child])) ++child;
    if (!heap[child].before(event)) break;
    heap[hole] = heap[child];
    hole = child;
  }
  heap[hole] = event;
}

void PlanClock::pop() {
  const Event last = state_.heap.back();
  state_.heap.pop_back();
  if (!state_.heap.empty()) replace_top(last);
}

// First come first served; of two that come at once, the lower number.
bool PlanClock::comes_before(int a, int b) const {
  const double ready_a = state_.microbatches[at(a)].ready;
  const double ready_b = state_.microbatches[at(b)].ready;
  return ready_a < ready_b || (ready_a == ready_b && a < b);
}

void PlanClock::enqueue(Queue& queue, int microbatch) {
  Microbatch* const all = state_.microbatches.data();
  all[microbatch].behind = none;
  if (queue.head == none) {
    queue.head = queue.tail = microbatch;
  } else if (!comes_before(microbatch, queue.tail)) {
    all[queue.tail].behind = microbatch;
    queue.tail = microbatch;
  } else if (comes_before(microbatch, queue.head)) {  // only where work and delay are 0: events come in order of time
    all[microbatch].behind = queue.head;
    queue.head = microbatch;
  } else {
    int before = queue.head;
    while (!comes_before(microbatch, all[before].behind)) before = all[before].behind;
    all[microbatch].behind = all[before].behind;
    all[before].behind = microbatch;
  }
}

// Takes the first microbatch that can start out of its queue; `none` if all wait for slots or there is none.
int PlanClock::take_startable(Node& node) {
  Queue* from = &node.others;
  const int forward = node.free_slots > 0 ? node.forwards.head : none;
  if (forward != none && (from->head == none || comes_before(forward, from->head))) from = &node.forwards;
  const int taken = from->head;
  if (taken == none) return none;
  from->head = state_.microbatches[at(taken)].behind;
  if (from->head == none) from->tail = none;
  return taken;
}

void PlanClock::checkpoint_if_due() {
  if (state_.begun % stride_ != 0) return;
  const std::size_t which = state_.begun / stride_;
  if (which > log_from_ / stride_ && which < checkpoint_count) fresh_[which] = state_;
}

// Deals with the event on top of the heap. False: the limit is passed.
bool PlanClock::handle(Event event, double limit, double weight) {
  const int who = static_cast<int>(event.who / 2);
  const bool arrives = event.who % 2 == 1;
  int node_index = who;
  if (arrives) {
    const Job& job = jobs_[row(who) + at(state_.microbatches[at(who)].job)];
    node_index = job.node;
    Node& node = state_.nodes[at(node_index)];
    enqueue(job.takes_slot ? node.forwards : node.others, who);
  }
  Node& node = state_.nodes[at(node_index)];
  const auto worth_waking = [&node] {
    return node.wakes_at != node.busy_until &&
           (node.others.head != none || (node.forwards.head != none && node.free_slots > 0));
  };
  if (node.busy_until > event.time + tolerance_seconds) {
    if (arrives && worth_waking()) {
      node.wakes_at = node.busy_until;
      replace_top({node.busy_until, static_cast<std::uint32_t>(2 * node_index)});
    } else {
      pop();
    }
    return true;
  }
  const int taken = take_startable(node);
  if (taken == none) {
    pop();
    return true;
  }
  Microbatch& m = state_.microbatches[at(taken)];
  const Job& job = jobs_[row(taken) + at(m.job)];
  const double done = event.time + job.seconds;
  node.free_slots += static_cast<int>(job.frees_slot) - static_cast<int>(job.takes_slot);
  node.busy_until = done + plan_rest_seconds;
  state_.last = std::max(state_.last, done);
  log_[state_.begun++] = {taken, m.job, event.time};
  const double bound = event.time + job.remaining;
  bound_sum_ += bound - bound_[at(taken)];
  bound_[at(taken)] = bound;
  bound_max_ = std::max(bound_max_, bound);
  if (at(++m.job) < job_count_) {
    m.ready = done + job.delay;
    replace_top({m.ready, static_cast<std::uint32_t>(2 * taken + 1)});
  } else {
    m.ready = done;
    ++state_.finished;
    pop();
  }
  if (worth_waking()) {
    node.wakes_at = node.busy_until;
    push({node.busy_until, static_cast<std::uint32_t>(2 * node_index)});
  }
  checkpoint_if_due();
  return bound_max_ + weight * bound_sum_ <= limit;
}

PlanTime PlanClock::run(double limit, double mean_weight) {
  run_finished_ = false;
  log_from_ = restore();
  estimate();
  const auto count = static_cast<double>(microbatches_);
  const double weight = mean_weight / count;
  bool within = bound_max_ + weight * bound_sum_ <= limit;
  while (within && !state_.heap.empty()) within = handle(state_.heap.front(), limit, weight);
  if (!within) return {bound_max_, bound_sum_ / count, PlanTime::End::over_limit};
  if (state_.finished < microbatches_) {
    return {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity(), PlanTime::End::locked_up};
  }
  run_finished_ = true;
  double sum = 0.0;
  for (const Microbatch& m : state_.microbatches) sum += m.ready;
  return {state_.last, sum / count, PlanTime::End::finished};
}

Result<PlanClock> timed(const PlanInstance& instance, const SkipPlan& plan) {
  PlanClock clock(instance);
  std::vector<int> nodes;
  for (std::size_t i = 0; i < plan.paths.size(); ++i) {
    nodes.assign(1, plan.paths[i].originator);
    nodes.insert(nodes.end(), plan.paths[i].hops.begin(), plan.paths[i].hops.end());
    clock.set_path(static_cast<int>(i), nodes, plan.paths[i].start);
  }
  if (clock.run(std::numeric_limits<double>::infinity()).end == PlanTime::End::locked_up) {
    return fail(ErrorCode::bad_input, "the plan locks up: microbatches wait for each other's slots");
  }
  clock.keep();
  return clock;
}

Result<double> plan_seconds(const PlanInstance& instance, const SkipPlan& plan) {
  if (Status status = check_plan(instance, plan); !status) return tl::unexpected(status.error());
  const auto clock = timed(instance, plan);
  if (!clock) return tl::unexpected(clock.error());
  double last = 0.0;
  for (const PlanClock::Begun& b : clock->begun())
    last = std::max(last, b.begin + clock->job_seconds(b.microbatch, b.job));
  return last;
}

}  // namespace starling::pipeline
