#include "gossip/net/token.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

namespace starling::net {
namespace {

constexpr std::int64_t now = 1'800'000'000;
constexpr std::string_view spec = "version: 1\nrun: {name: test}\n";

NodeKey key_of(std::uint8_t seed) {
  std::array<std::byte, 32> bytes{};
  bytes[0] = std::byte{seed};
  return NodeKey::from_seed(Secret<32>(bytes));
}

struct Swarm {
  NodeKey owner = key_of(1);
  NodeKey seed = key_of(2);
  NodeKey joiner = key_of(3);
  RunId run = make_run_id(owner.id(), Hash256{});
  Trust trust{run, owner.id(), {}};
  CurveKeyPair lobby_key = key_of(4).curve();

  std::string token(std::int64_t expiry = now + 3600) const {
    return create_token(owner, lobby_key,
                        {run,
                         Role::worker,
                         expiry,
                         blake2b_256(as_bytes(spec)),
                         {{"tcp://127.0.0.1:29402", seed.id()}, {"tcp://volunteer.example:1", key_of(9).id()}}});
  }
  JoinToken parsed() const { return std::move(*parse_token(token(), now)); }
  JoinRequest wish() const { return {joiner.id(), "gpu-box", true, 2, {std::byte{1}, std::byte{2}}}; }
  Bytes request() const { return encode_join_request(wish(), parsed().signed_grant, seed.id(), joiner); }
  JoinAdmission admission() const {
    const Bytes certificate =
        issue_certificate(owner, run, {joiner.id(), "gpu-box", Role::worker, Delegation::none, 1, now + 3600});
    return {certificate, std::string(spec), 2, no_slot, {Bytes(100), Bytes(200)}};
  }
};

template <typename T>
void expect_refused(const Result<T>& result, ErrorCode code, std::string_view reason) {
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, code) << result.error().message;
  EXPECT_NE(result.error().message.find(reason), std::string::npos) << result.error().message;
}

TEST(JoinToken, SaysWhatTheOwnerSigned) {
  const Swarm swarm;
  const auto token = parse_token("  " + swarm.token() + "\n", now);
  ASSERT_TRUE(token) << token.error().message;
  EXPECT_EQ(token->grant.run, swarm.run);
  EXPECT_EQ(token->grant.role, Role::worker);
  EXPECT_EQ(token->grant.expiry, now + 3600);
  EXPECT_EQ(token->owner, swarm.owner.id());
  EXPECT_EQ(token->spec_hash, blake2b_256(as_bytes(spec)));
  EXPECT_EQ(token->lobby_public_key(), swarm.lobby_key.public_key());
  ASSERT_EQ(token->seeds.size(), 2u);
  EXPECT_EQ(token->seeds[0], (Seed{"tcp://127.0.0.1:29402", swarm.seed.id()}));
}

TEST(JoinToken, IsOneLineThatAShellLeavesAlone) {
  const std::string token = Swarm().token();
  EXPECT_EQ(token.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_:"),
            std::string::npos);
}

TEST(JoinToken, HasAnIdOfItsOwn) {
  const Swarm swarm;
  EXPECT_NE(swarm.parsed().grant.token, swarm.parsed().grant.token);
}

TEST(JoinToken, CutOffAnywhereIsCalledCutOff) {
  const std::string token = Swarm().token();
  for (std::size_t size = std::string_view("starling1:").size(); size < token.size(); ++size) {
    expect_refused(parse_token(token.substr(0, size), now), ErrorCode::bad_input, "cut off");
  }
}

RC_GTEST_PROP(JoinToken, WithOneOtherCharacterIsRefused, ()) {
  const std::string token = Swarm().token();
  const auto at = *rc::gen::inRange<std::size_t>(0, token.size());
  const char other = static_cast<char>(token[at] ^ static_cast<char>(*rc::gen::inRange(1, 128)));
  std::string damaged = token;
  damaged[at] = other;
  RC_PRE(std::string_view(" \t\r\n").find(other) == std::string_view::npos || (at != 0 && at + 1 != token.size()));
  RC_ASSERT(!parse_token(damaged, now));
}

TEST(JoinToken, DamagedIsToldFromCutOff) {
  std::string token = Swarm().token();
  token[60] = token[60] == 'A' ? 'B' : 'A';
  expect_refused(parse_token(token, now), ErrorCode::bad_input, "checksum");
  expect_refused(parse_token(token + "AAAA", now), ErrorCode::bad_input, "damaged");
  token[60] = '/';
  expect_refused(parse_token(token, now), ErrorCode::bad_input, "characters that no token has");
  token[60] = '\n';
  expect_refused(parse_token(token, now), ErrorCode::bad_input, "more than one line");
}

TEST(JoinToken, ExpiredSaysWhen) {
  const Swarm swarm;
  expect_refused(parse_token(swarm.token(now - 301), now), ErrorCode::unauthenticated,
                 "expired at 2027-01-15 07:54:59 UTC");
  EXPECT_TRUE(parse_token(swarm.token(now - 299), now));
}

TEST(JoinToken, OfANewerVersionSaysSo) {
  std::string token = Swarm().token();
  token[8] = '2';
  expect_refused(parse_token(token, now), ErrorCode::bad_input, "newer version");
}

TEST(JoinToken, AnythingElseIsNoToken) {
  for (const char* text : {"", " ", "starling1", "starling1:", "hello", "starling1:====", "tcp://x:1", "starling:"}) {
    EXPECT_FALSE(parse_token(text, now)) << text;
  }
  EXPECT_FALSE(parse_token(std::string(1 << 20, 'A'), now));
  EXPECT_FALSE(parse_token("starling1:" + std::string(1 << 20, 'A'), now));
}

// Somebody who copies the parts of a token and signs it with a key of his own.
TEST(JoinToken, OfAnotherOwnerNeedsThatOwnersGrant) {
  const Swarm swarm;
  const JoinToken token = swarm.parsed();
  const Trust other{swarm.run, key_of(7).id(), {}};
  expect_refused(verify_grant(token.signed_grant, other, now), ErrorCode::unauthenticated, "signature does not hold");
}

RC_GTEST_PROP(JoinToken, NoFlippedBitOfAGrantIsAccepted, ()) {
  const Swarm swarm;
  Bytes grant = sign_grant(swarm.owner, {swarm.run, TokenId{}, Role::worker, now + 10});
  RC_ASSERT(verify_grant(grant, swarm.trust, now).has_value());
  const auto bit = *rc::gen::inRange<std::size_t>(0, 8 * grant.size());
  grant[bit / 8] ^= std::byte{1} << (bit % 8);
  RC_ASSERT(!verify_grant(grant, swarm.trust, now));
}

TEST(JoinRequest, TravelsAndProvesTheKey) {
  const Swarm swarm;
  const Bytes frame = swarm.request();
  EXPECT_LE(frame.size(), max_lobby_request_bytes);
  const auto read = decode_join_request(frame, swarm.seed.id(), swarm.trust, now);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->request.node, swarm.joiner.id());
  EXPECT_EQ(read->request.name, "gpu-box");
  EXPECT_TRUE(read->request.has_data);
  EXPECT_EQ(read->request.stage, 2);
  EXPECT_EQ(read->request.record, swarm.wish().record);
  EXPECT_EQ(read->grant.role, Role::worker);
}

TEST(JoinRequest, TheLargestFitsTheLobby) {
  const Swarm swarm;
  JoinRequest wish = swarm.wish();
  wish.name = std::string(max_name_bytes, 'a');
  wish.record.resize(max_answer_record_bytes);
  const Bytes frame = encode_join_request(wish, swarm.parsed().signed_grant, swarm.seed.id(), swarm.joiner);
  EXPECT_LE(frame.size(), max_lobby_request_bytes);
  EXPECT_TRUE(decode_join_request(frame, swarm.seed.id(), swarm.trust, now));
}

RC_GTEST_PROP(JoinRequest, NoFlippedBitIsAccepted, ()) {
  const Swarm swarm;
  Bytes frame = swarm.request();
  const auto bit = *rc::gen::inRange<std::size_t>(0, 8 * frame.size());
  frame[bit / 8] ^= std::byte{1} << (bit % 8);
  RC_ASSERT(!decode_join_request(frame, swarm.seed.id(), swarm.trust, now));
}

TEST(JoinRequest, CannotBeCarriedToAnotherSeedOrShownUnderAnotherToken) {
  const Swarm swarm;
  Bytes frame = swarm.request();
  expect_refused(decode_join_request(frame, key_of(9).id(), swarm.trust, now), ErrorCode::unauthenticated, "prove");
  const Bytes other = sign_grant(swarm.owner, {swarm.run, TokenId{}, Role::observer, now + 10});
  std::copy(other.begin(), other.end(), frame.begin() + 1);
  expect_refused(decode_join_request(frame, swarm.seed.id(), swarm.trust, now), ErrorCode::unauthenticated, "prove");
}

TEST(JoinRequest, OfAnExpiredOrRevokedTokenOrARevokedNodeIsRefused) {
  Swarm swarm;
  const Bytes frame = swarm.request();
  expect_refused(decode_join_request(frame, swarm.seed.id(), swarm.trust, now + 3600 + 301), ErrorCode::unauthenticated,
                 "expired");
  swarm.trust.revocations.nodes = {swarm.joiner.id()};
  expect_refused(decode_join_request(frame, swarm.seed.id(), swarm.trust, now), ErrorCode::unauthenticated, "revoked");
  swarm.trust.revocations.nodes.clear();
  const auto request = decode_join_request(frame, swarm.seed.id(), swarm.trust, now);
  ASSERT_TRUE(request);
  swarm.trust.revocations.tokens = {request->grant.token};
  expect_refused(decode_join_request(frame, swarm.seed.id(), swarm.trust, now), ErrorCode::unauthenticated, "revoked");
}

TEST(JoinRequest, OfAnotherRunIsRefused) {
  Swarm swarm;
  const Bytes frame = swarm.request();
  swarm.trust.run.hash[3] ^= std::byte{1};
  expect_refused(decode_join_request(frame, swarm.seed.id(), swarm.trust, now), ErrorCode::unauthenticated,
                 "is for run");
}

TEST(JoinRequest, CutOffOrPaddedIsRefused) {
  const Swarm swarm;
  Bytes frame = swarm.request();
  for (std::size_t size = 0; size < frame.size(); ++size) {
    EXPECT_FALSE(decode_join_request(ByteView(frame).first(size), swarm.seed.id(), swarm.trust, now)) << size;
  }
  frame.push_back(std::byte{0});
  EXPECT_FALSE(decode_join_request(frame, swarm.seed.id(), swarm.trust, now));
}

TEST(JoinAnswer, BringsCertificateSpecAndRecords) {
  const Swarm swarm;
  const auto read = decode_join_answer(encode_join_answer(swarm.admission()), swarm.parsed(), swarm.joiner.id(), now);
  ASSERT_TRUE(read) << read.error().message;
  const auto& admission = std::get<JoinAdmission>(*read);
  EXPECT_EQ(admission.chain, swarm.admission().chain);
  EXPECT_EQ(admission.run_spec, spec);
  EXPECT_EQ(admission.stage, 2);
  EXPECT_EQ(admission.slot, no_slot);
  ASSERT_EQ(admission.records.size(), 2u);
  EXPECT_EQ(admission.records[1].size(), 200u);
}

TEST(JoinAnswer, LeavesOutRecordsThatDoNotFit) {
  Swarm swarm;
  const std::string large(max_run_spec_bytes, '#');
  JoinAdmission admission = swarm.admission();
  admission.run_spec = large;
  admission.records.assign(20, Bytes(max_answer_record_bytes));
  const Bytes frame = encode_join_answer(admission);
  EXPECT_LE(frame.size(), max_lobby_answer_bytes);
  JoinToken token = swarm.parsed();
  token.spec_hash = blake2b_256(as_bytes(large));
  const auto read = decode_join_answer(frame, token, swarm.joiner.id(), now);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(std::get<JoinAdmission>(*read).records.size(), 15u);
}

TEST(JoinAnswer, WithAnotherSpecThanTheTokenNamesIsRefused) {
  const Swarm swarm;
  JoinAdmission admission = swarm.admission();
  admission.run_spec += "# harmless?";
  expect_refused(decode_join_answer(encode_join_answer(admission), swarm.parsed(), swarm.joiner.id(), now),
                 ErrorCode::unauthenticated, "run spec");
}

TEST(JoinAnswer, WithACertificateForSomebodyElseIsRefused) {
  const Swarm swarm;
  expect_refused(decode_join_answer(encode_join_answer(swarm.admission()), swarm.parsed(), key_of(8).id(), now),
                 ErrorCode::unauthenticated, "another node");
}

TEST(JoinAnswer, SignedByAStrangerIsRefused) {
  const Swarm swarm;
  JoinAdmission admission = swarm.admission();
  admission.chain =
      issue_certificate(key_of(8), swarm.run, {swarm.joiner.id(), "x", Role::worker, Delegation::none, 1, now});
  expect_refused(decode_join_answer(encode_join_answer(admission), swarm.parsed(), swarm.joiner.id(), now),
                 ErrorCode::unauthenticated, "was issued by");
}

TEST(JoinAnswer, ARefusalSaysWhyInPlainLetters) {
  const Swarm swarm;
  const std::string why = "stage\x1b[2J full" + std::string(1000, 'x');
  const auto read = decode_join_answer(encode_join_answer(JoinDenial{JoinRefusal::busy, why}), swarm.parsed(),
                                       swarm.joiner.id(), now);
  ASSERT_TRUE(read) << read.error().message;
  const auto& denial = std::get<JoinDenial>(*read);
  EXPECT_EQ(denial.code, JoinRefusal::busy);
  EXPECT_EQ(denial.why.substr(0, 16), "stage?[2J fullxx");
  EXPECT_EQ(denial.why.size(), max_refusal_bytes);
}

TEST(JoinAnswer, CutOffAnywhereIsRefused) {
  const Swarm swarm;
  for (const Bytes& frame :
       {encode_join_answer(swarm.admission()), encode_join_answer(JoinDenial{JoinRefusal::ended, "over"})}) {
    for (std::size_t size = 0; size < frame.size(); ++size) {
      EXPECT_FALSE(decode_join_answer(ByteView(frame).first(size), swarm.parsed(), swarm.joiner.id(), now)) << size;
    }
  }
}

}  // namespace
}  // namespace starling::net
