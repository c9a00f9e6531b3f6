#include "tests/gossip/outer/exchange_net.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace starling::outer {

using membership::PeerState;

struct ExchangeNet::Node {
  std::unique_ptr<Exchange> exchange;
  membership::Swarm swarm;
  Stage stage = 0;
  Round round = 1;
  bool dead = false;
  std::uint64_t tick = 0;  // of the newest timer
  TimePoint ended{};
  bool decided = false;  // Average or Solo of this round is out
  bool applying = false;
  bool snapshot_owed = false;
};

Buffer part_of(std::size_t node, Round round) {
  ByteWriter writer;
  writer.number(static_cast<std::uint64_t>(node));
  writer.number(round);
  return std::make_shared<const Bytes>(std::move(writer).bytes());
}

ExchangeNet::ExchangeNet(NetOptions options) : options_(options), random_(options.seed) {
  options_.exchange.seed = options.seed;
  for (std::size_t i = 0; i < options_.nodes; ++i) {
    NodeId id;
    for (std::byte& b : id.key) b = static_cast<std::byte>(random_.next());
    index_[id] = i;
    nodes_.push_back(std::make_unique<Node>());
    nodes_[i]->exchange = std::make_unique<Exchange>(options_.exchange, id, 1);
    nodes_[i]->stage = static_cast<Stage>(i % options_.stages);
    nodes_[i]->swarm.self = id;
  }
  for (auto& node : nodes_) {
    for (const auto& [id, i] : index_) {
      membership::Peer peer;
      peer.record.id = id;
      peer.record.stage = nodes_[i]->stage;
      peer.state = PeerState::active;
      node->swarm.peers[id] = peer;
    }
  }
}

ExchangeNet::~ExchangeNet() = default;

NodeId ExchangeNet::id(std::size_t node) const { return nodes_[node]->swarm.self; }
bool ExchangeNet::is_dead(std::size_t node) const { return nodes_[node]->dead; }

void ExchangeNet::schedule(Duration after, std::function<void()> what) {
  queue_.push({now_ + after, ++order_, std::move(what)});
}

void ExchangeNet::at(Duration when, std::function<void()> what) { schedule(when, std::move(what)); }

Duration ExchangeNet::draw(Duration least, Duration most) {
  if (most <= least) return least;
  return least +
         Duration(static_cast<Duration::rep>(random_.below(static_cast<std::uint64_t>((most - least).count()))));
}

void ExchangeNet::believe(std::size_t of, std::size_t about, PeerState state) {
  nodes_[of]->swarm.peers[id(about)].state = state;
}

void ExchangeNet::kill(std::size_t victim) {
  nodes_[victim]->dead = true;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    const Duration suspect = draw(options_.suspect_min, options_.suspect_max);
    schedule(suspect, [=, this] { nodes_[i]->swarm.peers[id(victim)].state = PeerState::suspect; });
    schedule(suspect + draw(options_.dead_min, options_.dead_max), [=, this] {
      membership::Peer& peer = nodes_[i]->swarm.peers[id(victim)];
      peer.state = PeerState::dead;
      peer.dead_since = now_;
      feed(i, Exchange::PeerGone{id(victim)});
    });
  }
}

void ExchangeNet::cancel(std::size_t node) {
  feed(node, Exchange::Cancelled{});
  EXPECT_FALSE(nodes_[node]->exchange->busy());
}

void ExchangeNet::run() {
  for (std::size_t i = 0; i < nodes_.size(); ++i) start_round(i, now_ + options_.work + draw({}, options_.skew));
  while (!queue_.empty()) {
    const Event event = queue_.top();
    queue_.pop();
    now_ = event.when;
    event.what();
  }
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    EXPECT_TRUE(nodes_[i]->dead || !nodes_[i]->exchange->busy()) << "node " << i << " is stuck";
  }
}

// The step clock in one sentence: nobody ends a round before half of the living have finished the one before and worked.
void ExchangeNet::start_round(std::size_t i, TimePoint at_least) {
  queue_.push({std::max(at_least, now_), ++order_, [=, this] {
                 Node& node = *nodes_[i];
                 if (node.dead || node.exchange->busy()) return;
                 node.ended = now_;
                 node.decided = false;
                 feed(i, Exchange::RoundEnded{node.round, node.stage, options_.tau});
               }});
}

void ExchangeNet::feed(std::size_t i, const Exchange::Event& event) {
  Node& node = *nodes_[i];
  if (node.dead) return;
  const auto actions = node.exchange->on(event, node.swarm, node.round, now_);
  for (const Exchange::Action& action : actions) {
    note(i, action);
    if (watch) watch(action, i);
    carry_out(i, action);
  }
  const TimePoint next = node.exchange->next_deadline();
  if (node.exchange->busy() && !node.applying && !node.snapshot_owed) {
    EXPECT_NE(next, never) << "node " << i << " waits without a timer";
  }
  const std::uint64_t tick = ++node.tick;
  if (next == never) return;
  queue_.push({std::max(next, now_), ++order_, [=, this] {
                 if (nodes_[i]->tick == tick) feed(i, Exchange::Tick{});
               }});
}

void ExchangeNet::carry_out(std::size_t i, const Exchange::Action& action) {
  Node& node = *nodes_[i];
  const Duration compute = draw({}, options_.compute_max);
  if (const auto* a = std::get_if<Exchange::Send>(&action)) send(i, a->to, a->message);
  if (const auto* a = std::get_if<Exchange::MakeSnapshot>(&action)) {
    node.snapshot_owed = true;
    schedule(compute, [=, this, round = a->round] {
      nodes_[i]->snapshot_owed = false;
      feed(i, Exchange::SnapshotMade{round, part_of(i, round)});
    });
  }
  if (const auto* a = std::get_if<Exchange::OfferPart>(&action)) offer_part(i, *a);
  if (const auto* a = std::get_if<Exchange::TakeOffer>(&action)) take_offer(i, *a);
  if (const auto* a = std::get_if<Exchange::RefuseOffer>(&action)) {
    moving_.erase(a->transfer);
  }
  const auto* average = std::get_if<Exchange::Average>(&action);
  const auto* solo = std::get_if<Exchange::Solo>(&action);
  if (average != nullptr || solo != nullptr) {
    EXPECT_FALSE(node.decided) << "node " << i << " decides round " << node.round << " twice";
    node.decided = true;
    node.applying = true;
    if (average != nullptr) check_average(i, *average);
    const std::int64_t with = average != nullptr ? static_cast<std::int64_t>(average->others.size()) : 0;
    schedule(compute, [=, this, round = node.round] {
      nodes_[i]->applying = false;
      feed(i, Exchange::Applied{round, with});
    });
  }
  if (const auto* a = std::get_if<Exchange::RoundFinished>(&action)) finish(i, *a);
}

void ExchangeNet::send(std::size_t from, const NodeId& to, const net::Message& message) {
  const std::size_t index = messages_++;
  const std::size_t target = index_of(to);
  if (cut && cut(from, target)) return;
  Fate how = Fate::deliver;
  if (fate) {
    how = fate(index, message);
  } else {
    const double chance = random_.uniform();
    if (chance < options_.loss)
      how = Fate::lose;
    else if (chance < options_.loss + options_.duplication)
      how = Fate::twice;
  }
  const int copies = how == Fate::lose ? 0 : how == Fate::deliver ? 1 : 2;
  for (int i = 0; i < copies; ++i) {
    schedule(draw(options_.latency_min, options_.latency_max), [=, this] {
      feed(target, Exchange::MessageCame{id(from), message});
    });
  }
}

void ExchangeNet::offer_part(std::size_t from, const Exchange::OfferPart& a) {
  const TransferId transfer{id(from), 1, ++transfers_};
  moving_[transfer] = a.buffer;
  const std::size_t to = index_of(a.to);
  const net::Offer offer{.transfer = transfer, .about = a.part, .bytes = a.buffer->size(), .hash = {}, .follows = 0};
  schedule(draw(options_.latency_min, options_.latency_max), [=, this] {
    if (nodes_[to]->dead || !moving_.contains(transfer)) return;
    feed(to, Exchange::PartOffered{id(from), offer, part_of(0, 0)->size()});
    if (!moving_.contains(transfer)) {
      schedule(draw(options_.latency_min, options_.latency_max), [=, this] {
        feed(from, Exchange::PartFailed{id(to), std::get<net::ExchangePart>(offer.about)});
      });
    }
  });
}

void ExchangeNet::take_offer(std::size_t i, const Exchange::TakeOffer& a) {
  const std::size_t from = index_of(a.from);
  const auto part = std::get<net::ExchangePart>(a.offer.about);
  const bool fails = random_.uniform() < options_.part_failure;
  schedule(draw({}, options_.travel_max), [=, this, transfer = a.offer.transfer] {
    const auto it = moving_.find(transfer);
    if (it == moving_.end()) return;
    const Buffer buffer = it->second;
    moving_.erase(it);
    if (!fails && !nodes_[from]->dead) return feed(i, Exchange::PartCame{id(from), part, buffer});
    schedule(std::chrono::seconds(4), [=, this] {
      feed(i, Exchange::PartFailed{id(from), part});
      feed(from, Exchange::PartFailed{id(i), part});
    });
  });
}

void ExchangeNet::check_average(std::size_t i, const Exchange::Average& average) {
  auto& sides = applied_[average.exchange];
  EXPECT_TRUE(sides.insert(i).second) << "an exchange is applied twice";
  EXPECT_LE(sides.size(), 2U) << "three took part in one exchange";
  EXPECT_EQ(average.round, nodes_[i]->round);
  EXPECT_FALSE(average.others.empty());
  std::set<std::uint64_t> givers;
  for (const Buffer& other : average.others) {
    ByteReader reader(*other);
    const auto giver = reader.number<std::uint64_t>();
    EXPECT_TRUE(givers.insert(giver).second);
    EXPECT_NE(giver, i);
    EXPECT_EQ(nodes_[giver]->stage, nodes_[i]->stage);
    EXPECT_EQ(reader.number<Round>(), average.round) << "a part of another round is averaged";
  }
}

void ExchangeNet::finish(std::size_t i, const Exchange::RoundFinished& finished) {
  Node& node = *nodes_[i];
  EXPECT_EQ(finished.round, node.round);
  results_.push_back({node.round, i, node.ended, now_, finished});
  finished_[node.round].insert(i);
  const Round round = node.round++;
  // Others learn of it by gossip, a little later.
  for (auto& other : nodes_) {
    schedule(other.get() == &node ? Duration{} : draw(std::chrono::milliseconds(100), std::chrono::milliseconds(1500)),
             [=, this, view = other.get()] { view->swarm.peers[id(i)].record.round = round + 1; });
  }
  if (round >= options_.rounds) return;
  const auto living = std::count_if(nodes_.begin(), nodes_.end(), [](const auto& n) { return !n->dead; });
  const auto next_end = [&](TimePoint base) { return std::max(base, now_) + options_.work + draw({}, options_.skew); };
  if (base_.contains(round))
    return start_round(i, std::max(base_[round] + options_.work + draw({}, options_.skew), now_ + options_.work / 2));
  std::size_t through = 0;
  for (const std::size_t n : finished_[round]) through += nodes_[n]->dead ? 0 : 1;
  if (2 * through < static_cast<std::size_t>(living)) return;
  base_[round] = now_;
  for (const std::size_t n : finished_[round]) start_round(n, next_end(now_));
}

std::size_t ExchangeNet::one_sided() const {
  std::map<std::pair<Round, std::size_t>, const RoundResult*> by_node;
  for (const RoundResult& result : results_) by_node[{result.round, result.node}] = &result;
  std::size_t count = 0;
  for (const RoundResult& result : results_) {
    if (!result.how.averaged || !result.how.partner) continue;
    const auto partner = by_node.find({result.round, index_of(*result.how.partner)});
    if (partner == by_node.end()) continue;
    const Exchange::RoundFinished& other = partner->second->how;
    if (!other.averaged || other.outcome.exchange != result.how.outcome.exchange) ++count;
  }
  return count;
}

void ExchangeNet::note(std::size_t i, const Exchange::Action& action) {
  log_ +=
      std::to_string(now_.time_since_epoch().count()) + " " + std::to_string(i) + " " + std::to_string(action.index());
  if (const auto* a = std::get_if<Exchange::Send>(&action)) {
    log_ += " " + a->to.brief() + " " + std::to_string(a->message.index());
  }
  if (const auto* a = std::get_if<Exchange::Average>(&action)) log_ += " " + to_string(a->exchange);
  log_ += "\n";
}

}  // namespace starling::outer
