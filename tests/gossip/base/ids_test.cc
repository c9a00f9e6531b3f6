#include "gossip/base/ids.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

NodeId node(std::uint8_t first, std::uint8_t last = 0) {
  NodeId id;
  id.key.front() = static_cast<std::byte>(first);
  id.key.back() = static_cast<std::byte>(last);
  return id;
}

TEST(NodeId, ReadsBackItsHex) {
  const NodeId id = node(0xab, 0xcd);
  EXPECT_EQ(id.hex().size(), 64U);
  EXPECT_EQ(id.brief(), "ab000000");
  EXPECT_EQ(node_id_from_hex(id.hex()).value(), id);
}

TEST(NodeId, RefusesAnythingButSixtyFourDigits) {
  const std::string good = node(1).hex();
  for (const std::string& text : {std::string(), good.substr(1), good + "0", good + "00", "zz" + good.substr(2)}) {
    const auto id = node_id_from_hex(text);
    ASSERT_FALSE(id) << text;
    EXPECT_EQ(id.error().code, ErrorCode::bad_input);
  }
  // A message never repeats all of a hostile text.
  EXPECT_LT(node_id_from_hex(std::string(100000, 'x')).error().message.size(), 200U);
}

TEST(NodeId, OrdersByTheBytesOfTheKey) {
  EXPECT_LT(node(0x01), node(0x02));
  EXPECT_LT(node(0x7f), node(0x80));  // bytes are unsigned
  EXPECT_LT(node(1, 1), node(1, 2));
  EXPECT_TRUE(NodeId{}.is_null());
  EXPECT_FALSE(node(0, 1).is_null());
}

TEST(Ids, OrderByOwnerThenBootThenCount) {
  EXPECT_LT((MicrobatchId{node(1), 1, 9, 9}), (MicrobatchId{node(1), 2, 1, 0}));
  EXPECT_LT((MicrobatchId{node(1), 1, 1, 9}), (MicrobatchId{node(1), 1, 2, 0}));
  EXPECT_LT((MicrobatchId{node(1), 1, 1, 1}), (MicrobatchId{node(1), 1, 1, 2}));
  EXPECT_LT((ExchangeId{node(1), 1, 9}), (ExchangeId{node(2), 0, 0}));
  EXPECT_NE((TransferId{node(1), 1, 1}), (TransferId{node(1), 2, 1}));
}

TEST(Ids, ReadWellInALog) {
  EXPECT_EQ(to_string(MicrobatchId{node(0xab), 2, 120, 7}), "ab000000/2/120/7");
  EXPECT_EQ(to_string(ExchangeId{node(0xab), 2, 5}), "ab000000/2/x5");
  EXPECT_EQ(to_string(TransferId{node(0xab), 2, 5}), "ab000000/2/t5");
}

}  // namespace
}  // namespace starling
