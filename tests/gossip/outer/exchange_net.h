// A swarm of Exchanges in virtual time: links that delay, lose, repeat and reorder; parts as delayed deliveries; compute
// as delays; views that learn of a death each at its own time; rounds that end with a skew. Everything from one seed.
//
// It checks on the way what must hold in every run: one Average or Solo and one RoundFinished per round, no id applied
// twice by one node or by three, only parts of the right round and partner, a timer in every state that waits.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/outer/exchange.h"

namespace starling::outer {

struct NetOptions {
  std::uint64_t seed = 1;
  std::size_t nodes = 16;
  std::size_t stages = 1;                                  // node i holds stage i % stages
  Round rounds = 20;
  Exchange::Config exchange;
  Duration tau = std::chrono::milliseconds(500);
  Duration work = std::chrono::seconds(5);                 // of one round
  Duration skew{};                                         // rounds of the nodes end within so long
  Duration latency_min = std::chrono::milliseconds(1);
  Duration latency_max = std::chrono::milliseconds(40);    // far apart: messages overtake each other
  double loss = 0.0;
  double duplication = 0.0;
  Duration compute_max = std::chrono::milliseconds(100);   // snapshot, outer step
  Duration travel_max = std::chrono::milliseconds(300);    // of a part
  double part_failure = 0.0;
  Duration suspect_min = std::chrono::seconds(1), suspect_max = std::chrono::seconds(4);
  Duration dead_min = std::chrono::seconds(3), dead_max = std::chrono::seconds(9);  // after the suspicion
};

struct RoundResult {
  Round round = 0;
  std::size_t node = 0;
  TimePoint ended{};
  TimePoint finished{};
  Exchange::RoundFinished how;
};

class ExchangeNet {
 public:
  enum class Fate { deliver, lose, twice };

  explicit ExchangeNet(NetOptions options);
  ~ExchangeNet();

  // What happens to the index-th control message; instead of `loss` and `duplication`.
  std::function<Fate(std::size_t index, const net::Message& message)> fate;
  // Control messages from node to node that never arrive.
  std::function<bool(std::size_t from, std::size_t to)> cut;
  std::function<void(const Exchange::Action& action, std::size_t node)> watch;

  // Before run(): node `of` believes this of node `about` from the start.
  void believe(std::size_t of, std::size_t about, membership::PeerState state);
  void at(Duration when, std::function<void()> what);
  void kill(std::size_t node);
  void cancel(std::size_t node);

  void run();
  const std::vector<RoundResult>& results() const { return results_; }
  // Of rounds in which one side averaged and the other, alive, did not.
  std::size_t one_sided() const;
  std::size_t messages() const { return messages_; }
  const std::string& log() const { return log_; }
  NodeId id(std::size_t node) const;
  TimePoint now() const { return now_; }
  bool is_dead(std::size_t node) const;

 private:
  struct Node;
  struct Event {
    TimePoint when;
    std::uint64_t order;
    std::function<void()> what;
    bool operator>(const Event& other) const { return std::pair(when, order) > std::pair(other.when, other.order); }
  };

  void schedule(Duration after, std::function<void()> what);
  Duration draw(Duration least, Duration most);
  void feed(std::size_t node, const Exchange::Event& event);
  void carry_out(std::size_t node, const Exchange::Action& action);
  void send(std::size_t from, const NodeId& to, const net::Message& message);
  void offer_part(std::size_t from, const Exchange::OfferPart& offer);
  void take_offer(std::size_t node, const Exchange::TakeOffer& take);
  void check_average(std::size_t node, const Exchange::Average& average);
  void finish(std::size_t node, const Exchange::RoundFinished& finished);
  void start_round(std::size_t node, TimePoint at_least);
  void note(std::size_t node, const Exchange::Action& action);
  std::size_t index_of(const NodeId& id) const { return index_.at(id); }

  NetOptions options_;
  Stream random_;
  TimePoint now_{std::chrono::hours(1)};
  std::uint64_t order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> queue_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::map<NodeId, std::size_t> index_;
  std::map<TransferId, Buffer> moving_;       // parts under way
  std::map<ExchangeId, std::set<std::size_t>> applied_;
  std::map<Round, std::set<std::size_t>> finished_;
  std::map<Round, TimePoint> base_;           // when half of the living had finished the round
  std::vector<RoundResult> results_;
  std::size_t messages_ = 0;
  std::uint64_t transfers_ = 0;
  std::string log_;
};

// The part that node `node` gives for `round`.
Buffer part_of(std::size_t node, Round round);

}  // namespace starling::outer
