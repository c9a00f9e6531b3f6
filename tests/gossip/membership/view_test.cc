// One view against single packets, honest and hostile.
#include "gossip/membership/view.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {
namespace {

using namespace std::chrono_literals;
using Actions = std::vector<View::Action>;

Bytes signed_record(const Record& record) { return encode_record(record, HashSignatures(record.id)); }

Record with_order(Record record, Boot boot, std::uint64_t incarnation, std::uint64_t version) {
  record.boot = boot;
  record.incarnation = incarnation;
  record.version = version;
  return record;
}

net::Update update_of(const Record& record) { return {net::Update::Kind::record, signed_record(record)}; }

net::Update accusation(int accuser, int suspect, Boot boot, std::uint64_t incarnation) {
  return {net::Update::Kind::suspicion, encode_suspicion({test_id(accuser), test_id(suspect), boot, incarnation},
                                                         HashSignatures(test_id(accuser)))};
}

template <typename T>
std::vector<T> only(const Actions& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* found = std::get_if<T>(&action)) out.push_back(*found);
  }
  return out;
}

// Messages of kind T to `to`.
template <typename T>
std::vector<T> sent_to(const Actions& actions, int to) {
  std::vector<T> out;
  for (const auto& send : only<View::Send>(actions)) {
    if (const auto* found = std::get_if<T>(&send.message); found != nullptr && send.to == test_id(to)) out.push_back(*found);
  }
  return out;
}

struct Bench {
  explicit Bench(int peers = 5, View::Config config = {})
      : signatures(test_id(0)),
        view(config, test_record(0), signatures, [this](const Record& r) { return check(r); }, Stream(3), now) {
    for (int i = 1; i <= peers; ++i) give(update_of(test_record(i)));
  }
  bool check(const Record& record) {
    ++checked;
    return !record.certificate.empty() && record.certificate[0] == std::byte{1};
  }
  Actions on(const View::Event& event) { return view.on(event, now); }
  Actions give(net::Update update) { return on(View::UpdateCame{std::move(update)}); }
  Actions from(int peer, net::Message message) { return on(View::MessageCame{test_id(peer), std::move(message)}); }
  // Ticks when the view asks for it.
  Actions run(Duration duration) {
    Actions out;
    const TimePoint end = now + duration;
    while (view.next_deadline() <= end) {
      now = std::max(now, view.next_deadline());
      for (auto& action : on(View::Tick{})) out.push_back(std::move(action));
    }
    now = end;
    return out;
  }
  // The same, while the first `peers` are heard of all the time.
  Actions run_with(int peers, Duration duration) {
    Actions out;
    for (const TimePoint end = now + duration; now < end;) {
      for (int i = 1; i <= peers; ++i) on(View::HeardFrom{test_id(i)});
      for (auto& action : run(100ms)) out.push_back(std::move(action));
    }
    return out;
  }
  std::optional<PeerState> state(int i) {
    const Peer* peer = view.swarm().find(test_id(i));
    return peer == nullptr ? std::nullopt : std::optional(peer->state);
  }
  const Peer& peer(int i) { return *view.swarm().find(test_id(i)); }

  TimePoint now{1000s};
  int checked = 0;
  HashSignatures signatures;
  View view;
};

TEST(View, KnowsItself) {
  Bench b(0);
  ASSERT_NE(b.view.swarm().find(test_id(0)), nullptr);
  EXPECT_TRUE(b.view.swarm().is_live(test_id(0)));
  EXPECT_EQ(decode_record(b.view.signed_self(), b.signatures).value(), b.view.self());
}

TEST(View, OneChangeIsToldPerPeerAndEvent) {
  Bench b(3);
  Record record = test_record(9);
  std::vector<net::Update> updates{accusation(1, 9, 1, 0), update_of(record)};
  const auto changes = only<View::PeerChanged>(b.from(1, net::ViewPage{0, 1, updates}));
  ASSERT_EQ(changes.size(), 1U) << "somebody dead on a page is never seen alive in between";
  EXPECT_EQ(changes[0].now, PeerState::suspect);
  EXPECT_EQ(changes[0].before, std::nullopt);
  EXPECT_TRUE(changes[0].endpoints_changed);
}

TEST(View, AChangeOfStageOrAddressIsTold) {
  Bench b(3);
  Record record = with_order(test_record(2), 1, 1, 0);
  record.stage = 3;
  auto changes = only<View::PeerChanged>(b.give(update_of(record)));
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].before, PeerState::active);
  EXPECT_FALSE(changes[0].endpoints_changed);
  EXPECT_EQ(b.view.swarm().live_replicas(3), std::vector<NodeId>{test_id(2)});
  record.incarnation = 2;
  record.endpoints.bulk = "tcp://10.9.9.9:1";
  changes = only<View::PeerChanged>(b.give(update_of(record)));
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_TRUE(changes[0].endpoints_changed);
}

TEST(View, AnObserverIsAMemberWithoutAStage) {
  Bench b(2);
  Record observer = test_record(7, Standing::active, no_stage);
  observer.role = Role::observer;
  b.give(update_of(observer));
  EXPECT_TRUE(b.view.swarm().is_live(test_id(7)));
  EXPECT_EQ(b.view.swarm().live_workers().size(), 3U);
}

TEST(View, JoiningOnesAreSeenAndNotLive) {
  Bench b(1);
  b.give(update_of(test_record(7, Standing::joining, 0)));
  EXPECT_EQ(b.state(7), PeerState::joining);
  EXPECT_FALSE(b.view.swarm().is_live(test_id(7)));
  EXPECT_EQ(b.view.swarm().live_originators().size(), 2U);
}

// ---------------------------------------------------------------- records

TEST(View, ReplaysOfOldRecordsDoNothing) {
  Bench b(3);
  Record record = with_order(test_record(2), 3, 4, 5);
  record.load_seconds = 9.0;
  b.give(update_of(record));
  const auto verified = b.signatures.verified;
  for (const auto& [boot, incarnation, version] :
       std::vector<std::tuple<Boot, std::uint64_t, std::uint64_t>>{{1, 0, 0}, {2, 99, 99}, {3, 3, 99}, {3, 4, 4}, {3, 4, 5}}) {
    Record old = with_order(record, boot, incarnation, version);
    if (boot != 3 || version != 5) old.load_seconds = 1.0;
    EXPECT_TRUE(only<View::PeerChanged>(b.give(update_of(old))).empty());
  }
  EXPECT_EQ(b.peer(2).record.load_seconds, 9.0);
  EXPECT_EQ(b.signatures.verified, verified) << "what is known costs no signature";
  EXPECT_EQ(b.view.rejected_records(), 0U);
}

TEST(View, AForgedItemEndsThePacket) {
  Bench b(3);
  Bytes forged = signed_record(with_order(test_record(2), 1, 7, 0));
  forged[70] ^= std::byte{1};  // its id
  Bytes touched = signed_record(with_order(test_record(2), 1, 7, 0));
  touched.back() ^= std::byte{1};
  b.from(1, net::Ping{1, {}, {{net::Update::Kind::record, touched}, update_of(test_record(8))}});
  EXPECT_EQ(b.view.rejected().bad_signature, 1U);
  EXPECT_EQ(b.state(8), std::nullopt);
  EXPECT_EQ(b.peer(2).record.incarnation, 0U);
  EXPECT_FALSE(sent_to<net::Ack>(b.from(1, net::Ping{2, {}, {update_of(test_record(8))}}), 1).empty());
  EXPECT_EQ(b.state(8), std::nullopt) << "its probes are answered, its news are not read";
  b.from(2, net::Ping{1, {}, {{net::Update::Kind::record, forged}}});
  EXPECT_EQ(b.view.rejected().bad_signature, 2U);
  b.run(1s);
  b.from(1, net::Ping{3, {}, {update_of(test_record(8))}});
  EXPECT_EQ(b.state(8), PeerState::active);
  b.give({net::Update::Kind::record, Bytes(3000)});
  b.give({net::Update::Kind::record, Bytes(10)});
  b.give({net::Update::Kind::suspicion, Bytes(10)});
  EXPECT_EQ(b.view.rejected().malformed, 3U);
  EXPECT_EQ(b.view.rejected_records(), 5U);
}

TEST(View, ABadCertificateLetsNobodyIn) {
  Bench b(2);
  Record record = test_record(8);
  record.certificate = Bytes(212, std::byte{2});
  b.give(update_of(record));
  EXPECT_EQ(b.state(8), std::nullopt);
  EXPECT_EQ(b.view.rejected().bad_certificate, 1U);
  record.certificate.clear();
  b.give(update_of(record));
  EXPECT_EQ(b.state(8), std::nullopt);
  EXPECT_EQ(b.view.rejected().bad_certificate, 1U) << "a newcomer whose introduction is on its way";
}

TEST(View, ACertificateIsCheckedOncePerMember) {
  Bench b(0);
  Record record = test_record(8);
  b.give(update_of(record));
  EXPECT_EQ(b.checked, 1);
  b.give(update_of(with_order(record, 1, 1, 0)));
  EXPECT_EQ(b.checked, 1);
  record.name = "somebody-else";
  b.give(update_of(with_order(record, 1, 2, 0)));
  EXPECT_EQ(b.checked, 2) << "the name stands in the certificate";
  record.certificate = Bytes(212, std::byte{2});
  b.give(update_of(with_order(record, 1, 3, 0)));
  EXPECT_EQ(b.checked, 3);
  EXPECT_EQ(b.peer(8).record.incarnation, 2U);
}

TEST(View, AFloodOfOwnRecordsIsTakenOnceASecond) {
  Bench b(2);
  for (std::uint64_t version = 1; version <= 1000; ++version) b.give(update_of(with_order(test_record(1), 1, 0, version)));
  EXPECT_LE(b.peer(1).record.version, 4U);
  EXPECT_EQ(b.view.rejected().too_often, 996U);
  const auto verified = b.signatures.verified;
  for (std::uint64_t n = 0; n < 100; ++n) b.give(update_of(with_order(test_record(1), 1, 0, 2000 + n)));
  EXPECT_EQ(b.signatures.verified, verified) << "a flood costs no signatures";
  b.run(1s);
  b.give(update_of(with_order(test_record(1), 1, 0, 3000)));
  EXPECT_EQ(b.peer(1).record.version, 3000U);
}

// Changes that matter have an allowance of their own, and the last one comes through however many there were.
TEST(View, ImportantChangesAreNotLostInAFlood) {
  Bench b(2);
  for (std::uint64_t version = 1; version <= 100; ++version) b.give(update_of(with_order(test_record(1), 1, 0, version)));
  for (std::uint64_t incarnation = 1; incarnation <= 15; ++incarnation) {
    b.give(update_of(with_order(test_record(1), 1, incarnation, 0)));
    EXPECT_EQ(b.peer(1).record.incarnation, incarnation);
  }
  for (std::uint64_t incarnation = 16; incarnation <= 40; ++incarnation) {
    b.give(update_of(with_order(test_record(1), 1, incarnation, 0)));
  }
  EXPECT_LT(b.peer(1).record.incarnation, 20U);
  b.run(1100ms);
  b.give(update_of(with_order(test_record(1), 1, 40, 0)));
  EXPECT_EQ(b.peer(1).record.incarnation, 40U);
}

// Two contents under one order: whichever comes first, both nodes keep the same one.
TEST(View, EquivocationEndsInOneRecordEverywhere) {
  Record a = with_order(test_record(1), 1, 1, 0);
  Record c = a;
  c.stage = 2;
  Bench first(2);
  Bench second(2);
  first.give(update_of(a));
  first.give(update_of(c));
  second.give(update_of(c));
  second.give(update_of(a));
  EXPECT_EQ(first.peer(1).record, second.peer(1).record);
  EXPECT_EQ(first.view.swarm().live_replicas(2), second.view.swarm().live_replicas(2)) << "the lists follow the record";
}

TEST(View, OurIdWithAHigherBootMeansWeRunElsewhere) {
  Bench b(2);
  EXPECT_TRUE(only<View::SelfIsElsewhere>(b.give(update_of(with_order(test_record(0), 0, 9, 9)))).empty());
  Bytes forged = signed_record(with_order(test_record(0), 2, 0, 0));
  forged.back() ^= std::byte{1};
  EXPECT_TRUE(only<View::SelfIsElsewhere>(b.give({net::Update::Kind::record, forged})).empty());
  EXPECT_EQ(only<View::SelfIsElsewhere>(b.give(update_of(with_order(test_record(0), 2, 0, 0)))).size(), 1U);
  EXPECT_TRUE(only<View::SelfIsElsewhere>(b.give(update_of(with_order(test_record(0), 3, 0, 0)))).empty()) << "said once";
}

TEST(View, TheTableIsBoundedAndTheDeadGiveWay) {
  View::Config config;
  config.max_peers = 6;  // ourselves included
  Bench b(5, config);
  b.give(update_of(test_record(8)));
  EXPECT_EQ(b.state(8), std::nullopt);
  EXPECT_EQ(b.view.rejected().table_full, 1U);
  b.give(update_of(with_order(test_record(3, Standing::left), 1, 1, 0)));
  const auto actions = b.give(update_of(test_record(8)));
  EXPECT_EQ(b.state(8), PeerState::active);
  EXPECT_EQ(b.state(3), std::nullopt);
  ASSERT_EQ(only<View::PeerForgotten>(actions).size(), 1U);
  EXPECT_EQ(b.view.swarm().peers.size(), 6U);
}

TEST(View, TheForgottenStayForgottenAndTheirWorkStillCounts) {
  View::Config config;
  config.forget_dead = 10s;
  Bench b(3, config);
  Record record = with_order(test_record(2), 1, 1, 0);
  record.tokens = 1000;
  record.done = 42;
  b.give(update_of(record));
  record.standing = Standing::left;
  record.incarnation = 2;
  b.give(update_of(record));
  const auto actions = b.run(13s);
  EXPECT_EQ(only<View::PeerForgotten>(actions).size(), 1U);
  EXPECT_EQ(b.state(2), std::nullopt);
  b.give(update_of(record));
  EXPECT_EQ(b.state(2), std::nullopt) << "from somebody who remembers it longer";
  EXPECT_EQ(b.view.swarm().largest_done(), 42);
  EXPECT_EQ(b.view.swarm().total_tokens(), 1000);
  record.boot = 2;
  record.standing = Standing::active;
  record.tokens = 1500;
  b.give(update_of(record));
  EXPECT_EQ(b.state(2), PeerState::active);
  EXPECT_EQ(b.view.swarm().total_tokens(), 1500) << "counted once";
}

TEST(View, TokensOfAnEarlierBootStillCount) {
  Bench b(2);
  Record record = with_order(test_record(1), 1, 1, 0);
  record.tokens = 700;
  b.give(update_of(record));
  record.boot = 2;
  record.tokens = 50;
  b.give(update_of(record));
  EXPECT_EQ(b.view.swarm().total_tokens(), 750);
}

// ---------------------------------------------------------------- D

TEST(View, DoneCountsForItsBootAndOnlyRises) {
  Bench b(2);
  EXPECT_EQ(only<View::DoneRose>(b.on(View::DoneCame{test_id(1), {1, 5}})).size(), 1U);
  EXPECT_TRUE(only<View::DoneRose>(b.on(View::DoneCame{test_id(1), {1, 4}})).empty());
  EXPECT_TRUE(only<View::DoneRose>(b.on(View::DoneCame{test_id(1), {2, 9}})).empty()) << "of another boot";
  EXPECT_TRUE(only<View::DoneRose>(b.on(View::DoneCame{test_id(1), {1, net::max_step + 1}})).empty());
  EXPECT_TRUE(only<View::DoneRose>(b.on(View::DoneCame{test_id(77), {1, 9}})).empty());
  EXPECT_EQ(b.peer(1).done, 5);
  b.from(1, net::Ack{0, test_id(1), {1, 6}, {}});
  EXPECT_EQ(b.peer(1).done, 6) << "probes and acks repeat it";
  b.give(update_of(with_order(test_record(1), 2, 0, 0)));
  EXPECT_EQ(b.peer(1).done, -1) << "a new boot has closed nothing";
  EXPECT_EQ(b.view.swarm().largest_done(), 6);
}

TEST(View, OurOwnDoneNeverFallsAndIsPublished) {
  Bench b(2);
  b.on(View::DoneCame{test_id(0), {1, 8}});
  EXPECT_EQ(b.view.self().done, 8);
  Record stale = test_record(0);
  b.on(View::SelfChanged{stale, View::SelfChanged::Kind::routine});
  EXPECT_EQ(b.view.self().done, 8);
  b.run(2s);
  EXPECT_EQ(decode_record(b.view.signed_self(), b.signatures)->done, 8);
}

// ---------------------------------------------------------------- what we say of ourselves

TEST(View, RoutineChangesRaiseTheVersionOnceASecond) {
  Bench b(2);
  Record record = test_record(0);
  const Bytes before = b.view.signed_self();
  for (int n = 1; n <= 20; ++n) {
    record.load_seconds = n;
    b.on(View::SelfChanged{record, View::SelfChanged::Kind::routine});
    b.run(100ms);
  }
  const Record said = decode_record(b.view.signed_self(), b.signatures).value();
  EXPECT_NE(b.view.signed_self(), before);
  EXPECT_EQ(said.incarnation, 0U);
  EXPECT_LE(said.version, 2U);
  EXPECT_GE(said.version, 1U);
  b.run(2s);
  EXPECT_EQ(decode_record(b.view.signed_self(), b.signatures)->load_seconds, 20.0) << "the last one is not lost";
}

TEST(View, ImportantChangesRaiseTheIncarnationAtOnce) {
  Bench b(2);
  Record record = test_record(0);
  record.stage = 2;
  const auto actions = b.on(View::SelfChanged{record, View::SelfChanged::Kind::routine});
  const Record said = decode_record(b.view.signed_self(), b.signatures).value();
  EXPECT_EQ(said.incarnation, 1U) << "a stage is important whatever the caller says";
  EXPECT_EQ(said.stage, 2);
  EXPECT_FALSE(only<View::PeerChanged>(actions).empty());
}

TEST(View, ManyImportantChangesAreBoundedAndTheLastOneIsSaid) {
  Bench b(2);
  Record record = test_record(0);
  for (int n = 0; n < 100; ++n) {
    record.stage = n % 4;
    record.round = n;
    b.on(View::SelfChanged{record, View::SelfChanged::Kind::important});
  }
  EXPECT_LE(b.view.self().incarnation, 8U) << "others would refuse more";
  b.run(2s);
  EXPECT_EQ(decode_record(b.view.signed_self(), b.signatures)->round, 99);
}

TEST(View, WhoLeavesTellsManyInTheSameMoment) {
  Bench b(20);
  Record record = test_record(0);
  record.standing = Standing::left;
  const auto sends = only<View::Send>(b.on(View::SelfChanged{record, View::SelfChanged::Kind::important}));
  EXPECT_GE(sends.size(), 10U);
}

// ---------------------------------------------------------------- accusations

TEST(View, WhoIsAccusedTakesANewIncarnation) {
  Bench b(3);
  b.give(accusation(1, 0, 1, 0));
  EXPECT_EQ(b.view.self().incarnation, 1U);
  b.give(accusation(2, 0, 1, 0));
  EXPECT_EQ(b.view.self().incarnation, 1U) << "of a life that is over";
  b.give(accusation(2, 0, 1, 7));
  EXPECT_EQ(b.view.self().incarnation, 1U) << "of a life that never was";
  b.give(accusation(99, 0, 1, 1));
  EXPECT_EQ(b.view.self().incarnation, 2U) << "answered whoever says it: others may know the accuser";
}

// The record that answered an accusation may have reached nobody: those who know only the life before it and still ask
// hear it from us.
TEST(View, WhoAccusesALifeThatIsOverIsToldOfThisOne) {
  Bench b;
  b.from(2, net::Ack{0, test_id(2), {}, {accusation(2, 0, 1, 0)}});
  ASSERT_EQ(b.view.self().incarnation, 1U);
  b.run_with(5, 30s);  // all copies of the news are told, to whomever
  const auto told = sent_to<net::Ack>(b.from(3, net::Ack{0, test_id(3), {}, {accusation(2, 0, 1, 0)}}), 3);
  ASSERT_EQ(told.size(), 1U);
  ASSERT_EQ(told[0].updates.size(), 1U);
  EXPECT_EQ(told[0].updates[0].bytes, b.view.signed_self());
  EXPECT_EQ(b.view.self().incarnation, 1U) << "no new life for an old accusation";
  EXPECT_TRUE(sent_to<net::Ack>(b.from(3, net::Ack{0, test_id(3), {}, {accusation(2, 0, 1, 0)}}), 3).empty())
      << "once an interval";
  EXPECT_TRUE(sent_to<net::Ack>(b.from(9, net::Ack{0, test_id(9), {}, {accusation(2, 0, 1, 0)}}), 9).empty())
      << "a stranger hears nothing";
}

TEST(View, AnAccuserWhoNeverStopsCostsLittle) {
  Bench b(3);
  for (int n = 0; n < 500; ++n) {
    b.give(accusation(1, 0, 1, b.view.self().incarnation));
    b.run(10ms);
  }
  EXPECT_LE(b.view.self().incarnation, 8U + 6U) << "five seconds: eight at once and one a second";
  b.run(2s);
  EXPECT_GT(decode_record(b.view.signed_self(), b.signatures)->incarnation, 8U);
}

// Four accusations are kept, a stranger's is none, and nobody accuses more than 16 at once.
TEST(View, AccusationsAreCountedPerAccuser) {
  Bench b(40);
  b.give(accusation(99, 5, 1, 0));
  EXPECT_EQ(b.state(5), PeerState::active) << "a stranger";
  for (int suspect = 2; suspect <= 30; ++suspect) b.give(accusation(1, suspect, 1, 0));
  int suspects = 0;
  for (int i = 2; i <= 40; ++i) suspects += b.state(i) == PeerState::suspect ? 1 : 0;
  EXPECT_EQ(suspects, 16);
  EXPECT_EQ(b.view.rejected().too_often, 13U);
}

// The liar may accuse as loudly as it likes: those it accuses answer, and whom we hear ourselves we do not even suspect.
TEST(View, ALiarKillsNobody) {
  Bench b(10);
  std::uint64_t incarnation = 0;
  int suspected = 0;
  for (int n = 0; n < 600; ++n) {
    b.on(View::HeardFrom{test_id(5)});
    b.give(accusation(1, 5, 1, incarnation));
    b.give(accusation(1, 6, 1, incarnation));
    b.run(100ms);
    suspected += b.state(5) == PeerState::suspect ? 1 : 0;
    if (n % 20 == 19) {  // 6 is not heard of but for its answers, two seconds later each
      ++incarnation;
      b.give(update_of(with_order(test_record(6), 1, incarnation, 0)));
      b.give(update_of(with_order(test_record(5), 1, incarnation, 0)));
    }
    ASSERT_NE(b.state(5), PeerState::dead);
    ASSERT_NE(b.state(6), PeerState::dead);
  }
  EXPECT_EQ(suspected, 0);
}

TEST(View, ANewLifeRefutesAndAnOldAccusationDoesNotStick) {
  Bench b(5);
  b.give(accusation(1, 3, 1, 0));
  EXPECT_EQ(b.state(3), PeerState::suspect);
  b.give(update_of(with_order(test_record(3), 1, 0, 9)));
  EXPECT_EQ(b.state(3), PeerState::suspect) << "a newer version is no newer life";
  EXPECT_EQ(b.peer(3).record.version, 9U) << "but its content is taken";
  b.give(update_of(with_order(test_record(3), 1, 1, 0)));
  EXPECT_EQ(b.state(3), PeerState::active);
  b.give(accusation(2, 3, 1, 0));
  EXPECT_EQ(b.state(3), PeerState::active);
}

TEST(View, TheAccusedIsToldWithTheNextFrameItSends) {
  Bench b(5);
  b.give(accusation(1, 3, 1, 0));
  const auto acks = sent_to<net::Ack>(b.on(View::HeardFrom{test_id(3)}), 3);
  ASSERT_EQ(acks.size(), 1U);
  ASSERT_EQ(acks[0].updates.size(), 1U);
  EXPECT_EQ(peek_suspicion(acks[0].updates[0].bytes)->suspect, test_id(3));
  EXPECT_TRUE(sent_to<net::Ack>(b.on(View::HeardFrom{test_id(3)}), 3).empty()) << "not with every frame";
  const auto answers = sent_to<net::Ack>(b.from(3, net::Ping{77, {1, -1}, {}}), 3);
  ASSERT_FALSE(answers.empty());
  EXPECT_EQ(answers[0].sequence, 77U);
  EXPECT_EQ(answers[0].updates.at(0).kind, net::Update::Kind::suspicion) << "first of all news";
}

TEST(View, TheDeadComeBackOnlyWithANewLife) {
  Bench b(5);
  for (int accuser = 1; accuser <= 4; ++accuser) b.give(accusation(accuser, 5, 1, 0));
  b.run(10s);
  ASSERT_EQ(b.state(5), PeerState::dead);
  b.give(update_of(with_order(test_record(5), 1, 0, 50)));
  EXPECT_EQ(b.state(5), PeerState::dead);
  const auto changes = only<View::PeerChanged>(b.give(update_of(with_order(test_record(5), 1, 1, 0))));
  EXPECT_EQ(b.state(5), PeerState::active);
  ASSERT_EQ(changes.size(), 1U);
  EXPECT_EQ(changes[0].before, PeerState::dead);
}

// ---------------------------------------------------------------- probes and pages

TEST(View, AnswersPingsAndProbesForOthers) {
  Bench b(5);
  EXPECT_EQ(sent_to<net::Ack>(b.from(2, net::Ping{5, {}, {}}), 2).at(0).about, test_id(0));
  const auto actions = b.from(2, net::PingRequest{9, test_id(3)});
  const auto asking = sent_to<net::Ack>(actions, 2);
  ASSERT_EQ(asking.size(), 1U);
  EXPECT_EQ(asking[0].about, test_id(0)) << "I am asking";
  const auto pings = sent_to<net::Ping>(actions, 3);
  ASSERT_EQ(pings.size(), 1U);
  EXPECT_TRUE(sent_to<net::Ack>(b.from(4, net::Ack{pings[0].sequence, test_id(4), {}, {}}), 2).empty()) << "not the target";
  const auto relayed = sent_to<net::Ack>(b.from(3, net::Ack{pings[0].sequence, test_id(3), {}, {}}), 2);
  ASSERT_EQ(relayed.size(), 1U);
  EXPECT_EQ(relayed[0].sequence, 9U);
  EXPECT_EQ(relayed[0].about, test_id(3));
}

TEST(View, StrangersGetNoAnswer) {
  Bench b(3);
  EXPECT_TRUE(only<View::Send>(b.from(88, net::Ping{5, {}, {}})).empty());
  EXPECT_TRUE(only<View::Send>(b.from(88, net::PingRequest{5, test_id(1)})).empty());
  EXPECT_TRUE(only<View::Send>(b.from(88, net::ViewRequest{0})).empty());
  EXPECT_FALSE(sent_to<net::Ack>(b.from(88, net::Ping{5, {}, {update_of(test_record(88))}}), 88).empty())
      << "its record came with the ping";
  b.from(89, net::Ping{5, {}, {update_of(test_record(90)), update_of(test_record(89))}});
  EXPECT_EQ(b.state(89), PeerState::active);
  EXPECT_EQ(b.state(90), std::nullopt) << "a stranger has one thing to say";
}

TEST(View, PagesHoldTheWholeTableOnceWithAccusations) {
  Bench b(60);
  for (int accuser = 1; accuser <= 4; ++accuser) b.give(accusation(accuser, 50, 1, 0));
  std::map<NodeId, int> records;
  int accusations = 0;
  std::uint32_t pages = 1;
  for (std::uint32_t page = 0; page < pages; ++page) {
    const auto answers = sent_to<net::ViewPage>(b.from(1, net::ViewRequest{page}), 1);
    ASSERT_EQ(answers.size(), 1U);
    pages = answers[0].pages;
    EXPECT_EQ(answers[0].page, page);
    EXPECT_LE(answers[0].updates.size(), net::max_updates);
    for (const auto& update : answers[0].updates) {
      if (update.kind == net::Update::Kind::record) ++records[peek_record(update.bytes)->id];
      else ++accusations;
    }
  }
  EXPECT_EQ(records.size(), 61U);
  for (const auto& [id, times] : records) EXPECT_EQ(times, 1);
  EXPECT_EQ(accusations, 4);
  EXPECT_TRUE(sent_to<net::ViewPage>(b.from(1, net::ViewRequest{999}), 1).at(0).updates.empty());
}

TEST(View, PagesAndNewsAreRationed) {
  Bench b(60);
  int pages = 0;
  int news = 0;
  int acks = 0;
  for (std::uint64_t n = 0; n < 1000; ++n) {
    pages += static_cast<int>(sent_to<net::ViewPage>(b.from(1, net::ViewRequest{0}), 1).size());
    for (const auto& ack : sent_to<net::Ack>(b.from(2, net::Ping{n + 1, {}, {}}), 2)) {
      ++acks;
      news += static_cast<int>(!ack.updates.empty());
    }
  }
  EXPECT_EQ(pages, 16);
  EXPECT_EQ(acks, 1000) << "every probe is answered";
  EXPECT_LE(news, 8);
}

TEST(View, ReadsTwoTablesToTheEndWhenItStarts) {
  Bench b(0);
  const auto first = b.give(update_of(test_record(1)));
  ASSERT_EQ(sent_to<net::ViewRequest>(first, 1).size(), 1U);
  const auto next = b.from(1, net::ViewPage{0, 3, {update_of(test_record(2))}});
  EXPECT_EQ(sent_to<net::ViewRequest>(next, 1).at(0).page, 1U);
  EXPECT_EQ(sent_to<net::ViewRequest>(next, 2).size(), 1U) << "the second table";
  const auto repeated = b.run(3s);
  EXPECT_FALSE(sent_to<net::ViewRequest>(repeated, 1).empty()) << "the answer was lost";
  b.from(1, net::ViewPage{1, 3, {}});
  EXPECT_TRUE(sent_to<net::ViewRequest>(b.from(1, net::ViewPage{2, 3, {}}), 1).empty());
}

TEST(View, AWakeThatIsLateTakesANewLifeAndReadsTwoTables) {
  Bench b(5);
  b.run_with(5, 10s);
  b.now += 40s;
  const auto actions = b.on(View::HeardFrom{test_id(2)});
  const auto late = only<View::WokeLate>(actions);
  ASSERT_EQ(late.size(), 1U);
  EXPECT_GT(late[0].gap, 38s);
  EXPECT_LE(late[0].gap, 40s);
  EXPECT_EQ(b.view.self().incarnation, 1U);
  int requests = 0;
  for (const auto& send : only<View::Send>(actions)) requests += static_cast<int>(std::holds_alternative<net::ViewRequest>(send.message));
  EXPECT_EQ(requests, 2);
  for (int i = 1; i <= 5; ++i) EXPECT_EQ(b.state(i), PeerState::active);
}

TEST(View, ADeadOneIsTriedNowAndThen) {
  Bench b(5);
  for (int accuser = 1; accuser <= 4; ++accuser) b.give(accusation(accuser, 5, 1, 0));
  b.run_with(4, 6s);
  ASSERT_EQ(b.state(5), PeerState::dead);
  const auto knocks = sent_to<net::Ping>(b.run_with(4, 30s), 5);
  EXPECT_GE(knocks.size(), 4U);
  EXPECT_LE(knocks.size(), 6U);
  EXPECT_EQ(knocks[0].updates.at(0).kind, net::Update::Kind::suspicion) << "it is told why";
}

TEST(View, GivesTheLatelyHeardToNewcomers) {
  Bench b(5);
  b.now += 10ms;
  b.on(View::HeardFrom{test_id(4)});
  b.now += 10ms;
  b.on(View::HeardFrom{test_id(2)});
  b.give(update_of(test_record(9, Standing::joining)));
  const auto given = b.view.signed_active(2);
  ASSERT_EQ(given.size(), 2U);
  EXPECT_EQ(peek_record(given[0])->id, test_id(2));
  EXPECT_EQ(peek_record(given[1])->id, test_id(4));
  EXPECT_EQ(b.view.signed_active(99).size(), 5U) << "the active ones, not ourselves";
}

TEST(PeerTable, ListsFollowEveryChange) {
  Swarm swarm;
  swarm.self = test_id(0);
  for (int i = 0; i < 6; ++i) swarm.peers[test_id(i)] = {test_record(i, Standing::active, i % 2), PeerState::active, {}, -1, {}};
  EXPECT_EQ(swarm.live_replicas(0).size(), 3U);
  EXPECT_EQ(swarm.live_workers().size(), 6U);
  EXPECT_TRUE(swarm.live_replicas(7).empty());
  swarm.peers[test_id(2)].state = PeerState::suspect;
  EXPECT_EQ(swarm.live_originators(), (std::vector<NodeId>{test_id(0), test_id(4)}));
  swarm.peers.erase(test_id(0));
  EXPECT_EQ(swarm.live_replicas(0), (std::vector<NodeId>{test_id(4)}));
  swarm.peers.at(test_id(1)).record.role = Role::observer;
  EXPECT_EQ(swarm.live_workers().size(), 3U);
  const Swarm copy = swarm;
  EXPECT_EQ(copy.live_workers(), swarm.live_workers());
}

}  // namespace
}  // namespace starling::membership
