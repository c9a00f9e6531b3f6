// Whom to propose to, whose proposal to take, and when to stop looking: one round's search for a partner.
//
// First half of the wait: only the partner of the pairing counts, as with equal views it will come. Second half (or at
// once, when there is no partner or it has refused): open to everybody, candidates asked in turn, best edge first. Each
// has `repeat` to answer before the next is asked too; a late answer still counts. So the silent ones, who are dead or
// still inside the round, cost little, and two that are both left over find each other on their best common edge.
//
// Part of PairExchange, which speaks; this only judges. Pure: no I/O, no clock.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "gossip/outer/exchange.h"

namespace starling::outer {

class PartnerSearch {
 public:
  // A candidate's last word in this round.
  enum class Answer {
    none,    // nothing yet
    better,  // it hopes for a better edge: ask again
    busy,    // agreed with somebody else, or gone: no hope unless it speaks up
    out,     // not in this round any more
  };

  PartnerSearch(const Exchange::Config& config, const NodeId& self, const Exchange::RoundEnded& ended, TimePoint now);

  // Takes the view in; pairs anew when the live replicas have changed. To be called first at every event.
  void look(const membership::Swarm& swarm, TimePoint now);

  // May its proposal be taken now, or is there hope for a better edge?
  bool takes(const NodeId& peer, TimePoint now) const;
  // The better of two candidates.
  bool prefers(const NodeId& a, const NodeId& b) const;
  // Who is to get our proposal now, if anybody; it counts as asked.
  std::optional<NodeId> ask(TimePoint now);
  void answered(const NodeId& peer, Answer answer) { known_[peer].answer = answer; }
  // It has proposed: alive and free.
  void spoke(const NodeId& peer);
  bool is_out(const NodeId& peer) const { return answer_of(peer) == Answer::out; }

  // Why to go on alone; unset while there is hope and time.
  std::optional<Exchange::SoloCause> hopeless(TimePoint now) const;
  TimePoint next_deadline(TimePoint now) const;

 private:
  struct Known {
    Answer answer = Answer::none;
    TimePoint ask_again{};   // not before
    bool inside = false;     // its record shows it still inside this round
  };

  Answer answer_of(const NodeId& peer) const;
  bool has_hope(const NodeId& peer) const;
  bool awaits_target(TimePoint now) const;
  std::size_t rank(const NodeId& peer) const;
  Duration short_wait() const;
  Duration long_wait() const;
  TimePoint opens_at() const;
  bool is_open(TimePoint now) const { return now >= opens_at(); }
  TimePoint ends_at() const;

  Exchange::Config config_;
  NodeId self_;
  Round round_;
  Stage stage_;
  Duration tau_;
  TimePoint began_;
  TimePoint paired_at_;
  std::vector<NodeId> live_;
  Pairing pairing_;
  bool settled_ = true;              // nobody of the stage is suspected or has just died
  std::map<NodeId, Known> known_;
  std::optional<NodeId> target_;     // asked last; may answer until target_until_ before worse edges are taken
  TimePoint target_until_{};
};

}  // namespace starling::outer
