// The news that this node passes on: newest record per id, accusations per (accused, accuser), each a bounded number of
// times, on packets that travel anyway.
//
// Urgent news (a new life of somebody, an accusation) go first and 3 log2(n + 1) times, which reaches everybody with high
// probability (SWIM 4.1); a routine change (load, D) goes log2(n + 1) times at most, as the next version replaces it
// anyhow. Of equal urgency the least told goes first. What replaces an item that is still urgent stays urgent. Who is
// missed learns it from the pages that every node reads from others all the time (view.h), so nothing here must succeed.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/ids.h"
#include "gossip/net/wire.h"

namespace starling::membership {

class Dissemination {
 public:
  enum class Urgency : std::uint8_t { urgent, routine };
  enum class Share { all, urgent_only };

  // Beyond `max_items` the most told routine item gives way.
  explicit Dissemination(std::size_t max_items) : max_items_(max_items) {}

  void add_record(const NodeId& id, Bytes record, Urgency urgency);
  void add_accusation(const NodeId& accused, const NodeId& accuser, Bytes suspicion);
  // The accused has shown a newer life, or is gone: nobody needs to hear of it any more.
  void drop_accusations(const NodeId& accused);
  void drop_record(const NodeId& id);

  // The next `max` items for one packet to a swarm of `members`; counts them as told once more.
  std::vector<net::Update> take(std::size_t max, Share share, std::size_t members);
  static std::size_t urgent_copies(std::size_t members);   // 3 ceil(log2(members + 1))
  static std::size_t routine_copies(std::size_t members);  // a third of it
  bool has_urgent() const { return !ranks_.empty() && ranks_.begin()->urgency == Urgency::urgent; }
  std::size_t size() const { return items_.size(); }

 private:
  struct Key {
    NodeId about;
    NodeId accuser;              // null: the record itself
    auto operator<=>(const Key&) const = default;
  };
  struct Rank {
    Urgency urgency = Urgency::routine;
    std::size_t told = 0;
    std::uint64_t turn = 0;      // unique, so that equals take turns
    Key key;
    auto operator<=>(const Rank&) const = default;
  };
  struct Item {
    Rank rank;
    Bytes bytes;
  };

  void add(const Key& key, Bytes bytes, Urgency urgency);
  void erase(std::map<Key, Item>::iterator item);

  std::size_t max_items_;
  std::map<Key, Item> items_;
  std::set<Rank> ranks_;         // one for each item
  std::uint64_t next_turn_ = 0;
};

}  // namespace starling::membership
