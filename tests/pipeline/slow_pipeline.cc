#include "tests/pipeline/slow_pipeline.h"

#include <algorithm>
#include <tuple>

namespace starling::pipeline {
namespace {

struct SlowJob {
  int node;
  double seconds;
  int takes;
  int gives;
};

std::vector<SlowJob> slow_jobs(const PlanInstance& in, const PlannedPath& path) {
  const auto work = [&in](int node) { return in.forward_seconds[static_cast<std::size_t>(node)]; };
  std::vector<SlowJob> out{{path.originator, work(path.originator), 1, 0}};
  for (const int hop : path.hops) out.push_back({hop, work(hop), 1, 0});
  out.push_back({path.originator, work(path.originator) / 4, 0, 0});
  for (auto hop = path.hops.rbegin(); hop != path.hops.rend(); ++hop) out.push_back({*hop, 1.5 * work(*hop), 0, 1});
  out.push_back({path.originator, 1.5 * work(path.originator), 0, 1});
  return out;
}

}  // namespace

std::optional<double> slow_seconds(const PlanInstance& in, const std::vector<PlannedPath>& paths) {
  struct Waits {  // for a node: (arrived, microbatch, job)
    double arrived;
    int microbatch;
    std::size_t job;
    auto key() const { return std::tuple(arrived, microbatch, job); }
  };
  struct Event {  // a microbatch arrives for its job, or a node is free again (job -1)
    double time;
    int who;
    int job;
    auto key() const { return std::tuple(time, who, job); }
  };
  std::vector<std::vector<SlowJob>> jobs;
  std::vector<Event> events;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    jobs.push_back(slow_jobs(in, paths[i]));
    events.push_back({paths[i].start, static_cast<int>(i), 0});
  }
  const auto n = static_cast<std::size_t>(in.nodes);
  std::vector<std::vector<Waits>> queues(n);
  std::vector<double> busy_until(n, 0.0);
  std::vector<int> free_slots = in.memory;
  std::size_t finished = 0;
  double last = 0.0;
  while (!events.empty()) {
    std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) { return a.key() > b.key(); });
    const Event event = events.back();
    events.pop_back();
    auto node = static_cast<std::size_t>(event.who);
    if (event.job >= 0) {
      const auto job = static_cast<std::size_t>(event.job);
      node = static_cast<std::size_t>(jobs[static_cast<std::size_t>(event.who)][job].node);
      queues[node].push_back({event.time, event.who, job});
    }
    if (busy_until[node] > event.time + 1e-12) continue;
    auto& queue = queues[node];
    std::sort(queue.begin(), queue.end(), [](const Waits& a, const Waits& b) { return a.key() < b.key(); });
    for (auto next = queue.begin(); next != queue.end(); ++next) {
      const auto& its_jobs = jobs[static_cast<std::size_t>(next->microbatch)];
      const SlowJob& job = its_jobs[next->job];
      if (job.takes > 0 && free_slots[node] == 0) continue;
      free_slots[node] += job.gives - job.takes;
      const double done = event.time + job.seconds;
      last = std::max(last, done);
      busy_until[node] = done + 0.13;
      events.push_back({busy_until[node], static_cast<int>(node), -1});
      if (next->job + 1 < its_jobs.size()) {
        const int to = its_jobs[next->job + 1].node;
        events.push_back({done + in.delay(job.node, to), next->microbatch, static_cast<int>(next->job + 1)});
      } else {
        ++finished;
      }
      queue.erase(next);
      break;
    }
  }
  if (finished < paths.size()) return std::nullopt;
  return last;
}

}  // namespace starling::pipeline
