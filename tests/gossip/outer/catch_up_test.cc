#include "gossip/outer/catch_up.h"

#include <gtest/gtest.h>

#include <set>

namespace starling::outer {
namespace {

using membership::PeerState;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Stage stage = 2;
constexpr std::uint64_t part_bytes = 16;
constexpr std::uint8_t all_parts = 31;

NodeId node(std::uint8_t first) {
  NodeId id;
  id.key[0] = static_cast<std::byte>(first);
  return id;
}

Buffer filled(std::uint8_t value) { return std::make_shared<const Bytes>(part_bytes, std::byte{value}); }

template <typename T>
std::vector<T> only(const std::vector<CatchUp::Action>& actions) {
  std::vector<T> out;
  for (const auto& action : actions) {
    if (const auto* a = std::get_if<T>(&action)) out.push_back(*a);
  }
  return out;
}

// Four replicas of the stage in round 5, one of them ahead in round 6.
class CatchUpTest : public ::testing::Test {
 protected:
  using Actions = std::vector<CatchUp::Action>;

  CatchUpTest() : catch_up_({}, self_, 2) {
    swarm_.self = self_;
    for (std::uint8_t i = 1; i <= 4; ++i) add(node(i), stage, i == 3 ? 6 : 5);
    add(node(50), 0, 9);
  }

  void add(const NodeId& id, Stage of, Round round) {
    membership::Peer peer;
    peer.record.id = id;
    peer.record.stage = of;
    peer.record.round = round;
    peer.state = PeerState::active;
    swarm_.peers[id] = peer;
  }

  Actions on(const CatchUp::Event& event) { return catch_up_.on(event, swarm_, now_); }
  Actions start(CatchUp::From from = CatchUp::From::replica, std::uint8_t parts = all_parts) {
    return on(CatchUp::Start{stage, from, parts});
  }
  // The one who was asked last.
  void follow(const Actions& actions) {
    for (const auto& send : only<CatchUp::Send>(actions)) {
      donor_ = send.to;
      request_ = std::get<net::StateRequest>(send.message);
    }
  }
  Actions pass(Duration time) {
    Actions all;
    const TimePoint end = now_ + time;
    while (catch_up_.next_deadline() <= end) {
      now_ = std::max(now_, catch_up_.next_deadline());
      const Actions actions = on(CatchUp::Tick{});
      follow(actions);
      all.insert(all.end(), actions.begin(), actions.end());
    }
    now_ = end;
    return all;
  }

  net::StateInfo info(Round round = 6) const {
    net::StateInfo out;
    out.request = request_.request;
    out.stage = stage;
    out.step = 10 * round;
    out.round = round;
    out.adam_steps = 100 * round;
    out.parts = request_.parts;
    out.closed_any = true;
    return out;
  }
  net::StatePart part(std::uint8_t number) const { return {request_.request, stage, number, 0}; }
  Actions offer(std::uint8_t number, std::uint64_t counter, std::uint64_t bytes = part_bytes) {
    const net::Offer offer{
        .transfer = {donor_, 1, counter}, .about = part(number), .bytes = bytes, .hash = {}, .follows = 0};
    return on(CatchUp::PartOffered{donor_, offer, part_bytes});
  }
  Actions deliver(std::uint8_t number, std::uint8_t fill) {
    EXPECT_EQ(only<CatchUp::TakeOffer>(offer(number, ++transfers_)).size(), 1U);
    return on(CatchUp::PartCame{donor_, part(number), filled(fill)});
  }
  // Everything up to the Load.
  Actions copy_all(Round round = 6) {
    EXPECT_TRUE(on(CatchUp::InfoCame{donor_, info(round)}).empty());
    EXPECT_TRUE(deliver(0, 10).empty());
    EXPECT_TRUE(deliver(2, 12).empty());
    EXPECT_TRUE(deliver(3, 13).empty());
    EXPECT_TRUE(deliver(4, 14).empty());
    return deliver(1, 11);
  }

  const NodeId self_ = node(1);
  CatchUp catch_up_;
  membership::Swarm swarm_;
  NodeId donor_;
  net::StateRequest request_;
  std::uint64_t transfers_ = 0;
  TimePoint now_{std::chrono::hours(1)};
};

TEST_F(CatchUpTest, CopiesEverythingFromTheReplicaThatIsAhead) {
  follow(start());
  EXPECT_EQ(donor_, node(3));
  EXPECT_EQ(request_.source, net::StateRequest::Source::live);
  EXPECT_EQ(request_.parts, all_parts);
  const auto loads = only<CatchUp::Load>(copy_all());
  ASSERT_EQ(loads.size(), 1U);
  EXPECT_EQ(loads[0].parts.size(), 5U);
  EXPECT_EQ((*loads[0].parts.at(1))[0], std::byte{11});
  EXPECT_EQ(loads[0].info.adam_steps, 600);
  EXPECT_EQ(catch_up_.next_deadline(), never);
  const auto finished = only<CatchUp::Finished>(on(CatchUp::Loaded{true}));
  ASSERT_EQ(finished.size(), 1U);
  EXPECT_EQ(finished[0].donor, node(3));
  EXPECT_EQ(finished[0].info.step, 60);
  EXPECT_FALSE(catch_up_.busy());
}

TEST_F(CatchUpTest, JoinersSpreadOverEqualDonors) {
  std::set<NodeId> donors;
  for (std::uint8_t i = 100; i < 140; ++i) {
    for (std::uint8_t r = 10; r < 14; ++r) add(node(r), stage, 7);
    CatchUp joiner({}, node(i), 1);
    donors.insert(
        only<CatchUp::Send>(joiner.on(CatchUp::Start{stage, CatchUp::From::replica, all_parts}, swarm_, now_)).at(0).to);
  }
  EXPECT_EQ(donors.size(), 4U);
}

TEST_F(CatchUpTest, RequestIsRepeatedThenTheNextIsAsked) {
  follow(start());
  const NodeId first = donor_;
  Actions all = pass(seconds(2) - milliseconds(1));
  EXPECT_EQ(donor_, first);
  EXPECT_EQ(only<CatchUp::Send>(all).size(), 2U);
  pass(milliseconds(1));
  EXPECT_NE(donor_, first);
  all = pass(seconds(60));
  ASSERT_EQ(only<CatchUp::Exhausted>(all).size(), 1U);
  EXPECT_FALSE(catch_up_.busy());
  EXPECT_EQ(catch_up_.next_deadline(), never);
}

TEST_F(CatchUpTest, AtMostSoManyDonorsAreTried) {
  for (std::uint8_t i = 60; i < 90; ++i) add(node(i), stage, 5);
  follow(start());
  std::set<NodeId> asked{donor_};
  for (const auto& send : only<CatchUp::Send>(pass(seconds(200)))) asked.insert(send.to);
  EXPECT_EQ(asked.size(), 8U);
}

TEST_F(CatchUpTest, NobodyToAskIsSaidAtOnce) {
  for (std::uint8_t i = 2; i <= 4; ++i) swarm_.peers[node(i)].state = PeerState::dead;
  EXPECT_EQ(only<CatchUp::Exhausted>(start()).size(), 1U);
  EXPECT_FALSE(catch_up_.busy());
}

TEST_F(CatchUpTest, RefusalAndVerdictMoveOnAtOnce) {
  follow(start());
  const NodeId first = donor_;
  net::StateInfo refusal = info();
  refusal.parts = 0;
  follow(on(CatchUp::InfoCame{donor_, refusal}));
  EXPECT_NE(donor_, first);
  const NodeId second = donor_;
  swarm_.peers[second].state = PeerState::dead;
  follow(on(CatchUp::PeerGone{second}));
  EXPECT_NE(donor_, second);
  EXPECT_NE(donor_, first);
  EXPECT_EQ(only<CatchUp::Exhausted>(on(CatchUp::PeerGone{donor_})).size(), 1U);
}

TEST_F(CatchUpTest, DonorThatStallsOrFailsIsReplaced) {
  follow(start());
  on(CatchUp::InfoCame{donor_, info()});
  deliver(0, 10);
  EXPECT_EQ(only<CatchUp::TakeOffer>(offer(1, 90)).size(), 1U);
  const NodeId first = donor_;
  pass(seconds(59));
  EXPECT_EQ(donor_, first);
  const Actions late = pass(seconds(2));
  EXPECT_NE(donor_, first);
  // What still moves is refused, so that it costs no more memory.
  EXPECT_EQ(only<CatchUp::RefuseOffer>(late).size(), 1U);
  // A part of the old request is nothing now.
  EXPECT_TRUE(on(CatchUp::PartCame{first, {1, stage, 1, 0}, filled(1)}).empty());

  on(CatchUp::InfoCame{donor_, info()});
  offer(0, 91);
  const NodeId second = donor_;
  follow(on(CatchUp::PartFailed{donor_, part(0)}));
  EXPECT_NE(donor_, second);
}

TEST_F(CatchUpTest, BadStateIsNotFinished) {
  follow(start());
  const NodeId first = donor_;
  copy_all();
  const Actions next = on(CatchUp::Loaded{false});
  EXPECT_TRUE(only<CatchUp::Finished>(next).empty());
  follow(next);
  EXPECT_NE(donor_, first);
}

TEST_F(CatchUpTest, WrongSizePartOrStageEndsThisDonor) {
  for (const int wrong : {0, 1, 2, 3}) {
    follow(start());
    const NodeId first = donor_;
    net::StateInfo about = info();
    about.parts = 3;
    if (wrong < 3) on(CatchUp::InfoCame{donor_, about});
    Actions actions;
    if (wrong == 0) actions = offer(0, 1, part_bytes * 2);
    if (wrong == 1) actions = offer(4, 1);
    if (wrong == 2) actions = offer(2, 1);  // asked for, but not promised
    if (wrong == 3) {
      about.stage = stage + 1;
      actions = on(CatchUp::InfoCame{donor_, about});
    }
    EXPECT_TRUE(only<CatchUp::TakeOffer>(actions).empty()) << wrong;
    follow(actions);
    EXPECT_NE(donor_, first) << wrong;
    on(CatchUp::Cancelled{});
  }
}

TEST_F(CatchUpTest, NobodyElseIsListenedTo) {
  follow(start());
  const NodeId stranger = node(99);
  EXPECT_TRUE(on(CatchUp::InfoCame{stranger, info()}).empty());
  net::StateInfo old = info();
  old.request -= 1;
  EXPECT_TRUE(on(CatchUp::InfoCame{donor_, old}).empty());
  const net::Offer offer{.transfer = {stranger, 1, 1}, .about = part(0), .bytes = part_bytes, .hash = {}, .follows = 0};
  EXPECT_EQ(only<CatchUp::RefuseOffer>(on(CatchUp::PartOffered{stranger, offer, part_bytes})).size(), 1U);
  EXPECT_TRUE(on(CatchUp::PartCame{stranger, part(0), filled(1)}).empty());
  EXPECT_TRUE(on(CatchUp::PeerGone{stranger}).empty());
  EXPECT_TRUE(on(CatchUp::Loaded{true}).empty());
  EXPECT_EQ(catch_up_.busy(), true);
}

// Parts and numbers of two answers, between which the donor's round may have ended, are never mixed.
TEST_F(CatchUpTest, AnswersToRepeatedRequestsAreNotMixed) {
  follow(start());
  const net::StateRequest first = request_;
  // The first StateInfo is lost, its phi arrives.
  deliver(0, 1);
  pass(milliseconds(700));
  ASSERT_NE(request_.request, first.request);
  const NodeId same = donor_;
  EXPECT_TRUE(on(CatchUp::InfoCame{donor_, info(7)}).empty());
  EXPECT_EQ(donor_, same);
  EXPECT_TRUE(deliver(1, 21).empty());
  EXPECT_TRUE(deliver(2, 22).empty());
  EXPECT_TRUE(deliver(3, 23).empty());
  EXPECT_TRUE(deliver(4, 24).empty());
  const auto loads = only<CatchUp::Load>(deliver(0, 20));
  ASSERT_EQ(loads.size(), 1U);
  EXPECT_EQ((*loads[0].parts.at(0))[0], std::byte{20});
  EXPECT_EQ(loads[0].info.round, 7);
}

TEST_F(CatchUpTest, RepeatedOffersAndNumbersChangeNothing) {
  follow(start());
  on(CatchUp::InfoCame{donor_, info()});
  EXPECT_EQ(only<CatchUp::TakeOffer>(offer(0, 5)).size(), 1U);
  EXPECT_EQ(only<CatchUp::TakeOffer>(offer(0, 5)).size(), 1U);
  EXPECT_EQ(only<CatchUp::RefuseOffer>(offer(0, 6)).size(), 1U);
  on(CatchUp::PartCame{donor_, part(0), filled(1)});
  EXPECT_EQ(only<CatchUp::RefuseOffer>(offer(0, 5)).size(), 1U);
  net::StateInfo refusal = info();
  refusal.parts = 0;
  EXPECT_TRUE(on(CatchUp::InfoCame{donor_, refusal}).empty());
}

// The donor averages while the copy travels: phi, momentum and theta come again, Adam's state of before stays with its own counter.
TEST_F(CatchUpTest, PhiIsCopiedAgainWhenTheDonorsRoundEnded) {
  follow(start());
  on(CatchUp::InfoCame{donor_, info(6)});
  deliver(1, 11);
  deliver(2, 12);
  deliver(3, 13);
  deliver(4, 14);
  swarm_.peers[donor_].record.round = 7;
  const NodeId before = donor_;
  const Actions again = deliver(0, 10);
  EXPECT_TRUE(only<CatchUp::Load>(again).empty());
  follow(again);
  EXPECT_EQ(donor_, before);
  EXPECT_EQ(request_.parts, 25) << "phi, momentum and theta";
  on(CatchUp::InfoCame{donor_, info(7)});
  swarm_.peers[donor_].record.round = 8;  // once only
  EXPECT_TRUE(deliver(3, 23).empty());
  EXPECT_TRUE(deliver(4, 24).empty());
  const auto loads = only<CatchUp::Load>(deliver(0, 20));
  ASSERT_EQ(loads.size(), 1U);
  EXPECT_EQ((*loads[0].parts.at(0))[0], std::byte{20});
  EXPECT_EQ((*loads[0].parts.at(1))[0], std::byte{11});
  EXPECT_EQ((*loads[0].parts.at(3))[0], std::byte{23});
  EXPECT_EQ((*loads[0].parts.at(4))[0], std::byte{24});
  EXPECT_EQ(loads[0].info.round, 7);
  EXPECT_EQ(loads[0].info.adam_steps, 600);
  EXPECT_EQ(only<CatchUp::Finished>(on(CatchUp::Loaded{true})).size(), 1U);
}

TEST_F(CatchUpTest, PhiIsCopiedAgainWhenTheRoundEndedWhileLoading) {
  follow(start());
  ASSERT_EQ(only<CatchUp::Load>(copy_all()).size(), 1U);
  swarm_.peers[donor_].record.round = 7;
  const Actions again = on(CatchUp::Loaded{true});
  EXPECT_TRUE(only<CatchUp::Finished>(again).empty());
  follow(again);
  EXPECT_EQ(request_.parts, 25) << "phi, momentum and theta";
  on(CatchUp::InfoCame{donor_, info(7)});
  EXPECT_TRUE(deliver(3, 23).empty());
  EXPECT_TRUE(deliver(4, 24).empty());
  const auto loads = only<CatchUp::Load>(deliver(0, 20));
  ASSERT_EQ(loads.size(), 1U);
  EXPECT_EQ(loads[0].parts.size(), 5U);
}

// When nobody is left to refresh it from, the copy of one round ago is better than none.
TEST_F(CatchUpTest, OlderCopyIsTheLastResort) {
  follow(start());
  on(CatchUp::InfoCame{donor_, info(6)});
  deliver(1, 11);
  deliver(2, 12);
  deliver(3, 13);
  deliver(4, 14);
  swarm_.peers[donor_].record.round = 7;
  deliver(0, 10);
  for (std::uint8_t i = 2; i <= 4; ++i) swarm_.peers[node(i)].state = PeerState::dead;
  const auto loads = only<CatchUp::Load>(on(CatchUp::PeerGone{donor_}));
  ASSERT_EQ(loads.size(), 1U);
  EXPECT_EQ((*loads[0].parts.at(0))[0], std::byte{10});
  EXPECT_EQ(loads[0].info.round, 6);
  // And if even that is bad, that is the end.
  EXPECT_EQ(only<CatchUp::Exhausted>(on(CatchUp::Loaded{false})).size(), 1U);
}

TEST_F(CatchUpTest, TakersAskTheHolderOfTheNewestBackup) {
  for (std::uint8_t i = 2; i <= 4; ++i) swarm_.peers[node(i)].state = PeerState::dead;
  add(node(60), 0, 9);
  add(node(61), 1, 9);
  swarm_.peers[node(50)].record.backups = {{stage, 40}, {1, 90}};
  swarm_.peers[node(60)].record.backups = {{stage, 60}};
  swarm_.peers[node(61)].record.backups = {{1, 99}};
  follow(start(CatchUp::From::backup, 1));
  EXPECT_EQ(donor_, node(60));
  EXPECT_EQ(request_.source, net::StateRequest::Source::backup);
  swarm_.peers[node(60)].state = PeerState::dead;
  follow(on(CatchUp::PeerGone{node(60)}));
  EXPECT_EQ(donor_, node(50));
  on(CatchUp::InfoCame{donor_, info(4)});
  swarm_.peers[donor_].record.round = 12;  // its own round, which says nothing of the backup
  EXPECT_EQ(only<CatchUp::Load>(deliver(0, 1)).size(), 1U);
}

TEST_F(CatchUpTest, CancelAndStartAnewLeaveNothingBehind) {
  follow(start());
  on(CatchUp::InfoCame{donor_, info()});
  offer(0, 1);
  EXPECT_EQ(only<CatchUp::RefuseOffer>(on(CatchUp::Cancelled{})).size(), 1U);
  EXPECT_FALSE(catch_up_.busy());
  EXPECT_TRUE(on(CatchUp::Loaded{true}).empty());
  follow(start());
  EXPECT_TRUE(on(CatchUp::InfoCame{donor_, info()}).empty());
  const std::uint64_t before = request_.request;
  follow(start());
  EXPECT_GT(request_.request, before);
  EXPECT_EQ(only<CatchUp::RefuseOffer>(offer(0, 9)).size(), 0U);
}

TEST_F(CatchUpTest, RequestsOfAnotherLifeDiffer) {
  follow(start());
  const std::uint64_t before = request_.request;
  CatchUp restarted({}, self_, 3);
  follow(restarted.on(CatchUp::Start{stage, CatchUp::From::replica, all_parts}, swarm_, now_));
  EXPECT_NE(request_.request, before);
}

}  // namespace
}  // namespace starling::outer
