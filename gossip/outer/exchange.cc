#include "gossip/outer/exchange.h"

#include "gossip/outer/group_exchange.h"
#include "gossip/outer/pair_exchange.h"

namespace starling::outer {

Exchange::Exchange(Config config, NodeId self, Boot boot) {
  if (config.outer.algorithm == Algorithm::noloco) pair_ = std::make_unique<PairExchange>(config, self, boot);
  if (config.outer.algorithm == Algorithm::diloco) group_ = std::make_unique<GroupExchange>(config, self, boot);
}

Exchange::~Exchange() = default;

std::vector<Exchange::Action> Exchange::on(const Event& event, const membership::Swarm& swarm, Round round,
                                           TimePoint now) {
  if (pair_) return pair_->on(event, swarm, round, now);
  if (group_) return group_->on(event, swarm, round, now);
  if (const auto* ended = std::get_if<RoundEnded>(&event)) {
    return {RoundFinished{.round = ended->round, .outcome = {}, .cause = SoloCause::alone, .partner = std::nullopt}};
  }
  if (const auto* offered = std::get_if<PartOffered>(&event)) {
    return {RefuseOffer{offered->from, offered->offer.transfer, net::RefuseCode::malformed}};
  }
  return {};
}

TimePoint Exchange::next_deadline() const {
  if (pair_) return pair_->next_deadline();
  return group_ ? group_->next_deadline() : never;
}

bool Exchange::busy() const { return (pair_ && pair_->busy()) || (group_ && group_->busy()); }

std::vector<Exchange::Action> Exchange::compare_outcomes(const membership::Record& record) {
  return pair_ ? pair_->compare_outcomes(record) : std::vector<Action>{};
}

}  // namespace starling::outer
