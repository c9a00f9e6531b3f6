// What this node knows of every node of the run, itself included, and the lists that deciders ask for on every event.
//
// The view (view.h) fills it; every other decider reads it and never learns how it came about.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/record.h"

namespace starling::membership {

enum class PeerState : std::uint8_t { joining, active, paused, suspect, dead, left };
std::string_view to_string(PeerState state);

struct Peer {
  Record record;
  PeerState state = PeerState::joining;
  TimePoint record_at{};       // when its record came, by our clock: load is aged from here
  Step done = -1;              // the largest D known for (id, boot), from its record, probes or Done
  TimePoint dead_since{};      // with state dead or left
};

// The table itself: a std::map by id that remembers which of its members are live. Every way to change it forgets the
// lists, and the next question makes them again, so a reference that operator[] gave must not be written through after
// the lists were asked for.
class PeerTable {
 public:
  using Map = std::map<NodeId, Peer>;
  PeerTable() = default;
  PeerTable(std::initializer_list<Map::value_type> peers) : map_(peers) {}

  Map::const_iterator begin() const { return map_.begin(); }
  Map::const_iterator end() const { return map_.end(); }
  Map::const_iterator find(const NodeId& id) const { return map_.find(id); }
  const Peer& at(const NodeId& id) const { return map_.at(id); }
  Peer& at(const NodeId& id) { return lists_known_ = false, map_.at(id); }
  bool contains(const NodeId& id) const { return map_.contains(id); }
  std::size_t size() const { return map_.size(); }
  bool empty() const { return map_.empty(); }
  Peer& operator[](const NodeId& id) { return lists_known_ = false, map_[id]; }
  std::size_t erase(const NodeId& id) { return lists_known_ = false, map_.erase(id); }

  // For changes of fields that no list depends on: anything but state, role and stage. Null: not there.
  Peer* quietly(const NodeId& id);

  // By id, ascending; references hold until the next change.
  const std::vector<NodeId>& live_replicas(Stage stage) const;
  const std::vector<NodeId>& live_workers() const;

 private:
  void make_lists() const;

  Map map_;
  mutable bool lists_known_ = false;
  mutable std::vector<NodeId> workers_;
  mutable std::map<Stage, std::vector<NodeId>> replicas_;
};

// Ordered by id. References to lists hold until the swarm changes: within one event of a decider, always.
struct Swarm {
  NodeId self;
  PeerTable peers;
  Step past_done = 0;           // the largest D of lives that are not in the table any more
  std::int64_t past_tokens = 0; // tokens of those lives

  const Peer* find(const NodeId& id) const;
  bool is_live(const NodeId& id) const;                        // active, neither suspect nor dead
  const std::vector<NodeId>& live_replicas(Stage stage) const { return peers.live_replicas(stage); }  // workers only
  const std::vector<NodeId>& live_originators() const { return peers.live_replicas(0); }
  const std::vector<NodeId>& live_workers() const { return peers.live_workers(); }
  Step largest_done() const;           // over all ids ever seen; 0 when none
  std::int64_t total_tokens() const;   // over all ids ever seen
};

}  // namespace starling::membership
