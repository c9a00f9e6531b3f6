// One mechanism for every large buffer: activations, gradients, exchanges, state, backups.
//
// A sender offers a buffer; a receiver that knows its exact size from the config takes or refuses it before it allocates.
// A receiver lets each peer have some credit: that many bytes may follow an Offer at once, so a small activation costs one
// way and not three; the rest waits for Pulls. Release, Accepted and Refuse give the transfer's credit back. Chunks are
// taken in order only; any other offset is dropped. When nothing comes for an ack deadline the receiver pulls again from
// its last byte, three times, then gives up. So credit, acknowledgement, duplicates, resume and refusal are one idea, and
// loss and duplication below are harmless.
//
// Pure: no I/O, no clock. A chunk may overtake its Offer (they travel on different sockets): early chunks of an unknown
// transfer are kept within the peer's credit.
//
//   sender:    offered -> (pulled)* -> released | refused | expired
//   receiver:  announced -> receiving -> delivered | failed;  announced -> refused
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/ack_deadline.h"
#include "gossip/net/wire.h"

namespace starling::net {

class Bulk {
 public:
  struct Config {
    std::uint64_t credit_bytes = 1 << 20;            // per active peer
    std::uint64_t total_credit_bytes = 64 << 20;     // all peers together; more peers share it
    std::uint64_t window_bytes = 4 << 20;            // one Pull asks for at most this much
    Duration keep_offered = std::chrono::seconds(120);  // a buffer nobody released is dropped then
    int max_repulls = 3;
    std::size_t max_outgoing = 4096;                 // transfers; beyond: the oldest expires
    std::size_t max_incoming = 4096;                 // beyond: refused as full
  };

  // ---- what happens
  struct OfferBuffer {        // our own wish; the caller took `transfer` from next_transfer()
    NodeId to;
    TransferId transfer;
    About about;
    Buffer buffer;
    Hash128 hash;             // XXH3-128 of the buffer
  };
  struct OfferTaken {         // an Offer came and the worker wants it: `offer.bytes` is what the config says
    NodeId from;
    Offer offer;
  };
  struct OfferRefused {       // an Offer came and the worker does not want it
    NodeId from;
    TransferId transfer;
    RefuseCode code;
  };
  struct ChunkCame {
    Chunk chunk;              // transfer.sender = who sent it
  };
  struct PullCame {
    NodeId from;
    Pull pull;
  };
  struct ReleaseCame {        // Release or Accepted
    NodeId from;
    TransferId transfer;
  };
  struct RefuseCame {
    NodeId from;
    Refuse refuse;
  };
  struct CreditCame {
    NodeId from;
    Credit credit;
  };
  struct PeerUp {             // active: give it credit
    NodeId peer;
  };
  struct PeerDown {           // dead or left: everything with it ends now
    NodeId peer;
  };
  struct Cancel {             // our own transfer, out or in, is not wanted any more
    TransferId transfer;
  };
  struct Tick {};
  using Event = std::variant<OfferBuffer, OfferTaken, OfferRefused, ChunkCame, PullCame, ReleaseCame, RefuseCame,
                             CreditCame, PeerUp, PeerDown, Cancel, Tick>;

  // ---- what to do
  struct SendControl {
    NodeId to;
    Message message;
  };
  struct SendChunk {
    NodeId to;
    TransferId transfer;
    std::uint64_t offset;
    Buffer buffer;            // the chunk is [offset, offset + bytes) of it
    std::uint64_t bytes;
  };
  struct Delivered {          // complete and its hash holds. The worker answers with Accepted or Release
    NodeId from;
    Offer offer;
    Buffer buffer;
  };
  struct ReceiveFailed {      // no progress, wrong hash, or the peer is gone
    NodeId from;
    Offer offer;
    enum class Why { silent, bad_checksum, gone } why;
  };
  struct SendEnded {          // our transfer is over without Release
    NodeId to;
    TransferId transfer;
    About about;
    enum class Why { refused, expired, gone } why;
    RefuseCode code;          // with refused
  };
  using Action = std::variant<SendControl, SendChunk, Delivered, ReceiveFailed, SendEnded>;

  Bulk(Config config, NodeId self, Boot boot) : config_(config), self_(self), boot_(boot) {}

  TransferId next_transfer() { return {self_, boot_, ++counter_}; }
  std::vector<Action> on(const Event& event, TimePoint now);
  TimePoint next_deadline() const;

  // Bytes of receive buffers allocated now; never above what was taken plus credit.
  std::uint64_t receiving_bytes() const;

 private:
  struct Outgoing;
  struct Incoming;
  struct PeerState;

  Config config_;
  NodeId self_;
  Boot boot_;
  std::uint64_t counter_ = 0;
  std::map<TransferId, std::shared_ptr<Outgoing>> outgoing_;
  std::map<TransferId, std::shared_ptr<Incoming>> incoming_;
  std::map<NodeId, std::shared_ptr<PeerState>> peers_;
};

}  // namespace starling::net
