// Order of this file: the state, what both halves share, sending, receiving, peers, time.
#include "gossip/net/bulk.h"

#include <algorithm>
#include <bit>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "gossip/base/large_buffer.h"
#include "gossip/net/ack_deadline.h"
#include "gossip/net/streaming_hash.h"

namespace starling::net {
namespace {

constexpr std::uint64_t chunk_bytes = max_chunk_payload_bytes;

// Smaller is pulled first.
int urgency(const About& about) {
  if (std::holds_alternative<MicrobatchHeader>(about)) return 0;
  if (std::holds_alternative<ExchangePart>(about)) return 1;
  return std::holds_alternative<StatePart>(about) ? 2 : 3;
}

}  // namespace

struct Bulk::State {
  struct Outgoing {
    NodeId to;
    About about;
    Buffer buffer;
    Hash128 hash{};
    std::uint64_t follows = 0;   // of the receiver's credit
    std::uint64_t sent = 0;      // the highest byte that was ever sent, plus one
    std::uint64_t servable = 0;  // bytes that Pulls may still ask for
    int reoffers = 0;            // in a row
    bool heard = false;          // the receiver has said anything about it
    TimePoint offered_at{};
    TimePoint reoffer_at = never;
    TimePoint expires_at{};
    TimePoint due = never;  // as in State::due
  };
  struct Incoming {
    Offer offer;
    Bytes bytes;  // what is here, in order from 0
    StreamingHash hash;
    std::uint64_t unpulled = 0;              // of the credit that we gave
    std::uint64_t asked = 0;                 // may come: followed the Offer or was pulled
    std::uint64_t hurried = 0;               // no second Pull because of a gap before this byte is here
    std::uint64_t turn = 0;                  // its place among the hungry
    int repulls = 0;                         // in a row, without a byte
    std::optional<std::uint64_t> sample_at;  // the byte that answers the Pull of `pulled_at`
    TimePoint pulled_at{};
    TimePoint quiet_at = never;  // nothing came until then: pull again
    TimePoint expires_at{};
    TimePoint due = never;

    std::uint64_t here() const { return bytes.size(); }
    bool wants_more() const { return asked < offer.bytes; }
  };
  struct Early {
    Bytes bytes;
    TimePoint due = never;
  };
  // What is said again when the Offer of an ended transfer is repeated.
  struct Ended {
    std::optional<Message> answer;  // none: delivered, and the worker has not spoken yet
    TimePoint at{};
  };
  struct Peer {
    bool up = false;
    // Towards us.
    std::uint64_t level = 0;      // the credit that it was told last
    std::uint64_t unpulled = 0;   // of that
    std::uint64_t under_way = 0;  // asked and not here, over all its transfers
    std::size_t incoming = 0;
    // Transfers that want more: the most urgent first, of those the one that was pulled longest ago. So three parts of
    // a state advance together, and the sender of each hears that it is wanted.
    std::set<std::tuple<int, std::uint64_t, TransferId>> hungry;
    std::uint64_t next_turn = 0;
    std::map<TransferId, Early> early;
    SharedDeadline pulls;
    std::map<TransferId, Ended> ended;
    std::deque<TransferId> ended_order;
    // From us.
    std::uint64_t credit = 0;  // the level that it told us
    std::uint64_t used = 0;    // of that
    SharedDeadline offers;

    std::uint64_t credit_left() const { return level > unpulled ? level - unpulled : 0; }
  };
  using OutgoingAt = std::map<TransferId, Outgoing>::iterator;
  using IncomingAt = std::map<TransferId, Incoming>::iterator;

  Config config;
  NodeId self;
  std::map<TransferId, Outgoing> outgoing;
  std::map<TransferId, Incoming> incoming;
  std::map<NodeId, Peer> peers;  // of members only, so their number is bounded by the view
  std::size_t peers_up = 0;
  std::set<std::pair<TimePoint, TransferId>> due;  // one entry per transfer that waits for anything
  // Of the event that is being handled.
  TimePoint now{};
  std::vector<Action> actions;

  // ---------------------------------------------------------------- both halves

  void send(const NodeId& to, Message message) { actions.emplace_back(SendControl{to, std::move(message)}); }

  void arm(const TransferId& id, TimePoint& slot, TimePoint when) {
    if (slot == when) return;
    if (slot != never) due.erase({slot, id});
    slot = when;
    if (when != never) due.insert({when, id});
  }
  void arm(OutgoingAt at) { arm(at->first, at->second.due, earliest(at->second.reoffer_at, at->second.expires_at)); }
  void arm(IncomingAt at) { arm(at->first, at->second.due, earliest(at->second.quiet_at, at->second.expires_at)); }

  // However much the other side dawdles.
  Duration longest_life(std::uint64_t bytes) const {
    return config.keep_offered +
           from_seconds(static_cast<double>(bytes) / static_cast<double>(config.min_bytes_per_second));
  }

  // ---------------------------------------------------------------- sending

  void handle(const OfferBuffer& event) {
    STARLING_CHECK(event.buffer != nullptr && event.to != self, "an offer is a buffer for somebody else");
    if (outgoing.size() >= config.max_outgoing) end(outgoing.begin(), SendEnded::Why::expired);
    const auto [at, is_new] = outgoing.try_emplace(event.transfer);
    STARLING_CHECK(is_new && event.transfer.sender == self, "a transfer id of ours is used once");
    Outgoing& out = at->second;
    Peer& peer = peers[event.to];
    out.to = event.to;
    out.about = event.about;
    out.buffer = event.buffer;
    out.hash = event.hash;

    const std::uint64_t bytes = out.buffer->size();
    // However generous the peer is: what goes ahead must fit into our own transport's queue.
    const std::uint64_t level = std::min(peer.credit, config.window_bytes);
    const std::uint64_t left = level > peer.used ? level - peer.used : 0;
    out.follows = bytes <= left ? bytes : left / chunk_bytes * chunk_bytes;
    peer.used += out.follows;
    out.servable = config.max_serve_factor * (bytes + chunk_bytes);

    out.offered_at = now;
    out.expires_at = now + config.keep_offered;
    out.reoffer_at = now + peer.offers.deadline();
    say_offer(at);
    send_bytes(at, 0, out.follows);
    arm(at);
  }

  void say_offer(OutgoingAt at) {
    const Outgoing& out = at->second;
    send(out.to, Offer{at->first, out.about, out.buffer->size(), out.hash, out.follows});
  }

  void send_bytes(OutgoingAt at, std::uint64_t from, std::uint64_t upto) {
    Outgoing& out = at->second;
    for (std::uint64_t offset = from; offset < upto; offset += chunk_bytes) {
      actions.emplace_back(SendChunk{out.to, at->first, offset, out.buffer, std::min(chunk_bytes, upto - offset)});
    }
    out.sent = std::max(out.sent, upto);
  }

  void handle(const PullCame& event) {
    const auto at = outgoing.find(event.pull.transfer);
    if (at == outgoing.end() || at->second.to != event.from) return;
    Outgoing& out = at->second;
    const std::uint64_t bytes = out.buffer->size();
    const std::uint64_t from = event.pull.from;
    if (from >= bytes) return;
    const std::uint64_t upto = std::min({event.pull.upto, from + config.window_bytes, bytes});
    const std::uint64_t price = std::max(upto - from, chunk_bytes);
    if (price > out.servable) return end(at, SendEnded::Why::expired);
    out.servable -= price;

    heard_of(at);
    out.expires_at = std::min(now + config.keep_offered, out.offered_at + longest_life(bytes));
    send_bytes(at, from, upto);
    // Until everything is sent the receiver drives; after that a lost Release is ours to notice.
    out.reoffer_at = out.sent == bytes ? now + peers.at(out.to).offers.deadline() : never;
    arm(at);
  }

  // The receiver spoke of this transfer: a sample, if it is the first word.
  void heard_of(OutgoingAt at) {
    Outgoing& out = at->second;
    out.reoffers = 0;
    if (!std::exchange(out.heard, true)) peers.at(out.to).offers.answered(now - out.offered_at);
  }

  void handle(const ReleaseCame& event) {
    const auto at = outgoing.find(event.transfer);
    if (at == outgoing.end() || at->second.to != event.from) return;
    heard_of(at);
    erase(at);
  }

  void handle(const RefuseCame& event) {
    const auto at = outgoing.find(event.refuse.transfer);
    if (at == outgoing.end() || at->second.to != event.from) return;
    heard_of(at);
    end(at, SendEnded::Why::refused, event.refuse.code);
  }

  void handle(const CreditCame& event) { peers[event.from].credit = event.credit.bytes; }

  void outgoing_due(OutgoingAt at) {
    Outgoing& out = at->second;
    if (out.expires_at <= now) return end(at, SendEnded::Why::expired);
    out.reoffer_at = never;
    if (out.reoffers < config.max_reoffers) {
      ++out.reoffers;
      SharedDeadline& offers = peers.at(out.to).offers;
      offers.timed_out(now);
      out.reoffer_at = now + offers.deadline();
      say_offer(at);
    }
    arm(at);
  }

  void end(OutgoingAt at, SendEnded::Why why, RefuseCode code = RefuseCode::full) {
    actions.emplace_back(SendEnded{at->second.to, at->first, std::move(at->second.about), why, code});
    erase(at);
  }

  void erase(OutgoingAt at) {
    peers.at(at->second.to).used -= at->second.follows;
    arm(at->first, at->second.due, never);
    outgoing.erase(at);
  }

  // ---------------------------------------------------------------- receiving

  void handle(const OfferCame& event) {
    if (incoming.contains(event.offer.transfer)) return;  // its sender is impatient; the bytes are under way
    const auto peer = peers.find(event.from);
    if (peer != peers.end()) {
      const auto ended = peer->second.ended.find(event.offer.transfer);
      if (ended != peer->second.ended.end()) return answer_again(event.from, ended->second);
    }
    actions.emplace_back(OfferAnnounced{event.from, event.offer});
  }

  void handle(const OfferTaken& event) {
    const TransferId& id = event.offer.transfer;
    Peer& peer = peers[event.from];
    if (incoming.contains(id) || peer.ended.contains(id)) return;
    if (incoming.size() >= config.max_incoming || peer.incoming >= config.max_incoming_per_peer) {
      drop_early(peer, id);
      refuse(event.from, id, RefuseCode::full);
      actions.emplace_back(ReceiveFailed{event.from, event.offer, ReceiveFailed::Why::full});
      return;
    }
    const auto at = incoming.try_emplace(id).first;
    Incoming& in = at->second;
    ++peer.incoming;
    in.offer = event.offer;
    in.expires_at = now + longest_life(in.offer.bytes);
    reserve_large(in.bytes, in.offer.bytes);
    take_early(peer, in);

    const bool untouched = peer.unpulled == 0;
    in.unpulled = std::min(in.offer.follows, peer.credit_left());
    in.unpulled = std::max(in.unpulled, in.here());
    peer.unpulled += in.unpulled;
    in.asked = in.unpulled;
    peer.under_way += in.asked - in.here();
    if (in.here() == in.offer.bytes) return complete(at);

    if (in.asked > in.here()) in.quiet_at = now + peer.pulls.deadline();
    if (in.wants_more()) queue(peer, at);
    // Nothing sent ahead although nothing of the credit is used: it does not know of it.
    if (in.offer.follows == 0 && untouched && peer.level >= std::min(in.offer.bytes, chunk_bytes)) {
      send(event.from, Credit{peer.level});
    }
    arm(at);
    pull_more(event.from, peer);
  }

  // Early bytes become the first bytes, unless there are more of them than were offered.
  void take_early(Peer& peer, Incoming& in) {
    const auto early = peer.early.find(in.offer.transfer);
    if (early == peer.early.end()) return;
    if (early->second.bytes.size() <= in.offer.bytes) {
      in.bytes.insert(in.bytes.end(), early->second.bytes.begin(), early->second.bytes.end());
      in.hash.add(in.bytes);
    }
    drop_early(peer, in.offer.transfer);
  }

  void drop_early(Peer& peer, const TransferId& id) {
    const auto early = peer.early.find(id);
    if (early == peer.early.end()) return;
    peer.unpulled -= early->second.bytes.size();
    arm(id, early->second.due, never);
    peer.early.erase(early);
  }

  void queue(Peer& peer, IncomingAt at) {
    at->second.turn = peer.next_turn++;
    peer.hungry.insert({urgency(at->second.offer.about), at->second.turn, at->first});
  }

  // Fills the peer's window.
  void pull_more(const NodeId& from, Peer& peer) {
    const std::uint64_t most = std::max<std::uint64_t>(config.window_bytes / 2, 1);
    while (!peer.hungry.empty()) {
      const auto at = incoming.find(std::get<TransferId>(*peer.hungry.begin()));
      Incoming& in = at->second;
      const std::uint64_t size = std::min(most, in.offer.bytes - in.asked);
      // Half a window at a time: the next Pull leaves while the other half is still coming.
      if (peer.under_way > 0 && peer.under_way + size > config.window_bytes) return;
      send(from, Pull{at->first, in.asked, in.asked + size});
      if (!in.sample_at) {
        in.sample_at = in.asked;
        in.pulled_at = now;
      }
      if (in.asked == in.here()) in.quiet_at = now + peer.pulls.deadline();
      in.asked += size;
      peer.under_way += size;
      peer.hungry.erase(peer.hungry.begin());
      if (in.wants_more()) queue(peer, at);
      arm(at);
    }
  }

  void handle(const ChunkCame& event) {
    const Chunk& chunk = event.chunk;
    const auto known = peers.find(chunk.transfer.sender);
    if (known == peers.end()) return;
    Peer& peer = known->second;
    const auto at = incoming.find(chunk.transfer);
    if (at == incoming.end()) return keep_early(peer, chunk);
    Incoming& in = at->second;
    if (chunk.offset != in.here()) {
      // On a lane that keeps its order, a chunk from further on means that those between are lost: no need to wait.
      if (chunk.offset > in.here() && chunk.offset < in.asked && in.here() >= in.hurried) {
        in.hurried = in.asked;
        pull_again(at, peer);
      }
      return;
    }
    const ByteView payload = chunk.payload.first(std::min(chunk.payload.size(), in.asked - in.here()));
    if (payload.empty()) return;

    in.bytes.insert(in.bytes.end(), payload.begin(), payload.end());
    in.hash.add(payload);
    peer.under_way -= payload.size();
    in.repulls = 0;
    if (in.sample_at && in.here() > *in.sample_at) {
      peer.pulls.answered(now - in.pulled_at);
      in.sample_at.reset();
    }
    if (in.here() == in.offer.bytes) return complete(at);
    in.quiet_at = in.asked > in.here() ? now + peer.pulls.deadline() : never;
    arm(at);
    pull_more(chunk.transfer.sender, peer);
  }

  // Its Offer travels on another lane and may be behind.
  void keep_early(Peer& peer, const Chunk& chunk) {
    if (chunk.payload.size() > peer.credit_left() || peer.ended.contains(chunk.transfer)) return;
    auto early = peer.early.find(chunk.transfer);
    if (early == peer.early.end()) {
      if (chunk.offset != 0 || peer.early.size() >= config.max_early_per_peer) return;
      early = peer.early.try_emplace(chunk.transfer).first;
      arm(chunk.transfer, early->second.due, now + config.keep_early);
    }
    Bytes& bytes = early->second.bytes;
    if (chunk.offset != bytes.size()) return;
    bytes.insert(bytes.end(), chunk.payload.begin(), chunk.payload.end());
    peer.unpulled += chunk.payload.size();
  }

  void pull_again(IncomingAt at, Peer& peer) {
    Incoming& in = at->second;
    send(at->first.sender, Pull{at->first, in.here(), in.asked});
    in.sample_at = in.here();
    in.pulled_at = now;
    in.quiet_at = now + peer.pulls.deadline();
    arm(at);
  }

  void complete(IncomingAt at) {
    if (at->second.hash.value() != at->second.offer.hash) return fail_receive(at, ReceiveFailed::Why::bad_checksum);
    const TransferId id = at->first;
    Incoming in = take(at);
    Peer& peer = peers.at(id.sender);
    remember(peer, id, Ended{std::nullopt, now});
    actions.emplace_back(Delivered{id.sender, std::move(in.offer), std::make_shared<const Bytes>(std::move(in.bytes))});
    pull_more(id.sender, peer);
  }

  void handle(const Answered& event) {
    Message answer = Release{event.transfer};
    if (event.eta) answer = Accepted{event.transfer, *event.eta};
    send(event.from, answer);
    remember(peers[event.from], event.transfer, Ended{std::move(answer), now});
  }

  void handle(const OfferRefused& event) {
    Peer& peer = peers[event.from];
    const auto at = incoming.find(event.transfer);
    if (at != incoming.end()) take(at);
    drop_early(peer, event.transfer);
    refuse(event.from, event.transfer, event.code);
    pull_more(event.from, peer);
  }

  // The loss of a transfer that was taken. Its sender is told, so that it need not wait for its own deadline.
  void fail_receive(IncomingAt at, ReceiveFailed::Why why) {
    const TransferId id = at->first;
    actions.emplace_back(ReceiveFailed{id.sender, take(at).offer, why});
    if (why == ReceiveFailed::Why::gone) return;
    refuse(id.sender, id, why == ReceiveFailed::Why::bad_checksum ? RefuseCode::malformed : RefuseCode::full);
    pull_more(id.sender, peers.at(id.sender));
  }

  void refuse(const NodeId& from, const TransferId& id, RefuseCode code) {
    const Message answer = Refuse{id, code};
    send(from, answer);
    remember(peers[from], id, Ended{answer, now});
  }

  void remember(Peer& peer, const TransferId& id, Ended ended) {
    if (!peer.ended.insert_or_assign(id, std::move(ended)).second) return;
    peer.ended_order.push_back(id);
    if (peer.ended_order.size() > config.remembered_per_peer) {
      peer.ended.erase(peer.ended_order.front());
      peer.ended_order.pop_front();
    }
  }

  void answer_again(const NodeId& to, const Ended& ended) {
    if (!ended.answer) return;
    Message answer = *ended.answer;
    // An eta counts from the moment it is said.
    if (auto* accepted = std::get_if<Accepted>(&answer)) {
      accepted->eta = std::max(accepted->eta - (now - ended.at), Duration::zero());
    }
    send(to, std::move(answer));
  }

  void incoming_due(IncomingAt at) {
    Incoming& in = at->second;
    if (in.expires_at <= now) return fail_receive(at, ReceiveFailed::Why::silent);
    Peer& peer = peers.at(at->first.sender);
    peer.pulls.timed_out(now);
    if (++in.repulls > config.max_repulls) return fail_receive(at, ReceiveFailed::Why::silent);
    pull_again(at, peer);
  }

  // Out of every table; gives back its credit and its part of the window.
  Incoming take(IncomingAt at) {
    Peer& peer = peers.at(at->first.sender);
    Incoming in = std::move(at->second);
    peer.unpulled -= in.unpulled;
    peer.under_way -= in.asked - in.here();
    --peer.incoming;
    peer.hungry.erase({urgency(in.offer.about), in.turn, at->first});
    arm(at->first, in.due, never);
    incoming.erase(at);
    return in;
  }

  // ---------------------------------------------------------------- peers

  std::uint64_t level() const {
    return std::min(config.credit_bytes, config.total_credit_bytes / std::bit_ceil(std::max<std::size_t>(peers_up, 1)));
  }

  void tell_levels() {
    const std::uint64_t now_level = level();
    for (auto& [id, peer] : peers) {
      if (!peer.up || peer.level == now_level) continue;
      peer.level = now_level;
      send(id, Credit{now_level});
    }
  }

  void handle(const PeerUp& event) {
    if (event.peer == self) return;
    Peer& peer = peers[event.peer];
    if (peer.up) return send(event.peer, Credit{peer.level});
    peer.up = true;
    ++peers_up;
    tell_levels();
  }

  void handle(const PeerDown& event) {
    const auto at = peers.find(event.peer);
    if (at == peers.end()) return;
    const NodeId gone = event.peer;
    for (auto next = outgoing.begin(); next != outgoing.end();) {
      const auto current = next++;
      if (current->second.to == gone) end(current, SendEnded::Why::gone);
    }
    // All of one sender stand together.
    for (auto next = incoming.lower_bound({gone, 0, 0}); next != incoming.end() && next->first.sender == gone;) {
      fail_receive(next++, ReceiveFailed::Why::gone);
    }
    while (!at->second.early.empty()) drop_early(at->second, TransferId(at->second.early.begin()->first));
    if (at->second.up) --peers_up;
    peers.erase(at);
    tell_levels();
  }

  void handle(const Cancel& event) {
    const auto at = outgoing.find(event.transfer);
    if (at != outgoing.end()) return erase(at);
    if (incoming.contains(event.transfer))
      handle(OfferRefused{event.transfer.sender, event.transfer, RefuseCode::stale});
  }

  // ---------------------------------------------------------------- time

  void handle(const WokeLate& event) {
    const auto shift = [&](TimePoint& t) {
      if (t != never) t += event.gap;
    };
    due.clear();
    for (auto at = outgoing.begin(); at != outgoing.end(); ++at) {
      Outgoing& out = at->second;
      out.due = never;
      for (TimePoint* t : {&out.offered_at, &out.reoffer_at, &out.expires_at}) shift(*t);
      arm(at);
    }
    for (auto at = incoming.begin(); at != incoming.end(); ++at) {
      Incoming& in = at->second;
      in.due = never;
      for (TimePoint* t : {&in.pulled_at, &in.quiet_at, &in.expires_at}) shift(*t);
      arm(at);
    }
    for (auto& [id, peer] : peers) {
      for (auto& [transfer, early] : peer.early) {
        const TimePoint was = std::exchange(early.due, never);
        arm(transfer, early.due, was + event.gap);
      }
    }
  }

  // Each turn moves the first entry of `due` beyond now or takes it away.
  void handle(const Tick&) {
    while (!due.empty() && due.begin()->first <= now) {
      const TransferId id = due.begin()->second;
      if (id.sender == self) {
        outgoing_due(outgoing.find(id));
      } else if (const auto at = incoming.find(id); at != incoming.end()) {
        incoming_due(at);
      } else {
        drop_early(peers.at(id.sender), id);
      }
    }
  }
};

Bulk::Bulk(Config config, NodeId self, Boot boot) : self_(self), boot_(boot), state_(std::make_unique<State>()) {
  state_->config = config;
  state_->self = self;
}
Bulk::~Bulk() = default;
Bulk::Bulk(Bulk&&) noexcept = default;
Bulk& Bulk::operator=(Bulk&&) noexcept = default;

std::vector<Bulk::Action> Bulk::on(const Event& event, TimePoint now) {
  state_->now = now;
  state_->actions.clear();
  std::visit([this](const auto& e) { state_->handle(e); }, event);
  return std::move(state_->actions);
}

TimePoint Bulk::next_deadline() const { return state_->due.empty() ? never : state_->due.begin()->first; }

std::uint64_t Bulk::receiving_bytes() const {
  std::uint64_t total = 0;
  for (const auto& [id, in] : state_->incoming) total += in.offer.bytes;
  for (const auto& [id, peer] : state_->peers) {
    for (const auto& [transfer, early] : peer.early) total += early.bytes.size();
  }
  return total;
}

std::uint64_t Bulk::unpulled_bytes(const NodeId& peer) const {
  const auto at = state_->peers.find(peer);
  return at == state_->peers.end() ? 0 : at->second.unpulled;
}

}  // namespace starling::net
