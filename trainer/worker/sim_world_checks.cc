// What must hold in every simulated run, whatever goes wrong in it, and what is measured along the way.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "gossip/membership/detector.h"
#include "trainer/worker/sim_world.h"

namespace starling::trainer {
namespace {

constexpr std::size_t most_violations = 20;
constexpr Step oldest_graph_steps = 3;      // two when its gradient is offered, and one may close while it waits
constexpr Step ends_apart_steps = 2;
// A device works off what it was given before it frees a graph.
constexpr Duration free_slack = std::chrono::seconds(5);

}  // namespace

void SimWorld::violated(const Node& node, const std::string& what) {
  if (violations_.size() >= most_violations) return;
  violations_.push_back(fmt::format("seed {} at {:.3f} s, {}: {}", config_.seed,
                                    seconds(scheduler_.now().time_since_epoch()), node.name, what));
}

// After every event of a node: k never goes back and never passes 1 + the largest D ever seen.
void SimWorld::check(Node& node) {
  if (!node.compute) return;
  const WorkerCounters& counters = node.worker->counters();
  if (counters.copies + counters.takeovers != node.copies) {
    node.copies = counters.copies + counters.takeovers;
    node.last_step = node.last_round = 0;
    node.in_step = false;
  }
  const Step step = node.worker->clock().step();
  largest_done_ = std::max(largest_done_, node.worker->swarm().largest_done());
  if (step < node.last_step) violated(node, fmt::format("k went back from {} to {}", node.last_step, step));
  if (step > 1 + largest_done_) violated(node, fmt::format("k is {} but the largest D is {}", step, largest_done_));
  if (step != node.last_step || !node.in_step) measure_skew(node, step);
  node.last_step = step;
  node.role_stage = node.worker->stage();
  measure_silence(node);
  check_ledger(node);
  const auto& forwards = node.compute->forwards();
  for (; node.forwards_read < forwards.size(); ++node.forwards_read) {
    if (!forwards_.emplace(forwards[node.forwards_read], node.worker->stage()).second) ++measured_.double_forwards;
  }
}

// Whoever has just started or woken is behind until it has met the others' step once.
void SimWorld::measure_skew(Node& node, Step step) {
  if (!runs(node) || node.cut) return;
  if (step >= largest_done_) node.in_step = true;
  if (!node.in_step) return;
  for (const auto& other : nodes_) {
    if (!runs(*other) || other->cut || !other->compute || !other->in_step || other.get() == &node) continue;
    const Step theirs = other->worker->clock().step();
    measured_.largest_skew = std::max(measured_.largest_skew, std::max(step, theirs) - std::min(step, theirs));
  }
}

void SimWorld::measure_silence(Node& node) {
  // What is open was given its age when it started; completions have lowered that of the next ones since.
  if (node.worker->stage() == 0) largest_age_ = std::max(largest_age_, largest_give_up_age(node));
  const std::int64_t completed = node.worker->counters().completed;
  if (completed == node.completed) {
    // Somebody has taken stage 0 over: from here on there is no excuse.
    if (silence_excused_ && node.worker->stage() == 0 && runs(node)) {
      silence_excused_ = false;
      last_completed_ = scheduler_.now();
    }
    return;
  }
  silence_excused_ = false;
  node.completed = completed;
  if (last_completed_ != never && scheduler_.now() - last_completed_ > measured_.longest_silence) {
    measured_.longest_silence = scheduler_.now() - last_completed_;
    measured_.silence_ended = scheduler_.now();
    const Duration allowed = longest_silence_allowed();
    // Whoever swallows microbatches can cost one give-up age after the other.
    const bool liars = std::any_of(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->compute && n->compute->lies(); });
    if (measured_.longest_silence > allowed && !liars) {
      violated(node, fmt::format("nothing was completed for {:.2f} s, at most {:.2f} were expected",
                                 seconds(measured_.longest_silence), seconds(allowed)));
    }
  }
  last_completed_ = scheduler_.now();
  largest_age_ = {};
}

Duration SimWorld::largest_give_up_age(const Node& node) {
  const pipeline::Originator& originator = node.worker->originator();
  return std::max(originator.give_up_age(), originator.give_up_age(pipeline::Originator::Pace::ahead));
}

// The give-up age, the delay of a verdict, and one microbatch on the slowest originator.
Duration SimWorld::longest_silence_allowed() const {
  Duration give_up = largest_age_;
  double slowest = 0.0;
  std::size_t n = 0;
  for (const auto& node : nodes_) {
    if (!runs(*node)) continue;
    ++n;
    if (!node->compute || node->worker->stage() != 0) continue;
    give_up = std::max(give_up, largest_give_up_age(*node));
    slowest = std::max(slowest, node->worker->clock().microbatch_seconds());
  }
  const membership::Detector::Config detector{.heartbeat_interval = config_.worker.membership.heartbeat_interval};
  const double heartbeats = detector.suspicion_min_factor * detector.suspicion_max_factor *
                                std::log10(std::max(10.0, static_cast<double>(n))) + 2.0;
  return give_up + scale(detector.heartbeat_interval, heartbeats) + from_seconds(slowest);
}

// Each microbatch's gradient: at most once per worker, by its originator and at most stages - 1 others, of weights not much
// older than two steps; and divided by the tokens it is of.
void SimWorld::check_ledger(Node& node) {
  if (!node.compute) return;
  const auto& ledger = node.compute->ledger();
  const std::int64_t tokens = config_.worker.training.tokens_per_microbatch();
  for (; node.ledger_read < ledger.size(); ++node.ledger_read) {
    const SimulatedCompute::Applied& applied = ledger[node.ledger_read];
    for (const MicrobatchId& id : applied.body) {
      if (!node.body_counted.insert(id).second) violated(node, "a gradient counted twice: " + to_string(id));
      if (id.originator == node.id) continue;
      if (++added_by_[id] > config_.worker.parallelism.stages - 1) violated(node, "too many added " + to_string(id));
    }
    if (applied.oldest_graph_steps > oldest_graph_steps) {
      violated(node, fmt::format("step {} took a gradient of weights {} steps old", applied.step, applied.oldest_graph_steps));
    }
    for (const MicrobatchId& id : applied.head) {
      if (!node.head_counted.insert(id).second) violated(node, "a loss counted twice: " + to_string(id));
    }
    const auto sum_of = [&](const auto& ids) { return static_cast<std::int64_t>(ids.size()) * tokens; };
    if (applied.body_tokens != sum_of(applied.body) || applied.head_tokens != sum_of(applied.head)) {
      violated(node, fmt::format("step {} divided by {} and {} tokens, {} and {} came", applied.step, applied.body_tokens,
                                 applied.head_tokens, sum_of(applied.body), sum_of(applied.head)));
    }
  }
}

// One exchange per worker and round; one outer step of the device for it; an exchange is averaged by two partners, who
// name each other, once each.
void SimWorld::check_round(Node& node, const RoundReport& report) {
  if (report.round <= node.last_round) {
    violated(node, fmt::format("round {} finished after round {}", report.round, node.last_round));
  }
  node.last_round = report.round;
  const std::int64_t outer_steps = node.compute->outer_steps();
  if (outer_steps > node.outer_steps + 1 && !node.woke_late) {
    violated(node, fmt::format("round {} made {} outer steps", report.round, outer_steps - node.outer_steps));
  }
  node.outer_steps = outer_steps;
  node.woke_late = false;
  if (!report.averaged || !report.exchange || !report.partner) return;
  auto& both = averaged_[*report.exchange];
  for (const Averaged& other : both) {
    if (other.by == node.id) violated(node, fmt::format("round {}: an exchange was applied twice", report.round));
    if (other.with != node.id || other.by != *report.partner || other.round != report.round || other.stage != node.worker->stage()) {
      violated(node, fmt::format("round {}: averaged in an exchange of two others", report.round));
    }
  }
  both.push_back({node.id, *report.partner, report.round, node.worker->stage()});
}

// Whoever has copied a replica's state stands where that replica stood when the round began, not one exchange behind.
void SimWorld::check_copy(Node& node, const std::vector<EventField>& fields) {
  std::string donor;
  Step step = 0;
  for (const EventField& field : fields) {
    if (field.name == "donor") donor = std::get<std::string>(field.value);
    if (field.name == "step") step = std::get<std::int64_t>(field.value);
  }
  const auto it = std::find_if(nodes_.begin(), nodes_.end(), [&](const auto& n) { return n->id.brief() == donor; });
  if (it == nodes_.end() || !runs(**it) || !(*it)->compute || (*it)->compute->lies()) return;
  const pipeline::StageStep& clock = (*it)->worker->clock();
  const bool same_round = clock.round() == config_.worker.outer.round_of(step) && !clock.between_steps();
  if (!same_round || (*it)->worker->stage() != node.compute->stage()) return;  // it went on, or only kept a backup
  const std::span<const float> here = node.compute->phi();
  const std::span<const float> there = (*it)->compute->phi();
  if (!std::equal(here.begin(), here.end(), there.begin(), there.end())) {
    violated(node, fmt::format("its copy of {} at step {} has other slow weights", (*it)->name, step));
  }
}

void SimWorld::check_exit(const Node& node) {
  if (node.exit->exit != Worker::Exit::finished || !node.compute || node.worker->stage() != 0 || !node.in_step) return;
  const Step last = node.last_step - 1;
  if (!ended_at_) ended_at_ = {last, last};
  ended_at_ = {std::min(ended_at_->first, last), std::max(ended_at_->second, last)};
  if (ended_at_->second - ended_at_->first > ends_apart_steps) {
    violated(node, fmt::format("originators end after steps {} and {}", ended_at_->first, ended_at_->second));
  }
}

// Every second: what no event of a node would show.
void SimWorld::sweep() {
  for (const auto& node : nodes_) {
    if (!node->up || node->paused || node->exit) continue;
    check_timer(*node);
    if (runs(*node) && node->compute) check_graphs(*node);
  }
  const bool any = std::any_of(nodes_.begin(), nodes_.end(), [](const auto& node) { return node->up; });
  if (any) scheduler_.after(sweep_interval, [this] { sweep(); });
}

// Whoever waits for something owns a timer.
void SimWorld::check_timer(const Node& node) {
  const TimePoint wanted = node.worker ? node.worker->next_deadline() : node.joiner->next_deadline();
  if (wanted == never) violated(node, "waits for nothing");
  if (node.timer_at > std::max(wanted, scheduler_.now())) violated(node, "its timer comes after its deadline");
}

// Kept until its age, and freed on the device soon after it is kept no more.
void SimWorld::check_graphs(Node& node) {
  std::erase_if(node.unkept, [&](const auto& entry) { return !node.compute->graphs().contains(entry.first); });
  const bool waits = config_.worker.pipeline.skip == pipeline::Skip::never;
  for (const auto& [id, graph] : node.compute->graphs()) {
    if ((id.index & eval_index_bit) != 0) continue;
    const net::MicrobatchHeader* header = node.worker->clock().header(id);
    if (header == nullptr) {
      const TimePoint since = node.unkept.emplace(id, scheduler_.now()).first->second;
      if (scheduler_.now() - since > free_slack) violated(node, "keeps the graph of " + to_string(id) + " for nobody");
    } else if (!waits && scheduler_.now() - graph.made_at > header->give_up_age + free_slack) {
      violated(node, fmt::format("the graph of {} is {:.1f} s old", to_string(id), seconds(scheduler_.now() - graph.made_at)));
    }
  }
}

// Nothing can be completed while nobody holds stage 0.
void SimWorld::excuse_silence() {
  const bool originator = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& node) {
    return runs(*node) && node->worker->stage() == 0;
  });
  if (originator || last_completed_ == never) return;
  silence_excused_ = true;
  last_completed_ = never;
}

}  // namespace starling::trainer
