#include "trainer/worker/joiner.h"

#include <utility>

namespace starling::trainer {

Joiner::Joiner(Config config, membership::Record record, Credentials& credentials, net::Transport& transport, TimePoint now)
    : config_(std::move(config)),
      record_(std::move(record)),
      credentials_(credentials),
      transport_(transport),
      knock_at_(now),
      give_up_at_(now + config_.give_up_after) {
  STARLING_CHECK(!config_.seeds.empty(), "a joiner knows somebody to ask");
  tick(now);
}

void Joiner::tick(TimePoint now) {
  if (!outcome_ && now >= knock_at_) knock(now);
}

void Joiner::knock(TimePoint now) {
  if (now >= give_up_at_) {
    outcome_ = fail(ErrorCode::unreachable,
                    "no seed of the token let this node in within " +
                        std::to_string(static_cast<int>(seconds(config_.give_up_after))) + " s (the last word: " +
                        (last_refusal_.empty() ? "no answer" : last_refusal_) +
                        "); check that the run is alive and its lobby port reachable, or ask its owner for a new token");
    return;
  }
  const SeedAddress& seed = config_.seeds[next_seed_++ % config_.seeds.size()];
  knock_at_ = now + config_.between_knocks;
  const Bytes record = membership::encode_record(record_, credentials_.signatures());
  transport_.request_lobby(seed.node, seed.lobby, credentials_.join_request(seed.node, record_, record));
}

void Joiner::on(const net::LobbyAnswered& event, TimePoint) {
  if (outcome_) return;
  if (!event.frame) {
    last_refusal_ = event.frame.error().message;
    return;
  }
  auto welcome = credentials_.read_answer(*event.frame);
  if (welcome || welcome.error().code == ErrorCode::unauthenticated) {
    outcome_ = std::move(welcome);
  } else {
    last_refusal_ = welcome.error().message;
  }
}

}  // namespace starling::trainer
