#include "gossip/membership/dissemination.h"

#include <gtest/gtest.h>

#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {
namespace {

using Urgency = Dissemination::Urgency;
using Share = Dissemination::Share;

Bytes bytes_of(int value) { return Bytes(4, static_cast<std::byte>(value)); }

int copies_told(Dissemination& news, std::size_t members) {
  int told = 0;
  while (!news.take(1, Share::all, members).empty()) ++told;
  return told;
}

TEST(Dissemination, UrgentNewsGoThreeTimesAsOften) {
  for (const auto& [members, doublings] : std::map<std::size_t, int>{{1, 1}, {2, 2}, {7, 3}, {16, 5}, {64, 7}}) {
    Dissemination news(100);
    news.add_record(test_id(1), bytes_of(1), Urgency::urgent);
    EXPECT_EQ(copies_told(news, members), 3 * doublings) << members;
    news.add_record(test_id(1), bytes_of(1), Urgency::routine);
    EXPECT_EQ(copies_told(news, members), doublings) << members;
  }
}

TEST(Dissemination, UrgentFirstThenTheLeastTold) {
  Dissemination news(100);
  news.add_record(test_id(1), bytes_of(1), Urgency::routine);
  news.add_record(test_id(2), bytes_of(2), Urgency::urgent);
  EXPECT_EQ(news.take(1, Share::all, 16).front().bytes, bytes_of(2));
  news.add_record(test_id(3), bytes_of(3), Urgency::urgent);
  EXPECT_EQ(news.take(1, Share::all, 16).front().bytes, bytes_of(3)) << "2 was told once already";
  const auto all = news.take(24, Share::all, 16);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all.back().bytes, bytes_of(1));
  EXPECT_EQ(news.take(24, Share::urgent_only, 16).size(), 2U);
}

TEST(Dissemination, ANewerVersionReplacesAndStaysUrgent) {
  Dissemination news(100);
  news.add_record(test_id(1), bytes_of(1), Urgency::urgent);
  news.take(1, Share::all, 16);
  news.add_record(test_id(1), bytes_of(2), Urgency::routine);
  EXPECT_EQ(news.size(), 1U);
  EXPECT_TRUE(news.has_urgent());
  EXPECT_EQ(news.take(1, Share::urgent_only, 16).front().bytes, bytes_of(2));
  EXPECT_EQ(copies_told(news, 16), 15 - 2) << "what was told is not told again from the start";
}

TEST(Dissemination, ARefutedAccusationIsNotPassedOn) {
  Dissemination news(100);
  news.add_record(test_id(1), bytes_of(1), Urgency::urgent);
  news.add_accusation(test_id(1), test_id(2), bytes_of(2));
  news.add_accusation(test_id(1), test_id(3), bytes_of(3));
  news.add_accusation(test_id(2), test_id(3), bytes_of(4));
  news.drop_accusations(test_id(1));
  const auto left = news.take(24, Share::all, 16);
  ASSERT_EQ(left.size(), 2U);
  EXPECT_EQ(left[0].kind, net::Update::Kind::record);
  EXPECT_EQ(left[1].bytes, bytes_of(4));
  EXPECT_EQ(left[1].kind, net::Update::Kind::suspicion);
}

TEST(Dissemination, IsBounded) {
  Dissemination news(10);
  for (int i = 0; i < 50; ++i) news.add_record(test_id(i), bytes_of(i), Urgency::routine);
  EXPECT_EQ(news.size(), 10U);
  for (int i = 0; i < 50; ++i) news.add_record(test_id(i), bytes_of(i), Urgency::urgent);
  EXPECT_EQ(news.size(), 10U);
}

TEST(Dissemination, RoutineLeavesRoomOnThePacket) {
  Dissemination news(100);
  for (int i = 0; i < 50; ++i) news.add_record(test_id(i), bytes_of(i), Urgency::routine);
  EXPECT_EQ(news.take(24, Share::all, 64).size(), 16U);
}

}  // namespace
}  // namespace starling::membership
