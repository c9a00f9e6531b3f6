#include "gossip/membership/dissemination.h"

#include <bit>
#include <utility>

namespace starling::membership {
namespace {

// Of routine items on one packet: the rest is left to what matters, and to bandwidth.
constexpr std::size_t max_routine = 16;

}  // namespace

void Dissemination::add_record(const NodeId& id, Bytes record, Urgency urgency) {
  add(Key{id, {}}, std::move(record), urgency);
}

void Dissemination::add_accusation(const NodeId& accused, const NodeId& accuser, Bytes suspicion) {
  add(Key{accused, accuser}, std::move(suspicion), Urgency::urgent);
}

void Dissemination::drop_accusations(const NodeId& accused) {
  auto it = items_.upper_bound(Key{accused, {}});
  while (it != items_.end() && it->first.about == accused) erase(it++);
}

void Dissemination::drop_record(const NodeId& id) {
  const auto it = items_.find(Key{id, {}});
  if (it != items_.end()) erase(it);
}

std::vector<net::Update> Dissemination::take(std::size_t max, Share share, std::size_t members) {
  std::vector<net::Update> out;
  std::vector<Rank> told;
  std::size_t routine_left = share == Share::all ? max_routine : 0;
  for (const Rank& rank : ranks_) {
    if (out.size() == max) break;
    if (rank.urgency == Urgency::routine && routine_left-- == 0) break;
    out.push_back({rank.key.accuser.is_null() ? net::Update::Kind::record : net::Update::Kind::suspicion,
                   items_.at(rank.key).bytes});
    told.push_back(rank);
  }
  for (Rank& rank : told) {
    const auto it = items_.find(rank.key);
    if (rank.told + 1 >= (rank.urgency == Urgency::urgent ? urgent_copies(members) : routine_copies(members))) {
      erase(it);
      continue;
    }
    ranks_.erase(rank);
    ++rank.told;
    rank.turn = next_turn_++;
    it->second.rank = rank;
    ranks_.insert(rank);
  }
  return out;
}

// std::bit_width(n) = ceil(log2(n + 1)).
std::size_t Dissemination::urgent_copies(std::size_t members) { return 3 * routine_copies(members); }
std::size_t Dissemination::routine_copies(std::size_t members) {
  return static_cast<std::size_t>(std::bit_width(members));
}

void Dissemination::add(const Key& key, Bytes bytes, Urgency urgency) {
  Rank rank{urgency, 0, next_turn_++, key};
  const auto it = items_.find(key);
  if (it != items_.end()) {
    if (urgency == Urgency::routine && it->second.rank.urgency == Urgency::urgent) {
      it->second.bytes = std::move(bytes);  // the urgent part is inside the newer version too
      return;
    }
    ranks_.erase(it->second.rank);
    it->second = Item{rank, std::move(bytes)};
  } else {
    items_.emplace(key, Item{rank, std::move(bytes)});
  }
  ranks_.insert(rank);
  if (items_.size() > max_items_) erase(items_.find(ranks_.rbegin()->key));
}

void Dissemination::erase(std::map<Key, Item>::iterator item) {
  ranks_.erase(item->second.rank);
  items_.erase(item);
}

}  // namespace starling::membership
