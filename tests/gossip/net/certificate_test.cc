#include "gossip/net/certificate.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>

namespace starling::net {
namespace {

constexpr std::int64_t now = 1'800'000'000;

NodeKey key_of(std::uint8_t seed) {
  std::array<std::byte, 32> bytes{};
  bytes[0] = std::byte{seed};
  return NodeKey::from_seed(Secret<32>(bytes));
}

// An owner, a delegate and a node of one run.
struct Swarm {
  NodeKey owner = key_of(1);
  NodeKey delegate = key_of(2);
  NodeKey node = key_of(3);
  RunId run = make_run_id(owner.id(), Hash256{});
  Trust trust{run, owner.id(), {}};

  CertificateFields delegate_fields() const {
    return {delegate.id(), "w00", Role::observer, Delegation::may_admit, 1, now + 1000};
  }
  CertificateFields node_fields() const { return {node.id(), "w01", Role::worker, Delegation::none, 7, now + 1000}; }
  Bytes delegate_certificate() const { return issue_certificate(owner, run, delegate_fields()); }
  Bytes chain() const { return chain_of(issue_certificate(delegate, run, node_fields()), delegate_certificate()); }
};

void expect_refused(const Result<Certificate>& result, std::string_view reason) {
  ASSERT_FALSE(result);
  EXPECT_NE(result.error().message.find(reason), std::string::npos) << result.error().message;
}

TEST(Certificate, OfTheOwnerSaysWhatWasSigned) {
  const Swarm swarm;
  const auto read = verify_chain(swarm.delegate_certificate(), swarm.trust, now);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->subject, swarm.delegate.id());
  EXPECT_EQ(read->issuer, swarm.owner.id());
  EXPECT_EQ(read->run, swarm.run);
  EXPECT_EQ(read->name, "w00");
  EXPECT_EQ(read->role, Role::observer);
  EXPECT_EQ(read->delegation, Delegation::may_admit);
  EXPECT_EQ(read->serial, 1u);
  EXPECT_EQ(read->expiry, now + 1000);
}

TEST(Certificate, ThroughADelegateHolds) {
  const Swarm swarm;
  const auto read = verify_chain(swarm.chain(), swarm.trust, now);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->subject, swarm.node.id());
  EXPECT_EQ(read->name, "w01");
}

RC_GTEST_PROP(Certificate, NoFlippedBitIsAccepted, ()) {
  const Swarm swarm;
  Bytes chain = swarm.chain();
  const auto bit = *rc::gen::inRange<std::size_t>(0, 8 * chain.size());
  chain[bit / 8] ^= std::byte{1} << (bit % 8);
  RC_ASSERT(!verify_chain(chain, swarm.trust, now));
}

TEST(Certificate, OfAnySizeButOneOrTwoIsRefused) {
  const Swarm swarm;
  Bytes chain = swarm.chain();
  for (std::size_t size = 0; size < chain.size(); ++size) {
    const bool holds = verify_chain(ByteView(chain).first(size), swarm.trust, now).has_value();
    EXPECT_FALSE(holds) << size;  // not even the first half: its issuer is not the owner
  }
  const Bytes third = swarm.delegate_certificate();
  chain.insert(chain.end(), third.begin(), third.end());
  expect_refused(verify_chain(chain, swarm.trust, now), "bytes");
}

TEST(Certificate, OfAnotherRunIsRefused) {
  Swarm swarm;
  const Bytes chain = swarm.chain();
  swarm.trust.run.hash[0] ^= std::byte{1};
  expect_refused(verify_chain(chain, swarm.trust, now), "is for run");
}

TEST(Certificate, ExpiresFiveMinutesAfterItsTime) {
  const Swarm swarm;
  EXPECT_TRUE(verify_chain(swarm.chain(), swarm.trust, now + 1000 + 299));
  expect_refused(verify_chain(swarm.chain(), swarm.trust, now + 1000 + 301), "expired at 2027-01-15");
}

TEST(Certificate, WithTheLargestExpiryDoesNotOverflow) {
  const Swarm swarm;
  CertificateFields fields = swarm.delegate_fields();
  fields.expiry = std::numeric_limits<std::int64_t>::max();
  EXPECT_TRUE(verify_chain(issue_certificate(swarm.owner, swarm.run, fields), swarm.trust, now));
  fields.expiry = std::numeric_limits<std::int64_t>::min();
  EXPECT_FALSE(verify_chain(issue_certificate(swarm.owner, swarm.run, fields), swarm.trust, now));
}

TEST(Certificate, OfAnIssuerWhoIsNoDelegateIsRefused) {
  const Swarm swarm;
  CertificateFields plain = swarm.delegate_fields();
  plain.delegation = Delegation::none;
  const Bytes chain = chain_of(issue_certificate(swarm.delegate, swarm.run, swarm.node_fields()),
                               issue_certificate(swarm.owner, swarm.run, plain));
  expect_refused(verify_chain(chain, swarm.trust, now), "is no delegate");
}

TEST(Certificate, OfADelegateMakesNeitherDelegatesNorObserversNorOutlivesIt) {
  const Swarm swarm;
  const auto by_delegate = [&](CertificateFields fields) {
    return verify_chain(chain_of(issue_certificate(swarm.delegate, swarm.run, fields), swarm.delegate_certificate()),
                        swarm.trust, now);
  };
  CertificateFields fields = swarm.node_fields();
  EXPECT_TRUE(by_delegate(fields));
  fields.delegation = Delegation::may_admit;
  expect_refused(by_delegate(fields), "plain workers only");
  fields = swarm.node_fields();
  fields.role = Role::observer;
  expect_refused(by_delegate(fields), "plain workers only");
  fields = swarm.node_fields();
  fields.expiry = now + 1001;
  expect_refused(by_delegate(fields), "outlives");
}

TEST(Certificate, BelowAnotherDelegateIsNoChain) {
  const Swarm swarm;
  // Signed by the delegate, shown under another delegate's certificate.
  CertificateFields other = swarm.delegate_fields();
  other.subject = key_of(9).id();
  const Bytes chain = chain_of(issue_certificate(swarm.delegate, swarm.run, swarm.node_fields()),
                               issue_certificate(swarm.owner, swarm.run, other));
  expect_refused(verify_chain(chain, swarm.trust, now), "was issued by");
}

TEST(Certificate, OfARevokedNodeOrItsRevokedDelegateIsRefused) {
  Swarm swarm;
  swarm.trust.revocations.nodes = {swarm.node.id()};
  expect_refused(verify_chain(swarm.chain(), swarm.trust, now), "'w01' was revoked");
  EXPECT_TRUE(verify_chain(swarm.delegate_certificate(), swarm.trust, now));
  swarm.trust.revocations.nodes = {swarm.delegate.id()};
  expect_refused(verify_chain(swarm.chain(), swarm.trust, now), "'w00' was revoked");
}

TEST(Certificate, NamesAreCheckedByReadersToo) {
  EXPECT_TRUE(is_valid_name("w-03"));
  EXPECT_TRUE(is_valid_name(std::string(32, 'a')));
  EXPECT_FALSE(is_valid_name(""));
  EXPECT_FALSE(is_valid_name(std::string(33, 'a')));
  EXPECT_FALSE(is_valid_name("W"));
  EXPECT_FALSE(is_valid_name("a/b"));
  EXPECT_FALSE(is_valid_name("../x"));

  // A faulty owner's program: the signature holds over a name that may not be.
  const Swarm swarm;
  Bytes bytes = swarm.delegate_certificate();
  const std::size_t name_offset = certificate_bytes - signature_bytes - max_name_bytes;
  bytes[name_offset] = static_cast<std::byte>('/');
  const Signature signature =
      swarm.owner.sign("starling/certificate/1", ByteView(bytes).first(bytes.size() - signature_bytes));
  std::copy(signature.begin(), signature.end(), bytes.end() - signature_bytes);
  expect_refused(verify_chain(bytes, swarm.trust, now), "name");
}

TEST(Revocations, SayWhoIsOutAndRefuseFlippedBits) {
  const Swarm swarm;
  Revocations list;
  list.serial = 3;
  for (std::uint8_t i = 10; i < 20; ++i) list.nodes.push_back(key_of(i).id());
  list.tokens = {TokenId{std::byte{5}}, TokenId{std::byte{2}}, TokenId{std::byte{5}}};
  const auto bytes = sign_revocations(swarm.owner, swarm.run, list);
  ASSERT_TRUE(bytes);
  const auto read = verify_revocations(*bytes, swarm.run, swarm.owner.id());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->serial, 3u);
  EXPECT_EQ(read->nodes.size(), 10u);
  EXPECT_EQ(read->tokens.size(), 2u);
  EXPECT_TRUE(read->has(key_of(15).id()));
  EXPECT_FALSE(read->has(key_of(20).id()));
  EXPECT_TRUE(read->has(TokenId{std::byte{2}}));
  for (std::size_t i = 0; i < bytes->size(); ++i) {
    Bytes damaged = *bytes;
    damaged[i] ^= std::byte{0x10};
    EXPECT_FALSE(verify_revocations(damaged, swarm.run, swarm.owner.id())) << i;
    EXPECT_FALSE(verify_revocations(ByteView(*bytes).first(i), swarm.run, swarm.owner.id())) << i;
  }
}

TEST(Revocations, OfAnotherRunOrTooLongAreRefused) {
  const Swarm swarm;
  const auto bytes = sign_revocations(swarm.owner, RunId{}, {});
  ASSERT_TRUE(bytes);
  EXPECT_FALSE(verify_revocations(*bytes, swarm.run, swarm.owner.id()));
  Revocations list;
  for (std::uint32_t i = 0; i <= max_revoked_nodes; ++i) {
    NodeId id;
    std::memcpy(id.key.data(), &i, sizeof i);
    list.nodes.push_back(id);
  }
  EXPECT_FALSE(sign_revocations(swarm.owner, swarm.run, list));
}

TEST(FinishStatement, HoldsForItsRunAndOwnerOnly) {
  const Swarm swarm;
  const Bytes statement = sign_finish(swarm.owner, swarm.run, LastStep::soon);
  EXPECT_TRUE(verify_finish(statement, swarm.run, swarm.owner.id()));
  EXPECT_FALSE(verify_finish(statement, RunId{}, swarm.owner.id()));
  EXPECT_FALSE(verify_finish(statement, swarm.run, swarm.delegate.id()));
  for (std::size_t i = 0; i < statement.size(); ++i) {
    Bytes damaged = statement;
    damaged[i] ^= std::byte{1};
    EXPECT_FALSE(verify_finish(damaged, swarm.run, swarm.owner.id())) << i;
    EXPECT_FALSE(verify_finish(ByteView(statement).first(i), swarm.run, swarm.owner.id())) << i;
  }
}

}  // namespace
}  // namespace starling::net
