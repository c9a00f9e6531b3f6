#include "gossip/net/identity.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <sodium.h>

#include <concepts>
#include <ostream>

#include "gossip/base/real_env.h"
#include "tests/gossip/net/temporary_directory.h"

namespace starling::net {
namespace {

template <typename T>
concept Printable = requires(std::ostream& out, const T& value) {
  out << value;
};

NodeKey key_of(std::uint8_t seed) {
  std::array<std::byte, 32> bytes{};
  bytes[0] = std::byte{seed};
  return NodeKey::from_seed(Secret<32>(bytes));
}

TEST(Identity, SecretsCannotBePrintedOrCopied) {
  static_assert(!Printable<Secret<32>> && !Printable<NodeKey> && !Printable<CurveKeyPair>);
  static_assert(!std::copyable<Secret<32>> && !std::copyable<NodeKey> && !std::copyable<CurveKeyPair>);
}

TEST(Identity, SecretsAreWipedWhenTheyDieOrMove) {
  alignas(Secret<32>) std::array<std::byte, sizeof(Secret<32>)> memory{};
  std::array<std::byte, 32> bytes;
  bytes.fill(std::byte{0xab});
  auto* secret = new (memory.data()) Secret<32>(bytes);
  EXPECT_EQ(memory[7], std::byte{0xab});
  Secret<32> other = std::move(*secret);
  EXPECT_EQ(memory[7], std::byte{0});
  EXPECT_EQ(other.reveal()[7], std::byte{0xab});
  *secret = std::move(other);
  EXPECT_EQ(other.reveal()[7], std::byte{0});
  secret->~Secret();
  EXPECT_EQ(memory[7], std::byte{0});
}

TEST(Identity, BothHalvesOfTheCurveKeyFollowFromTheNodeKey) {
  const NodeKey key = NodeKey::generate();
  const auto derived = curve_key_of(key.id());
  ASSERT_TRUE(derived);
  EXPECT_EQ(*derived, key.curve().public_key());
}

TEST(Identity, ANodeIdThatIsNoKeyHasNoCurveKey) {
  EXPECT_FALSE(curve_key_of(NodeId{}));  // the point of order two
  NodeId off_curve;
  off_curve.key.fill(std::byte{0xff});
  EXPECT_FALSE(curve_key_of(off_curve));
}

RC_GTEST_PROP(Identity, NoFlippedBitIsAccepted, (std::vector<std::uint8_t> text)) {
  const NodeKey key = key_of(1);
  Bytes message;
  for (const auto c : text) message.push_back(std::byte{c});
  Signature signature = key.sign("test", message);
  RC_ASSERT(verify(key.id(), "test", message, signature));
  RC_ASSERT(!verify(key.id(), "tesu", message, signature));
  RC_ASSERT(!verify(key_of(2).id(), "test", message, signature));
  const auto bit = *rc::gen::inRange<std::size_t>(0, 8 * (message.size() + signature.size()));
  const auto flip = std::byte{1} << (bit % 8);
  if (bit / 8 < message.size()) {
    message[bit / 8] ^= flip;
  } else {
    signature[bit / 8 - message.size()] ^= flip;
  }
  RC_ASSERT(!verify(key.id(), "test", message, signature));
}

TEST(Identity, DomainAndMessageCannotBeCutInTwoWays) {
  const NodeKey key = key_of(1);
  const Signature signature = key.sign("ab", as_bytes("c"));
  EXPECT_FALSE(verify(key.id(), "a", as_bytes("bc"), signature));
  EXPECT_FALSE(verify(key.id(), "abc", as_bytes(""), signature));
}

TEST(Identity, EachStartHasAHigherBootAndTheSameKey) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  const auto first = Identity::open(folder);
  ASSERT_TRUE(first) << first.error().message;
  const auto second = Identity::open(folder);
  ASSERT_TRUE(second);
  EXPECT_EQ(first->boot(), 1u);
  EXPECT_EQ(second->boot(), 2u);
  EXPECT_EQ(first->id(), second->id());
  EXPECT_TRUE(second->stored_chain().empty());
}

TEST(Identity, AFolderThatTheLauncherWroteIsUsed) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  const NodeKey key = NodeKey::generate();
  ASSERT_TRUE(create_identity(folder, key, as_bytes("chain")));
  const auto identity = Identity::open(folder);
  ASSERT_TRUE(identity);
  EXPECT_EQ(identity->id(), key.id());
  EXPECT_EQ(identity->boot(), 1u);
  EXPECT_EQ(as_text(identity->stored_chain()), "chain");
}

TEST(Identity, FilesOfTheFolderAreForTheirOwnerOnly) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  ASSERT_TRUE(Identity::open(folder));
  const auto mode = std::filesystem::status(directory.path() / identity_key_file).permissions();
  EXPECT_EQ(mode, std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST(Identity, AKeyWithoutItsCounterIsRefusedWithAdvice) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  ASSERT_TRUE(Identity::open(folder));
  std::filesystem::remove(directory.path() / identity_boot_file);
  const auto missing = Identity::open(folder);
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message.find("remove the folder"), std::string::npos);
  ASSERT_TRUE(folder.replace(identity_boot_file, as_bytes("STRLBOT1 short")));
  EXPECT_FALSE(Identity::open(folder));
}

TEST(Identity, ADamagedKeyFileIsRefusedAndNotPrinted) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  ASSERT_TRUE(Identity::open(folder));
  ASSERT_TRUE(folder.replace(identity_key_file, as_bytes("the secret words")));
  const auto damaged = Identity::open(folder);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().code, ErrorCode::bad_input);
  EXPECT_EQ(damaged.error().message.find("secret"), std::string::npos);
}

// A disk that fills up exactly when the counter is written: the node must not start with an old boot.
class FullDisk final : public Storage {
 public:
  explicit FullDisk(Storage& below) : below_(below) {}
  Result<Bytes> read(std::string_view path) override { return below_.read(path); }
  Status replace(std::string_view, ByteView) override { return fail(ErrorCode::disk_full, "full"); }

 private:
  Storage& below_;
};

TEST(Identity, DoesNotStartWhenTheCounterCannotBeKept) {
  TemporaryDirectory directory;
  RealStorage folder(directory.path());
  ASSERT_TRUE(Identity::open(folder));
  FullDisk full(folder);
  const auto refused = Identity::open(full);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::disk_full);
}

}  // namespace
}  // namespace starling::net
