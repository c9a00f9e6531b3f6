#include "gossip/membership/record.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>

#include "gossip/membership/key_signatures.h"
#include "gossip/net/certificate.h"
#include "gossip/net/wire.h"
#include "tests/gossip/membership/hash_signatures.h"

namespace starling::membership {
namespace {

std::string random_name() {
  return *rc::gen::resize(32, rc::gen::nonEmpty(rc::gen::container<std::string>(
                                  rc::gen::elementOf(std::string("abcdefghijklmnopqrstuvwxyz0123456789-")))))
              .as("name");
}

std::string random_endpoint() {
  if (*rc::gen::inRange(0, 4) == 0) return {};
  return "tcp://" + *rc::gen::element<std::string>("127.0.0.1", "[fe80::1]", "a-host.example", "10.1.2.3") + ":" +
         std::to_string(*rc::gen::inRange(0, 65536));
}

double random_seconds() { return static_cast<double>(*rc::gen::inRange(0, 1'000'000)) / 997.0; }

Record random_record() {
  Record record;
  record.id = test_id(*rc::gen::inRange(0, 10'000));
  record.boot = *rc::gen::arbitrary<Boot>();
  record.incarnation = *rc::gen::arbitrary<std::uint64_t>();
  record.version = *rc::gen::arbitrary<std::uint64_t>();
  record.name = random_name().substr(0, 32);
  record.role = *rc::gen::element(Role::worker, Role::observer);
  record.standing = *rc::gen::element(Standing::joining, Standing::active, Standing::paused, Standing::left);
  if (record.role == Role::worker) {
    record.stage = *rc::gen::inRange(-1, 4096);
    record.slot = *rc::gen::inRange(-1, 1000);
    record.claim = *rc::gen::inRange(-1, 4096);
  }
  record.step = *rc::gen::inRange<Step>(0, net::max_step);
  record.done = *rc::gen::inRange<Step>(-1, net::max_step);
  record.round = *rc::gen::inRange<Step>(0, net::max_step);
  record.endpoints = {random_endpoint(), random_endpoint(), random_endpoint()};
  record.http = *rc::gen::element<std::string>("", "127.0.0.1:9464", "[::1]:80");
  record.host = *rc::gen::arbitrary<std::uint64_t>();
  record.pid = *rc::gen::inRange<std::int64_t>(0, 1 << 22);
  record.has_data = *rc::gen::arbitrary<bool>();
  record.microbatch_seconds = random_seconds();
  record.load_seconds = random_seconds();
  record.tokens = *rc::gen::inRange<std::int64_t>(0, std::int64_t{1} << 50);
  record.rss_bytes = *rc::gen::arbitrary<std::uint64_t>();
  record.finished = *rc::gen::arbitrary<bool>();
  record.last_step = *rc::gen::inRange<Step>(0, net::max_step);
  for (int i = *rc::gen::inRange(0, 9); i > 0; --i) record.backups.push_back({*rc::gen::inRange(0, 4096), i});
  for (int i = *rc::gen::inRange(0, 3); i > 0; --i) {
    record.outcomes.push_back({{test_id(i), 3, *rc::gen::arbitrary<std::uint64_t>()},
                               *rc::gen::element(ExchangeOutcome::Result::averaged, ExchangeOutcome::Result::solo)});
  }
  record.certificate = Bytes(static_cast<std::size_t>(*rc::gen::inRange(0, 425)), std::byte{9});
  return record;
}

// Everything at its longest.
Record largest_record() {
  Record record = test_record(1);
  record.name = std::string(32, 'n');
  const std::string host(128 - 6 - 6, 'h');
  record.endpoints = {"tcp://" + host + ":65535", "tcp://" + host + ":65535", "tcp://" + host + ":65535"};
  record.http = std::string(122, 'h') + ":65535";
  record.backups.assign(8, {1, 1});
  record.outcomes.assign(2, {{test_id(2), 1, 1}, ExchangeOutcome::Result::averaged});
  record.certificate = Bytes(net::max_chain_bytes);
  return record;
}

RC_GTEST_PROP(Record, WhatIsEncodedDecodesToTheSame, ()) {
  const Record record = random_record();
  const HashSignatures signatures(record.id);
  const Bytes bytes = encode_record(record, signatures);
  RC_ASSERT(bytes.size() <= net::max_record_bytes);
  const auto decoded = decode_record(bytes, signatures);
  RC_ASSERT(decoded.has_value());
  RC_ASSERT(*decoded == record);
  RC_ASSERT(encode_record(*decoded, signatures) == bytes);
  const auto label = peek_record(bytes);
  RC_ASSERT(label.has_value());
  RC_ASSERT(label->id == record.id);
  RC_ASSERT(label->order == order_of(record));
}

RC_GTEST_PROP(Record, NoChangedByteIsAccepted, ()) {
  const Record record = random_record();
  const HashSignatures signatures(record.id);
  Bytes bytes = encode_record(record, signatures);
  const auto at = *rc::gen::inRange<std::size_t>(0, bytes.size());
  bytes[at] ^= static_cast<std::byte>(*rc::gen::inRange(1, 256));
  RC_ASSERT(!decode_record(bytes, signatures).has_value());
}

RC_GTEST_PROP(Record, NoCutOrLengthenedOneIsAccepted, ()) {
  const Record record = random_record();
  const HashSignatures signatures(record.id);
  Bytes bytes = encode_record(record, signatures);
  bytes.resize(*rc::gen::suchThat(rc::gen::inRange<std::size_t>(0, 3000),
                                  [&](std::size_t size) { return size != bytes.size(); }));
  RC_ASSERT(!decode_record(bytes, signatures).has_value());
}

// A member can sign anything: the parser stands alone behind a signature that holds.
RC_GTEST_PROP(Record, SignedNonsenseIsRefusedOrWithinBounds, ()) {
  const Record record = random_record();
  const HashSignatures signatures(record.id);
  const Bytes good = encode_record(record, signatures);
  Bytes message(reinterpret_cast<const std::byte*>("starling/record/1"), reinterpret_cast<const std::byte*>("starling/record/1") + 18);
  const std::size_t body_at = message.size();
  message.insert(message.end(), good.begin() + 64, good.end());
  const int changes = *rc::gen::inRange(1, 6);
  for (int i = 0; i < changes; ++i) {
    // The id stays, so that the signature is by whom the record names.
    const auto at = *rc::gen::inRange<std::size_t>(body_at + 33, message.size());
    message[at] = static_cast<std::byte>(*rc::gen::inRange(0, 256));
  }
  if (*rc::gen::arbitrary<bool>()) message.resize(*rc::gen::inRange<std::size_t>(body_at + 57, message.size() + 1));
  const auto signature = signatures.sign(message);
  Bytes bytes(signature.begin(), signature.end());
  bytes.insert(bytes.end(), message.begin() + static_cast<std::ptrdiff_t>(body_at), message.end());
  const auto decoded = decode_record(bytes, signatures);
  if (!decoded) {
    RC_ASSERT(decoded.error().code == ErrorCode::bad_input);
    return;
  }
  RC_ASSERT(!defect_of(*decoded).has_value());
  RC_ASSERT(encode_record(*decoded, signatures) == bytes);
}

TEST(Record, TheLargestFitsWhereGossipCarriesIt) {
  const Record record = largest_record();
  ASSERT_EQ(defect_of(record), std::nullopt);
  const HashSignatures signatures(record.id);
  const Bytes bytes = encode_record(record, signatures);
  EXPECT_LE(bytes.size(), net::max_record_bytes);
  EXPECT_EQ(decode_record(bytes, signatures).value(), record);
}

TEST(Record, NamesWhatIsWrong) {
  const auto defect = [](auto&& edit) {
    Record record = test_record(1);
    edit(record);
    return defect_of(record).value_or("");
  };
  EXPECT_EQ(defect([](Record&) {}), "");
  EXPECT_NE(defect([](Record& r) { r.name = ""; }), "");
  EXPECT_NE(defect([](Record& r) { r.name = "Upper"; }), "");
  EXPECT_NE(defect([](Record& r) { r.name = "../etc"; }), "");
  EXPECT_NE(defect([](Record& r) { r.name = std::string(33, 'a'); }), "");
  EXPECT_NE(defect([](Record& r) { r.role = Role::observer; }), "") << "an observer with a stage";
  EXPECT_NE(defect([](Record& r) { r.stage = -2; }), "");
  EXPECT_NE(defect([](Record& r) { r.stage = net::max_stages; }), "");
  EXPECT_NE(defect([](Record& r) { r.step = net::max_step + 1; }), "");
  EXPECT_NE(defect([](Record& r) { r.done = -2; }), "");
  EXPECT_NE(defect([](Record& r) { r.load_seconds = std::numeric_limits<double>::quiet_NaN(); }), "");
  EXPECT_NE(defect([](Record& r) { r.microbatch_seconds = std::numeric_limits<double>::infinity(); }), "");
  EXPECT_NE(defect([](Record& r) { r.load_seconds = -1e-9; }), "");
  EXPECT_NE(defect([](Record& r) { r.tokens = -1; }), "");
  EXPECT_NE(defect([](Record& r) { r.pid = -1; }), "");
  EXPECT_NE(defect([](Record& r) { r.backups.assign(9, {}); }), "");
  EXPECT_NE(defect([](Record& r) { r.backups = {{no_stage, 1}}; }), "");
  EXPECT_NE(defect([](Record& r) { r.outcomes.assign(3, {}); }), "");
  EXPECT_NE(defect([](Record& r) { r.certificate = Bytes(net::max_chain_bytes + 1); }), "");
}

// What a node says of itself makes others dial: nothing but a TCP address of bounded length gets that far.
TEST(Record, AnEndpointIsATcpAddress) {
  for (const char* bad : {"ipc:///tmp/x", "inproc://a", "tcp://", "tcp://host", "tcp://*:1", "tcp://host:99999",
                          "tcp://a;b:1", "tcp://a b:1", "127.0.0.1:1", "tcp://eth0;host:1", "tcp://host:1\n"}) {
    Record record = test_record(1);
    record.endpoints.bulk = bad;
    EXPECT_NE(defect_of(record), std::nullopt) << bad;
  }
  Record record = test_record(1);
  record.endpoints.control = "tcp://" + std::string(130, 'h') + ":1";
  EXPECT_NE(defect_of(record), std::nullopt);
}

TEST(Suspicion, RoundTripsAndIsRefusedWhenTouched) {
  const HashSignatures signatures(test_id(1));
  const Suspicion suspicion{test_id(1), test_id(2), 5, 6};
  const Bytes bytes = encode_suspicion(suspicion, signatures);
  EXPECT_EQ(decode_suspicion(bytes, signatures).value(), suspicion);
  EXPECT_EQ(peek_suspicion(bytes), suspicion);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    Bytes touched = bytes;
    touched[i] ^= std::byte{1};
    EXPECT_FALSE(decode_suspicion(touched, signatures)) << i;
  }
  EXPECT_FALSE(decode_suspicion(ByteView(bytes).first(bytes.size() - 1), signatures));
  EXPECT_FALSE(decode_suspicion({}, signatures));
}

TEST(Suspicion, NobodyCanAccuseInAnothersName) {
  const HashSignatures mine(test_id(1));
  const Bytes forged = encode_suspicion({test_id(9), test_id(2), 1, 1}, mine);
  EXPECT_EQ(decode_suspicion(forged, mine).error().code, ErrorCode::unauthenticated);
}

// With real keys: what one key signs holds for its id alone, and neither kind passes for the other or for a certificate.
TEST(KeySignatures, SignRecordsAndSuspicions) {
  const net::NodeKey key = net::NodeKey::generate();
  const net::NodeKey other = net::NodeKey::generate();
  const KeySignatures signatures(key);
  Record record = test_record(1);
  record.id = key.id();
  const Bytes bytes = encode_record(record, signatures);
  EXPECT_EQ(decode_record(bytes, KeySignatures(other)).value(), record) << "anybody can verify";
  record.id = other.id();
  EXPECT_EQ(decode_record(encode_record(record, signatures), signatures).error().code, ErrorCode::unauthenticated);

  const Bytes suspicion = encode_suspicion({key.id(), other.id(), 1, 2}, signatures);
  EXPECT_TRUE(decode_suspicion(suspicion, KeySignatures(other)));
  for (std::size_t i = 0; i < bytes.size(); i += 7) {
    Bytes touched = bytes;
    touched[i] ^= std::byte{0x40};
    EXPECT_FALSE(decode_record(touched, signatures)) << i;
  }
  // A record's body presented as a suspicion's and the other way round: sizes aside, the domain differs.
  Bytes relabelled = suspicion;
  const Bytes body(suspicion.begin() + 64, suspicion.end());
  const auto plain = signatures.sign(body);
  std::copy(plain.begin(), plain.end(), relabelled.begin());
  EXPECT_FALSE(decode_suspicion(relabelled, signatures)) << "signed without its domain";
}

}  // namespace
}  // namespace starling::membership
