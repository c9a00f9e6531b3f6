// One mechanism for every large buffer: activations, gradients, exchanges, state, backups.
//
// A sender offers a buffer; a receiver that knows its exact size from the config takes or refuses it before it allocates.
// A receiver lets each active peer have some credit: that many bytes may follow an Offer at once, so a small activation
// costs one way and not three; the rest waits for Pulls. Chunks are taken in order only; any other offset is dropped. When
// nothing comes for an ack deadline the receiver pulls again from its last byte, three times, then gives up. So credit,
// acknowledgement, duplicates, resume and refusal are one idea, and loss and duplication below are harmless.
//
//   sender:    offered -> (pulled)* -> released | refused | expired | gone
//   receiver:  announced -> receiving -> delivered -> answered;   announced -> refused;   receiving -> failed | refused
//
// Credit is a level, not a gift: a sender's unpulled bytes (Offer.follows of its live transfers) never exceed the newest
// level it was told, and the end of a transfer returns its bytes without a word. The receiver counts by itself and pulls
// whatever came beyond the level, so a sender that counts otherwise (its Cancel, an old level, a lie) loses time and
// nothing else. Every peer gets the same level, min(credit_bytes, total_credit_bytes / peers rounded up to a power of two):
// it changes rarely, and all levels together never exceed the total. A sender that does not use its level has not heard of
// it and is told again.
//
// What was lost comes again: an Offer that nobody answers, and one whose bytes are all sent but not released, is repeated
// at the peer's ack deadline, at most `max_reoffers` times in a row; a repeated Offer of a transfer that ended here gets
// the same answer again. A chunk may overtake its Offer (they travel on different sockets): early chunks of an unknown
// transfer are kept within the peer's credit for a while. A peer is pulled for one window at a time over all its
// transfers, the most urgent first (microbatches, exchanges, state, the rest), so a state copy never delays a microbatch
// by more than a window, and a transport's queue towards us never holds more than that.
//
// Against a peer that means harm: what it sends unasked is dropped; what it asks is served at most `max_serve_factor` times
// over; a transfer lives at most keep_offered plus its size at `min_bytes_per_second` on either side; tables are bounded
// per peer. It can waste its own credit and its own transfers, nobody else's.
//
// Pure: no I/O, no clock. The same events give the same actions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/wire.h"

namespace starling::net {

class Bulk {
 public:
  struct Config {
    std::uint64_t credit_bytes = 1 << 20;            // per active peer
    std::uint64_t total_credit_bytes = 64 << 20;     // all peers together; more peers share it
    std::uint64_t window_bytes = 4 << 20;            // pulled from one peer and not yet here; one Pull asks for half of it
    Duration keep_offered = std::chrono::seconds(120);  // a buffer whose receiver says nothing is dropped then
    Duration keep_early = std::chrono::seconds(10);     // chunks whose Offer does not come
    std::uint64_t min_bytes_per_second = 32 << 10;   // a slower transfer is given up
    int max_repulls = 3;
    int max_reoffers = 3;
    std::uint64_t max_serve_factor = 8;              // bytes served for one transfer, in sizes of it
    std::size_t max_outgoing = 4096;                 // transfers; beyond: the oldest expires
    std::size_t max_incoming = 4096;                 // beyond: refused as full
    std::size_t max_incoming_per_peer = 256;         // beyond: refused as full
    std::size_t max_early_per_peer = 64;             // unknown transfers with early chunks; beyond: dropped
    std::size_t remembered_per_peer = 1024;          // ended transfers whose repeated Offer gets its answer again
  };

  // ---- what happens
  struct OfferBuffer {        // our own wish; the caller took `transfer` from next_transfer()
    NodeId to;
    TransferId transfer;
    About about;
    Buffer buffer;
    Hash128 hash;             // XXH3-128 of the buffer
  };
  struct OfferCame {          // first; OfferAnnounced asks for a decision when there is one to take
    NodeId from;
    Offer offer;
  };
  struct OfferTaken {         // the worker wants it: `offer.bytes` is what the config says
    NodeId from;
    Offer offer;
  };
  struct OfferRefused {       // the worker does not want it: announced, receiving or delivered but not yet answered
    NodeId from;
    TransferId transfer;
    RefuseCode code;
  };
  struct Answered {           // the worker's word on what was delivered: Accepted when there is an eta, else Release
    NodeId from;
    TransferId transfer;
    std::optional<Duration> eta;
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
  struct PeerUp {             // active: give it credit. A new boot of a peer: PeerDown first
    NodeId peer;
  };
  struct PeerDown {           // dead or left: everything with it ends now
    NodeId peer;
  };
  struct Cancel {             // our own transfer is not wanted any more; one that comes in: OfferRefused{stale}
    TransferId transfer;
  };
  struct WokeLate {           // the loop slept for so long: every deadline moves by it. Before the Tick
    Duration gap;
  };
  struct Tick {};
  using Event = std::variant<OfferBuffer, OfferCame, OfferTaken, OfferRefused, Answered, ChunkCame, PullCame, ReleaseCame,
                             RefuseCame, CreditCame, PeerUp, PeerDown, Cancel, WokeLate, Tick>;

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
  struct OfferAnnounced {     // answer with OfferTaken or OfferRefused before the next OfferCame
    NodeId from;
    Offer offer;
  };
  struct Delivered {          // complete and its hash holds. Answer with Answered or OfferRefused
    NodeId from;
    Offer offer;
    Buffer buffer;
  };
  struct ReceiveFailed {      // a taken transfer will not be delivered; its sender was told where that helps
    NodeId from;
    Offer offer;
    enum class Why { silent, bad_checksum, gone, full } why;
  };
  struct SendEnded {          // our transfer is over without Release
    NodeId to;
    TransferId transfer;
    About about;
    enum class Why { refused, expired, gone } why;
    RefuseCode code;          // with refused
  };
  using Action = std::variant<SendControl, SendChunk, OfferAnnounced, Delivered, ReceiveFailed, SendEnded>;

  Bulk(Config config, NodeId self, Boot boot);
  ~Bulk();
  Bulk(Bulk&&) noexcept;
  Bulk& operator=(Bulk&&) noexcept;

  TransferId next_transfer() { return {self_, boot_, ++counter_}; }
  std::vector<Action> on(const Event& event, TimePoint now);
  TimePoint next_deadline() const;

  // Bytes of receive buffers in use now; never above what was taken plus the credit given.
  std::uint64_t receiving_bytes() const;
  // Bytes that came, or are due, without a Pull: at most the peer's level.
  std::uint64_t unpulled_bytes(const NodeId& peer) const;

 private:
  struct State;

  NodeId self_;
  Boot boot_;
  std::uint64_t counter_ = 0;
  std::unique_ptr<State> state_;
};

}  // namespace starling::net
