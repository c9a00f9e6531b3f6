// Many views on one virtual clock, with a network that delays, loses and cuts. Everything follows from one seed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/membership/view.h"
#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {

class SwarmOfViews {
 public:
  struct Config {
    std::uint64_t seed = 1;
    double loss = 0.0;
    Duration latency = std::chrono::milliseconds(2);
    Duration jitter = std::chrono::milliseconds(1);
    View::Config view;
    bool through_wire = false;            // every message is encoded and decoded
    bool keep_log = false;
  };
  // What happened, for the tests to judge.
  struct Seen {
    TimePoint at;
    int observer;
    int peer;
    PeerState now;
  };

  explicit SwarmOfViews(Config config) : config_(config), random_(config.seed) {}

  int size() const { return static_cast<int>(nodes_.size()); }
  TimePoint now() const { return now_; }
  View& view(int i) { return *nodes_.at(static_cast<std::size_t>(i)).view; }
  const Swarm& swarm(int i) { return view(i).swarm(); }
  std::optional<PeerState> state(int observer, int peer);
  std::uint64_t events() const { return events_; }
  std::uint64_t sent(int i) const { return nodes_.at(static_cast<std::size_t>(i)).sent; }
  std::uint64_t sent_bytes() const { return sent_bytes_; }
  const std::vector<Seen>& seen() const { return seen_; }
  const std::vector<std::string>& log() const { return log_; }
  // Actions of one kind by one node, ever.
  int count(int i, std::string_view action) { return counts_[{i, action}]; }

  // A new node that knows nobody but, once started, the records of `introduced_by`.
  int add(const Record& record, std::optional<int> introduced_by);
  // `count` active workers that meet through node 0.
  void add_workers(int count, int stages = 4);
  void kill(int i) { node(i).up = false; }
  void pause(int i) { node(i).paused = true; }
  void wake(int i);
  // The same id again, with the next boot and an empty table; it knows `introduced_by`.
  void restart(int i, int introduced_by);
  void partition(std::function<int(int)> side) { side_ = std::move(side); }
  void heal() { side_ = nullptr; }
  // No packet between these two any more.
  void cut(int a, int b) { cut_.insert({std::min(a, b), std::max(a, b)}); }
  void feed(int i, const View::Event& event);
  void send(int from, int to, net::Message message);
  void change(int i, const std::function<void(Record&)>& edit, View::SelfChanged::Kind kind);

  void run(Duration duration);
  // Until `done` holds, looking every 50 ms; false: it did not within `limit`.
  bool run_until(const std::function<bool()>& done, Duration limit);

  // Every node that is up sees exactly the same ids in the same states, and nobody up as anything but alive.
  bool converged();

 private:
  struct Node {
    std::unique_ptr<HashSignatures> signatures;
    std::unique_ptr<View> view;
    bool up = true;
    bool paused = false;
    std::vector<std::pair<int, net::Message>> inbox;   // while paused
    std::uint64_t sent = 0;
    int life = 0;
  };
  struct Flight {
    int from;
    int to;
    net::Message message;
  };
  Node& node(int i) { return nodes_.at(static_cast<std::size_t>(i)); }
  void start(int i, const Record& record, std::optional<int> introduced_by);
  void carry_out(int i, std::vector<View::Action> actions);
  void deliver(const Flight& flight);
  void set_timer(int i);
  int index_of(const NodeId& id) const { return index_.at(id); }

  Config config_;
  Stream random_;
  TimePoint now_{std::chrono::seconds(1000)};
  std::vector<Node> nodes_;
  std::map<NodeId, int> index_;
  std::map<std::pair<TimePoint, std::uint64_t>, Flight> flights_;
  std::set<std::pair<TimePoint, int>> timers_;
  std::map<int, TimePoint> timer_of_;
  std::function<int(int)> side_;
  std::set<std::pair<int, int>> cut_;
  std::uint64_t next_flight_ = 0;
  std::uint64_t events_ = 0;
  std::uint64_t sent_bytes_ = 0;
  std::vector<Seen> seen_;
  std::vector<std::string> log_;
  std::map<std::pair<int, std::string_view>, int> counts_;   // names are literals
};

}  // namespace starling::membership
