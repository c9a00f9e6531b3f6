// One round's end: find a partner, trade (phi, delta), average once, or go on alone. Never a stall.
//
//   idle -> proposed -> accepted -> moving -> (ready) averaged | solo
//
// Proposed: the round has ended here and a partner is sought. Accepted: partner and id are agreed. Moving: my buffer
// travels (bulk). Ready: the partner's (phi, delta) is here and verified AND the partner's Got for mine is here. Then the
// outer step is applied, once. Deadline before both: solo, what came is discarded. No commit protocol can do better (two
// generals), so each side's outcome rides in its next record and a mismatch is counted as one-sided. A partner lost before
// my Got went out: back to proposed while there is time; after it: solo, as the partner may have averaged with my part.
//
// Partners come due together because rounds follow the step clock. A Propose that comes before my own round has ended is
// kept and answered by the end of my round. While my proposal waits for its answer I accept a better edge (pairing.h) and
// decline worse ones; of crossed proposals of one pair the smaller id's counts. Rounds must be equal, else Decline{stale}:
// an offer one round old does harm. Who is more than a round behind catches up by copying.
//
// Messages are lost and repeated: there is one id per round and peer, a Propose is repeated until the wait ends, and an
// Accept that comes late still counts while I am free. The proposer answers each Accept with an Accept (with Got, once it
// has the part), so that an acceptor soon learns whether it was taken. Once agreed, each side repeats its word as a
// question; a finished id is remembered for 64 exchanges and answered with Got (averaged) or Decline{finished}.
//
// Waiting: for the partner's accept; silent: solo after max(1 tau, 1 s); but max(4 tau, 1 s) while its record shows it
// still inside this round; after half of that, pair with anybody else who is late. Everybody has refused for good: solo
// at once. The odd one out of a settled view: solo at once, unless somebody has proposed to it. Once agreed: a partner
// that says nothing for max(1 tau, 2 s), or has not finished after max(4 tau, 10 s, the parts at 4 MiB/s), is given up.
//
// `diloco`: all live replicas are partners: everyone sends its part to everyone, Got is not needed, averaged with those
// that arrived by the deadline; parts that come before my own round has ended are kept. `none`: every round is finished at
// once, without Average or Solo.
//
// Each RoundEnded gets exactly one Average or Solo and, after its Applied, exactly one RoundFinished, unless Cancelled.
// Pure: no I/O, no clock. The pair's machine is in pair_exchange, diloco's in group_exchange.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/membership/swarm.h"
#include "gossip/net/wire.h"
#include "gossip/outer/outer_config.h"
#include "gossip/outer/pairing.h"

namespace starling::outer {

class PairExchange;
class GroupExchange;

class Exchange {
 public:
  struct Config {
    OuterConfig outer;
    std::uint64_t seed = 0;
    Duration min_wait = std::chrono::seconds(1);
    Duration min_transfer_wait = std::chrono::seconds(10);
    Duration min_silence = std::chrono::seconds(2);        // of an agreed partner
    Duration repeat = std::chrono::milliseconds(100);      // until a message that had no answer is sent again
    Duration unsettled = std::chrono::seconds(5);          // after a death in the stage views may differ for so long
    std::uint64_t min_bytes_per_second = 4 << 20;          // below: the transfer is given up
    std::size_t remember = 64;                             // finished ids
    std::size_t max_early = 64;                            // peers whose proposals or parts are kept; others ask again
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
    std::uint64_t expected_bytes = 0;  // of such a part, from the config
  };
  struct PartCame {                // delivered, hash verified
    NodeId from;
    net::ExchangePart part;
    Buffer buffer;
  };
  struct PartFailed {              // bulk gave up on a part, in either direction; Refuse{duplicate} of mine is no failure
    NodeId peer;
    net::ExchangePart part;
  };
  struct SnapshotMade {            // the buffer asked for by MakeSnapshot; null: it could not be made
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
  enum class SoloCause : std::uint8_t { odd_one_out, nobody_answered, partner_gone, transfer_failed, declined, alone, rejected };
  struct Solo {                    // outer step alone
    Round round = 0;
    SoloCause cause = SoloCause::odd_one_out;
  };
  struct RoundFinished {           // after Applied (algorithm none: at once): the next step may begin
    Round round = 0;
    membership::ExchangeOutcome outcome;  // for the record; id null when nobody was met
    bool averaged = false;
    SoloCause cause = SoloCause::odd_one_out;
    std::optional<NodeId> partner;
  };
  struct BehindBy {                // a peer says that we are more than one round behind: copy, if the step clock agrees
    Round round = 0;               // the other's
    NodeId peer;
  };
  struct OneSided {                // the partner's record says otherwise than we remember
    ExchangeId exchange;
  };
  using Action = std::variant<Send, MakeSnapshot, OfferPart, TakeOffer, RefuseOffer, Average, Solo, RoundFinished,
                              BehindBy, OneSided>;

  Exchange(Config config, NodeId self, Boot boot);
  ~Exchange();

  // `swarm`: this node's view now; `round`: the round this node trains in (ignored while busy: that round counts).
  // REQUIRES: RoundEnded only when not busy.
  std::vector<Action> on(const Event& event, const membership::Swarm& swarm, Round round, TimePoint now);
  // `never` only when idle or while compute owes SnapshotMade or Applied.
  TimePoint next_deadline() const;
  bool busy() const;
  // Compares a peer's published outcomes with ours: OneSided, once per id.
  std::vector<Action> compare_outcomes(const membership::Record& record);

 private:
  std::unique_ptr<PairExchange> pair_;    // noloco
  std::unique_ptr<GroupExchange> group_;  // diloco
};

}  // namespace starling::outer
