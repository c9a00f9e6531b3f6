// One round's end: find a partner, trade (phi, delta), average once, or go on alone. Never a stall.
//
//   idle -> proposed -> accepted -> moving -> ready -> averaged;   any -> solo (deadline, refusal of all, partner gone)
//
// Proposed: my Propose is out. Accepted: partner and id are agreed. Moving: both buffers travel (bulk). Ready: the
// partner's (phi, delta) is here and verified AND the partner's Got for mine is here. Then the outer step is applied,
// once. Deadline before both: solo, what came is discarded. No commit protocol can do better (two generals), so each
// side's outcome rides in its next record and a mismatch is counted as one-sided.
//
// Partners come due together because rounds follow the step clock. While my proposal is out I accept a better edge
// (pairing.h) and decline worse ones; of crossed proposals of one pair the smaller id's counts. Rounds must be equal, else
// Decline{stale}: an offer one round old does harm. Who is more than a round behind catches up by copying.
//
// Waiting: for the partner's accept; silent: solo after max(1 tau, 1 s); but max(4 tau, 1 s) while its record shows it
// still inside this round; after half of that, pair with anybody else who is late. From accept on, bulk's no-progress
// deadline holds, and overall max(4 tau, 10 s).
//
// `diloco`: the same machine with all live replicas as partners: everyone sends its part to everyone, Got is not needed,
// averaged with those that arrived by the deadline. `none`: every round ends at once without an outer step.
//
// A finished id is remembered for 64 exchanges and Got is repeated on request: a late duplicate changes nothing.
// Pure: no I/O, no clock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <map>
#include <optional>
#include <set>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/view.h"
#include "gossip/net/wire.h"
#include "gossip/outer/outer_config.h"
#include "gossip/outer/pairing.h"

namespace starling::outer {

class Exchange {
 public:
  struct Config {
    OuterConfig outer;
    std::uint64_t seed = 0;
    Duration min_wait = std::chrono::seconds(1);
    Duration min_transfer_wait = std::chrono::seconds(10);
    std::size_t remember = 64;
  };

  // ---- what happens
  struct RoundEnded {              // our step r x local_steps has closed and its optimizer step is submitted
    Round round = 0;
    Stage stage = 0;
    Duration tau{};
  };
  struct MessageCame {             // Propose, Accept, Decline, Got
    NodeId from;
    net::Message message;
  };
  struct PartOffered {             // an Offer about an ExchangePart: answered by TakeOffer or RefuseOffer
    NodeId from;
    net::Offer offer;
  };
  struct PartCame {                // delivered, hash verified
    NodeId from;
    net::ExchangePart part;
    Buffer buffer;
  };
  struct PartFailed {              // bulk gave up on a part, in either direction
    NodeId peer;
    net::ExchangePart part;
  };
  struct SnapshotMade {            // the buffer asked for by MakeSnapshot
    Round round = 0;
    Buffer buffer;
  };
  struct Applied {                 // the outer step asked for by Average or Solo is done
    Round round = 0;
    std::int64_t averaged_with = 0;  // 0 after Average: every part was refused by the screens
  };
  struct PeerGone {
    NodeId peer;
  };
  struct Cancelled {};             // woke late or changed stage: drop whatever runs; its round ends without a word
  struct Tick {};
  using Event = std::variant<RoundEnded, MessageCame, PartOffered, PartCame, PartFailed, SnapshotMade, Applied, PeerGone,
                             Cancelled, Tick>;

  // ---- what to do
  struct Send {
    NodeId to;
    net::Message message;
  };
  struct MakeSnapshot {            // once per round, when the first partner is agreed
    Round round = 0;
  };
  struct OfferPart {               // offer our snapshot on bulk
    NodeId to;
    net::ExchangePart part;
    Buffer buffer;
  };
  struct TakeOffer {
    NodeId from;
    net::Offer offer;
  };
  struct RefuseOffer {
    NodeId from;
    TransferId transfer;
    net::RefuseCode code;
  };
  struct Average {                 // outer step with these
    Round round = 0;
    ExchangeId exchange;
    std::vector<Buffer> others;
  };
  enum class SoloCause : std::uint8_t { odd_one_out, nobody_answered, partner_gone, transfer_failed, declined, alone };
  struct Solo {                    // outer step alone (algorithm none: no outer step at all)
    Round round = 0;
    SoloCause cause = SoloCause::odd_one_out;
  };
  struct RoundFinished {           // after Applied: the next step may begin
    Round round = 0;
    membership::ExchangeOutcome outcome;  // for the record; id null when nobody was met
    bool averaged = false;
    SoloCause cause = SoloCause::odd_one_out;
    std::optional<NodeId> partner;
  };
  struct BehindBy {                // a decline or proposal shows that we are more than one round behind: copy
    Round round = 0;               // the other's
    NodeId peer;
  };
  struct OneSided {                // the partner's record says otherwise than we remember
    ExchangeId exchange;
  };
  using Action = std::variant<Send, MakeSnapshot, OfferPart, TakeOffer, RefuseOffer, Average, Solo, RoundFinished,
                              BehindBy, OneSided>;

  Exchange(Config config, NodeId self, Boot boot) : config_(config), self_(self), boot_(boot) {}

  // `swarm`: this node's view now; `round`: this node's round now (for declines while idle).
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, Round round, TimePoint now);
  TimePoint next_deadline() const;
  bool busy() const;
  // Compares a peer's published outcomes with ours: OneSided, once per id.
  std::vector<Action> compare_outcomes(const membership::Record& record);

 private:
  struct Current;
  struct Finished;
  Config config_;
  NodeId self_;
  Boot boot_;
  std::uint64_t counter_ = 0;
  std::shared_ptr<Current> current_;
  std::deque<Finished> finished_;
};

}  // namespace starling::outer
