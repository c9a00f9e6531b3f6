#include "gossip/outer/pair_exchange.h"

#include <algorithm>
#include <utility>

namespace starling::outer {

using membership::ExchangeOutcome;
using Answer = PartnerSearch::Answer;
using DeclineCode = net::Decline::Code;
using SoloCause = Exchange::SoloCause;

std::vector<Exchange::Action> PairExchange::on(const Exchange::Event& event, const membership::Swarm& swarm,
                                               Round round, TimePoint now) {
  std::vector<Exchange::Action> out;
  Turn turn{swarm, current_ ? current_->round : round, now, out};
  if (current_) current_->search.look(swarm, now);
  std::visit([&](const auto& e) { handle(turn, e); }, event);
  if (current_) advance(turn);
  next_deadline_ = deadline(now);
  return out;
}

// ---------------------------------------------------------------- what happens

void PairExchange::handle(Turn& turn, const Exchange::RoundEnded& event) {
  STARLING_CHECK(!current_, "a round ends while another one is being exchanged");
  std::erase_if(proposals_, [&](const auto& entry) { return entry.second.round < event.round; });
  current_.emplace(Current{.round = event.round,
                           .stage = event.stage,
                           .tau = event.tau,
                           .search = PartnerSearch(config_, self_, event, turn.now)});
  current_->search.look(turn.swarm, turn.now);
  turn.round = event.round;
}

void PairExchange::handle(Turn& turn, const Exchange::MessageCame& event) {
  if (const auto* m = std::get_if<net::Propose>(&event.message)) proposed(turn, event.from, *m);
  if (const auto* m = std::get_if<net::Accept>(&event.message)) accepted(turn, event.from, *m);
  if (const auto* m = std::get_if<net::Decline>(&event.message)) declined(turn, event.from, *m);
  if (const auto* m = std::get_if<net::Got>(&event.message)) got(turn, event.from, *m);
}

void PairExchange::proposed(Turn& turn, const NodeId& from, const net::Propose& propose) {
  if (propose.exchange.proposer != from) return;
  if (const Finished* finished = find_finished(propose.exchange)) return answer_finished(turn, from, *finished);
  if (current_ && current_->agreement && current_->agreement->partner == from) {
    // Its question how things stand; or an old proposal of its own, crossed by the one that counts.
    if (!agreed_with(from, propose.exchange)) return;
    heard(turn, Confirmed::yes);
    return say_where_i_am(turn);
  }
  const membership::Peer* self = turn.swarm.find(self_);
  const Stage stage = current_ ? current_->stage : self != nullptr ? self->record.stage : no_stage;
  if (propose.stage != stage || turn.swarm.find(from) == nullptr) {
    return decline(turn, from, propose.exchange, DeclineCode::wrong_stage);
  }
  if (propose.round < turn.round) {
    const bool just_finished = !current_ && propose.round == turn.round - 1;
    return decline(turn, from, propose.exchange, just_finished ? DeclineCode::finished : DeclineCode::stale);
  }
  if (propose.round > turn.round + 1) {
    turn.out.push_back(Exchange::BehindBy{propose.round, from});
    return decline(turn, from, propose.exchange, DeclineCode::stale);
  }
  if (proposals_.size() < config_.max_early || proposals_.contains(from)) {
    proposals_[from] = {propose.round, propose.exchange};
  }
  if (!current_ || propose.round != turn.round) return;  // early: answered when my round ends
  if (current_->phase == Phase::proposed) {
    current_->search.spoke(from);
    if (take_proposal(turn, from, {propose.round, propose.exchange})) return;
  }
  decline(turn, from, propose.exchange, reason_to_decline());
}

void PairExchange::accepted(Turn& turn, const NodeId& from, const net::Accept& accept) {
  if (const Finished* finished = find_finished(accept.exchange)) return answer_finished(turn, from, *finished);
  if (agreed_with(from, accept.exchange)) {
    heard(turn, Confirmed::yes);
    if (accept.exchange.proposer == self_) say_where_i_am(turn);
    return;
  }
  if (current_ && current_->phase == Phase::proposed && !current_->search.is_out(from)) {
    const auto mine = current_->mine.find(from);
    if (mine != current_->mine.end() && mine->second == accept.exchange) {
      agree(turn, from, accept.exchange, Confirmed::yes);
      return say_where_i_am(turn);
    }
  }
  decline(turn, from, accept.exchange, reason_to_decline());
}

void PairExchange::declined(Turn& turn, const NodeId& from, const net::Decline& decline) {
  if (!current_ || current_->phase == Phase::applying) return;
  const Answer answer = decline.code == DeclineCode::better ? Answer::better
                        : decline.code == DeclineCode::busy ? Answer::busy
                                                            : Answer::out;
  if (agreed_with(from, decline.exchange)) {
    // Who has taken my Accept, or sent me one, hopes for nobody else: that word was overtaken by a newer one.
    const bool overtaken = answer != Answer::out && current_->agreement->confirmed == Confirmed::yes;
    if (!overtaken) lose(turn, SoloCause::declined, answer, Tell::no);
    return;
  }
  const auto mine = current_->mine.find(from);
  if (mine == current_->mine.end() || mine->second != decline.exchange) return;
  current_->search.answered(from, answer);
  if (decline.code == DeclineCode::stale && decline.round > current_->round + 1) {
    turn.out.push_back(Exchange::BehindBy{decline.round, from});
  }
}

void PairExchange::got(Turn& turn, const NodeId& from, const net::Got& got) {
  if (!agreed_with(from, got.exchange)) return;
  heard(turn, Confirmed::yes);
  current_->agreement->got = true;
  average_when_ready(turn);
}

void PairExchange::handle(Turn& turn, const Exchange::PartOffered& event) {
  const auto refuse = [&](net::RefuseCode code) {
    turn.out.push_back(Exchange::RefuseOffer{event.from, event.offer.transfer, code});
  };
  const auto* part = std::get_if<net::ExchangePart>(&event.offer.about);
  if (part == nullptr) return refuse(net::RefuseCode::malformed);
  if (current_ && current_->phase == Phase::proposed && !current_->search.is_out(event.from)) {
    // Its Accept was lost, but who offers its part has accepted.
    const auto mine = current_->mine.find(event.from);
    if (mine != current_->mine.end() && mine->second == part->exchange) {
      agree(turn, event.from, part->exchange, Confirmed::yes);
    }
  }
  if (!agreed_with(event.from, part->exchange)) {
    const Finished* finished = find_finished(part->exchange);
    const bool have_it = finished != nullptr && finished->result == ExchangeOutcome::Result::averaged;
    return refuse(have_it ? net::RefuseCode::duplicate : net::RefuseCode::stale);
  }
  Agreement& agreement = *current_->agreement;
  heard(turn, Confirmed::yes);
  if (part->round != current_->round || part->stage != current_->stage || event.offer.bytes != event.expected_bytes) {
    refuse(net::RefuseCode::malformed);
    return lose(turn, SoloCause::rejected, Answer::out, Tell::yes);
  }
  // One transfer per exchange: another one would only cost memory.
  if (agreement.incoming.value_or(event.offer.transfer) != event.offer.transfer || agreement.theirs) {
    return refuse(net::RefuseCode::duplicate);
  }
  agreement.incoming = event.offer.transfer;
  turn.out.push_back(Exchange::TakeOffer{event.from, event.offer});
}

void PairExchange::handle(Turn& turn, const Exchange::PartCame& event) {
  if (!agreed_with(event.from, event.part.exchange)) return;
  Agreement& agreement = *current_->agreement;
  if (!agreement.incoming || agreement.theirs) return;
  STARLING_CHECK(event.buffer != nullptr, "a part without bytes was delivered");
  heard(turn, Confirmed::yes);
  agreement.theirs = event.buffer;
  current_->sent_got = true;
  turn.out.push_back(Exchange::Send{event.from, net::Got{agreement.id}});
  average_when_ready(turn);
}

void PairExchange::handle(Turn& turn, const Exchange::PartFailed& event) {
  if (!agreed_with(event.peer, event.part.exchange)) return;
  lose(turn, SoloCause::transfer_failed, Answer::out, Tell::yes);
}

void PairExchange::handle(Turn& turn, const Exchange::SnapshotMade& event) {
  if (!current_ || current_->round != event.round || current_->snapshot_state != Current::Snapshot::asked) return;
  if (event.buffer == nullptr) {
    if (current_->agreement) lose(turn, SoloCause::transfer_failed, Answer::out, Tell::yes);
    if (current_->phase == Phase::proposed) go_solo(turn, SoloCause::transfer_failed);
    return;
  }
  current_->snapshot = event.buffer;
  current_->snapshot_state = Current::Snapshot::made;
}

void PairExchange::handle(Turn& turn, const Exchange::Applied& event) {
  if (!current_ || current_->phase != Phase::applying || current_->round != event.round) return;
  if (!current_->solo && event.averaged_with == 0) {
    current_->solo = SoloCause::rejected;
    if (Finished* finished = find_finished(current_->met_as)) finished->result = ExchangeOutcome::Result::solo;
  }
  const bool averaged = !current_->solo;
  turn.out.push_back(Exchange::RoundFinished{
      .round = current_->round,
      .outcome = {current_->met_as, averaged ? ExchangeOutcome::Result::averaged : ExchangeOutcome::Result::solo},
      .averaged = averaged,
      .cause = current_->solo.value_or(SoloCause::odd_one_out),
      .partner = current_->met});
  current_.reset();
}

void PairExchange::handle(Turn& turn, const Exchange::PeerGone& event) {
  proposals_.erase(event.peer);
  if (!current_ || current_->phase == Phase::applying) return;
  if (current_->agreement && current_->agreement->partner == event.peer) {
    return lose(turn, SoloCause::partner_gone, Answer::busy, Tell::no);
  }
  current_->search.answered(event.peer, Answer::busy);
}

void PairExchange::handle(Turn& turn, const Exchange::Cancelled&) {
  if (current_ && current_->agreement) drop_agreement(turn, Tell::yes);
  current_.reset();
}

// ---------------------------------------------------------------- what follows

void PairExchange::advance(Turn& turn) {
  if (current_->phase == Phase::accepted || current_->phase == Phase::moving) keep_going(turn);
  if (current_->phase == Phase::proposed) seek(turn);
}

void PairExchange::seek(Turn& turn) {
  // The best of those who wait for my answer, if it may be taken already.
  std::optional<NodeId> best;
  for (const auto& [peer, proposal] : proposals_) {
    if (!is_acceptable(peer, proposal, turn.now)) continue;
    const auto mine = current_->mine.find(peer);
    if (mine != current_->mine.end() && self_ < peer) continue;  // of crossed proposals mine counts
    if (!best || current_->search.prefers(peer, *best)) best = peer;
  }
  if (best && take_proposal(turn, *best, proposals_.at(*best))) return;
  if (const auto cause = current_->search.hopeless(turn.now)) return go_solo(turn, current_->lost.value_or(*cause));
  while (const auto peer = current_->search.ask(turn.now)) propose(turn, *peer);
}

// The time limits of an agreement, and its repeated word.
void PairExchange::keep_going(Turn& turn) {
  offer_when_ready(turn);
  Agreement& agreement = *current_->agreement;
  if (turn.now >= silence_ends()) return lose(turn, SoloCause::partner_gone, Answer::busy, Tell::yes);
  if (turn.now >= transfer_ends()) return lose(turn, SoloCause::transfer_failed, Answer::out, Tell::yes);
  if (turn.now < agreement.speak_at) return;
  agreement.speak_at = turn.now + (agreement.confirmed == Confirmed::yes ? 3 : 1) * config_.repeat;
  // The question, which a Got would not be: the partner may have finished long ago and only its own Got was lost.
  if (agreement.id.proposer == self_) {
    propose(turn, agreement.partner);
  } else {
    turn.out.push_back(Exchange::Send{agreement.partner, net::Accept{agreement.id, current_->round}});
  }
  if (agreement.theirs) say_where_i_am(turn);
}

bool PairExchange::is_acceptable(const NodeId& peer, const Proposal& proposal, TimePoint now) const {
  const auto same = [&](const Finished& f) { return f.id == proposal.id; };
  return proposal.round == current_->round && current_->search.takes(peer, now) &&
         std::none_of(finished_.begin(), finished_.end(), same);
}

// Accepts what this peer has proposed; or, when the smaller id's is mine, reminds it of that. False: neither, now.
bool PairExchange::take_proposal(Turn& turn, const NodeId& from, Proposal proposal) {
  if (!is_acceptable(from, proposal, turn.now)) return false;
  if (current_->mine.contains(from) && self_ < from) {
    propose(turn, from);
    return true;
  }
  agree(turn, from, proposal.id, Confirmed::no);
  say_where_i_am(turn);
  return true;
}

void PairExchange::agree(Turn& turn, const NodeId& partner, const ExchangeId& id, Confirmed confirmed) {
  STARLING_CHECK(current_->phase == Phase::proposed && !find_finished(id), "an exchange is agreed once");
  current_->phase = Phase::accepted;
  current_->agreement = Agreement{.partner = partner,
                                  .id = id,
                                  .confirmed = confirmed,
                                  .agreed_at = turn.now,
                                  .heard_at = turn.now,
                                  .speak_at = turn.now + config_.repeat};
  current_->met = partner;
  current_->met_as = id;
  proposals_.erase(partner);
  if (current_->snapshot_state == Current::Snapshot::none) {
    current_->snapshot_state = Current::Snapshot::asked;
    turn.out.push_back(Exchange::MakeSnapshot{current_->round});
  }
}

// The partner has said something about our exchange.
void PairExchange::heard(Turn& turn, Confirmed confirmed) {
  current_->agreement->heard_at = turn.now;
  if (confirmed == Confirmed::yes) current_->agreement->confirmed = Confirmed::yes;
}

void PairExchange::say_where_i_am(Turn& turn) {
  const Agreement& agreement = *current_->agreement;
  if (agreement.theirs) {
    turn.out.push_back(Exchange::Send{agreement.partner, net::Got{agreement.id}});
  } else {
    turn.out.push_back(Exchange::Send{agreement.partner, net::Accept{agreement.id, current_->round}});
  }
}

void PairExchange::offer_when_ready(Turn& turn) {
  const Agreement& agreement = *current_->agreement;
  if (current_->phase != Phase::accepted || agreement.confirmed == Confirmed::no || !current_->snapshot) return;
  current_->phase = Phase::moving;
  const net::ExchangePart part{agreement.id, current_->round, current_->stage};
  turn.out.push_back(Exchange::OfferPart{agreement.partner, part, current_->snapshot});
}

void PairExchange::average_when_ready(Turn& turn) {
  const Agreement& agreement = *current_->agreement;
  if (!agreement.theirs || !agreement.got) return;
  remember(agreement.partner, agreement.id, ExchangeOutcome::Result::averaged);
  turn.out.push_back(Exchange::Average{current_->round, agreement.id, {agreement.theirs}});
  current_->phase = Phase::applying;
  current_->agreement.reset();
}

// Before my Got went out the partner cannot have averaged, so another one may still be met. After it only solo is left.
void PairExchange::lose(Turn& turn, SoloCause cause, Answer answer, Tell tell) {
  current_->search.answered(current_->agreement->partner, answer);
  current_->lost = cause;
  drop_agreement(turn, tell);
  if (current_->sent_got) go_solo(turn, cause);
}

void PairExchange::drop_agreement(Turn& turn, Tell tell) {
  const Agreement agreement = *current_->agreement;
  current_->agreement.reset();
  current_->phase = Phase::proposed;
  if (agreement.confirmed == Confirmed::yes) {
    // A used id is used up; what the proposer never took may be proposed again.
    remember(agreement.partner, agreement.id, ExchangeOutcome::Result::solo);
    current_->mine.erase(agreement.partner);
  }
  if (tell == Tell::yes) decline(turn, agreement.partner, agreement.id, DeclineCode::finished);
  if (agreement.incoming && !agreement.theirs) {
    turn.out.push_back(Exchange::RefuseOffer{agreement.partner, *agreement.incoming, net::RefuseCode::stale});
  }
}

void PairExchange::go_solo(Turn& turn, SoloCause cause) {
  current_->phase = Phase::applying;
  current_->solo = cause;
  turn.out.push_back(Exchange::Solo{current_->round, cause});
}

// ---------------------------------------------------------------- small parts

bool PairExchange::agreed_with(const NodeId& peer, const ExchangeId& id) const {
  return current_ && current_->agreement && current_->agreement->partner == peer && current_->agreement->id == id;
}

// Why a proposal, or a late Accept of one of mine, cannot be followed now.
DeclineCode PairExchange::reason_to_decline() const {
  if (!current_ || current_->phase == Phase::applying) return DeclineCode::finished;
  if (current_->agreement && current_->agreement->confirmed == Confirmed::yes) return DeclineCode::busy;
  return DeclineCode::better;
}

TimePoint PairExchange::silence_ends() const {
  const Agreement& agreement = *current_->agreement;
  // Who never said that it took my Accept may well have died after its Propose.
  const Duration patience = agreement.confirmed == Confirmed::yes ? config_.min_silence : config_.min_wait;
  return agreement.heard_at + std::max(current_->tau, patience);
}

TimePoint PairExchange::transfer_ends() const {
  Duration patience = std::max(4 * current_->tau, config_.min_transfer_wait);
  if (current_->snapshot) {
    const double both_parts = 2.0 * static_cast<double>(current_->snapshot->size());
    patience = std::max(patience, from_seconds(both_parts / static_cast<double>(config_.min_bytes_per_second)));
  }
  return current_->agreement->agreed_at + patience;
}

TimePoint PairExchange::deadline(TimePoint now) const {
  if (!current_ || current_->phase == Phase::applying) return never;
  if (current_->phase == Phase::proposed) return current_->search.next_deadline(now);
  return std::min({silence_ends(), transfer_ends(), current_->agreement->speak_at});
}

PairExchange::Finished* PairExchange::find_finished(const ExchangeId& id) {
  const auto it = std::find_if(finished_.begin(), finished_.end(), [&](const Finished& f) { return f.id == id; });
  return it == finished_.end() ? nullptr : &*it;
}

void PairExchange::remember(const NodeId& partner, const ExchangeId& id, ExchangeOutcome::Result result) {
  finished_.push_back({id, partner, result});
  if (finished_.size() > config_.remember) finished_.pop_front();
}

// Got is repeated, as ours may have been lost; a solo end is said, so that the partner need not wait.
void PairExchange::answer_finished(Turn& turn, const NodeId& from, const Finished& finished) {
  if (finished.partner != from) return;
  if (finished.result == ExchangeOutcome::Result::solo) return decline(turn, from, finished.id, DeclineCode::finished);
  turn.out.push_back(Exchange::Send{from, net::Got{finished.id}});
}

void PairExchange::propose(Turn& turn, const NodeId& to) {
  const auto [mine, is_new] = current_->mine.try_emplace(to, ExchangeId{self_, boot_, counter_ + 1});
  if (is_new) ++counter_;
  turn.out.push_back(Exchange::Send{to, net::Propose{mine->second, current_->round, current_->stage}});
}

void PairExchange::decline(Turn& turn, const NodeId& to, const ExchangeId& id, DeclineCode code) {
  turn.out.push_back(Exchange::Send{to, net::Decline{code, id, turn.round}});
}

std::vector<Exchange::Action> PairExchange::compare_outcomes(const membership::Record& record) {
  std::vector<Exchange::Action> out;
  for (const ExchangeOutcome& outcome : record.outcomes) {
    Finished* finished = find_finished(outcome.exchange);
    if (finished == nullptr || finished->partner != record.id || finished->compared) continue;
    if (finished->result == outcome.result) continue;
    finished->compared = true;
    out.push_back(Exchange::OneSided{outcome.exchange});
  }
  return out;
}

}  // namespace starling::outer
