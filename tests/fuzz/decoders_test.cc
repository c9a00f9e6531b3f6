// Every decoder of the torch-free libraries against bytes that nobody meant: random ones, and good ones that were cut,
// lengthened, flipped or spliced. None may crash, hang or allocate what a length field says (the sanitized build watches),
// nothing that was signed survives a change, and what is accepted is within its bounds: it can be written again.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "gossip/base/host_port.h"
#include "gossip/membership/record.h"
#include "gossip/net/address.h"
#include "gossip/net/certificate.h"
#include "gossip/net/token.h"
#include "gossip/net/wire.h"
#include "metrics/status.h"
#include "tests/gossip/membership/hash_signatures.h"
#include "trainer/checkpoint/hf_config.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/safetensors.h"
#include "trainer/worker/slow_weights.h"

namespace starling {
namespace {

constexpr double now = 1'800'000'000;

net::NodeKey key_of(std::uint8_t seed) {
  std::array<std::byte, 32> bytes{};
  bytes[0] = std::byte{seed};
  return net::NodeKey::from_seed(net::Secret<32>(bytes));
}

Bytes bytes_of(std::string_view text) {
  const ByteView view = as_bytes(text);
  return Bytes(view.begin(), view.end());
}

std::string_view text_of(const Bytes& bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// Two tensors and what a file may hold besides.
Bytes safetensors_file() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("b.weight":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}}  )";
  ByteWriter out;
  out.number(static_cast<std::uint64_t>(header.size()));
  out.raw(as_bytes(header));
  out.raw(Bytes(22));
  return std::move(out).bytes();
}

trainer::Manifest manifest() {
  trainer::Manifest out{.run_id = "ab", .config_hash = "cd", .step = 5, .round = 1, .tokens = 9, .cut = {{0, 1}, {1, 4}}};
  out.missed = {{1, "no replica answered"}};
  out.files = {{"config.json", {.bytes = 17, .hash = xxh3_128(as_bytes("x"))}}};
  return out;
}

struct Decoder {
  std::string name;
  Bytes good;
  // Whether it accepts; what it accepts is checked inside.
  std::function<bool(const Bytes&)> accepts;
  // signed_: any change must be refused. loose: some changes make another good text or frame.
  enum class Kind { signed_, loose } kind = Kind::signed_;
};

std::vector<Decoder> decoders() {
  using Kind = Decoder::Kind;
  const net::NodeKey owner = key_of(1);
  const net::NodeKey seed = key_of(2);
  const net::NodeKey joiner = key_of(3);
  const RunId run = net::make_run_id(owner.id(), Hash256{});
  const net::Trust trust{run, owner.id(), {}};
  const std::string spec = "version: 1\n";
  const auto expiry = static_cast<std::int64_t>(now) + 3600;
  const std::string token_text = net::create_token(owner, key_of(4).curve(),
                                                   {run, net::Role::worker, expiry, blake2b_256(as_bytes(spec)),
                                                    {{"tcp://127.0.0.1:29402", seed.id()}}});
  const auto token = net::parse_token(token_text, now);
  const Bytes request = net::encode_join_request({joiner.id(), "gpu-box", true, 2, Bytes(40)}, token->signed_grant, seed.id(), joiner);
  const Bytes certificate =
      net::issue_certificate(owner, run, {joiner.id(), "gpu-box", net::Role::worker, net::Delegation::none, 1, expiry});
  const Bytes answer = net::encode_join_answer(net::JoinAdmission{certificate, spec, 2, no_slot, {Bytes(100)}});
  const auto record = membership::test_record(1);
  const membership::HashSignatures signatures(record.id);
  const Bytes record_bytes = membership::encode_record(record, signatures);
  const NodeId from = membership::test_id(1);
  const NodeId self = membership::test_id(2);
  net::Offer offer;
  offer.transfer = {from, 1, 7};
  net::MicrobatchHeader header;
  header.id = {from, 1, 3, 0};
  header.made = {{1, membership::test_id(4)}};
  offer.about = header;
  offer.bytes = 4096;
  const std::vector<float> values{1.0F, -2.0F, 0.5F};

  const auto wire = [from, self](const Bytes& b) {
    const auto message = net::decode(b, from, self);
    if (message) RC_ASSERT(net::encode(*message).size() <= net::max_control_frame_bytes);
    return message.has_value();
  };
  const auto record_of = [signatures](const Bytes& b) {
    const auto label = membership::peek_record(b);
    const auto read = membership::decode_record(b, signatures);
    if (read) RC_ASSERT(label.has_value() && !membership::defect_of(*read));
    return read.has_value();
  };
  return {
      {"token", bytes_of(token_text), [](const Bytes& b) { return net::parse_token(text_of(b), now).has_value(); }},
      {"join request", request,
       [at = seed.id(), trust](const Bytes& b) { return net::decode_join_request(b, at, trust, now).has_value(); }},
      // The chain and the spec's hash are signed; stage, slot and records stand outside, and a denial is anybody's word.
      {"join answer", answer,
       [id = joiner.id(), t = std::make_shared<net::JoinToken>(std::move(*net::parse_token(token_text, now)))](const Bytes& b) {
         const auto read = net::decode_join_answer(b, *t, id, now);
         if (read) RC_ASSERT(net::encode_join_answer(*read).size() <= b.size());
         return read.has_value();
       },
       Kind::loose},
      {"certificate", certificate, [trust](const Bytes& b) { return net::verify_chain(b, trust, now).has_value(); }},
      {"revocations", *net::sign_revocations(owner, run, {}),
       [run, id = owner.id()](const Bytes& b) { return net::verify_revocations(b, run, id).has_value(); }},
      {"finish", net::sign_finish(owner, run, net::LastStep::soon),
       [run, id = owner.id()](const Bytes& b) { return net::verify_finish(b, run, id).has_value(); }},
      {"record", record_bytes, record_of},
      {"suspicion", membership::encode_suspicion({record.id, membership::test_id(5), 1, 2}, signatures),
       [signatures](const Bytes& b) { return membership::decode_suspicion(b, signatures).has_value(); }},
      {"offer", net::encode(offer), wire, Kind::loose},
      {"ping", net::encode(net::Ping{3, {1, 2}, {{net::Update::Kind::record, record_bytes}}}), wire, Kind::loose},
      {"chunk", net::encode_chunk({from, 1, 7}, 0, Bytes(64)),
       [from](const Bytes& b) {
         const auto chunk = net::decode_chunk(b, from);
         if (chunk) RC_ASSERT(chunk->payload.data() + chunk->payload.size() <= b.data() + b.size());
         return chunk.has_value();
       },
       Kind::loose},
      {"endpoint", bytes_of("tcp://127.0.0.1:29402"),
       [](const Bytes& b) {
         const auto read = net::parse_endpoint(text_of(b));
         if (read) RC_ASSERT(is_host(read->host));
         return read.has_value();
       },
       Kind::loose},
      {"host and port", bytes_of("[::1]:9464"),
       [](const Bytes& b) {
         const auto read = parse_host_port(text_of(b));
         if (read) RC_ASSERT(is_host(read->host));
         return read.has_value();
       },
       Kind::loose},
      {"status", bytes_of(metrics::to_json({.run_id = "r", .name = "n", .stages = {}, .workers = {}})),
       [](const Bytes& b) {
         const auto read = metrics::parse_run_status(text_of(b));
         if (read) RC_ASSERT(metrics::parse_run_status(metrics::to_json(*read)).has_value());
         return read.has_value();
       },
       Kind::loose},
      {"state part", *trainer::encode_values(values, trainer::Encoding::fp32),
       [](const Bytes& b) {
         const auto read = trainer::decode_part({std::make_shared<const Bytes>(b), trainer::Encoding::fp32}, 3);
         if (read) RC_ASSERT(read->size() == 3 && trainer::all_finite(*read));
         return read.has_value();
       },
       Kind::loose},
      {"safetensors", safetensors_file(),
       [](const Bytes& b) {
         const auto table = trainer::parse_safetensors(b);
         if (!table) return false;
         for (const auto& tensor : table->tensors) {
           RC_ASSERT(tensor.bytes.data() >= b.data() && tensor.bytes.data() + tensor.bytes.size() <= b.data() + b.size());
           RC_ASSERT(tensor.count() <= static_cast<std::int64_t>(tensor.bytes.size()) * 8);
           std::vector<float> floats(static_cast<std::size_t>(tensor.count()));
           if (trainer::read_floats(tensor, floats)) RC_ASSERT(trainer::all_finite(floats));
         }
         return true;
       },
       Kind::loose},
      {"config.json", bytes_of(trainer::hf_config_text({}, {.bos = 1, .eos = {2}}, trainer::WeightDtype::float32)),
       [](const Bytes& b) {
         const auto read = trainer::parse_hf_config(text_of(b));
         if (read) RC_ASSERT(read->model.validate().empty());
         return read.has_value();
       },
       Kind::loose},
      {"manifest", bytes_of(trainer::manifest_text(manifest())),
       [](const Bytes& b) {
         const auto read = trainer::parse_manifest(text_of(b));
         if (read) RC_ASSERT(trainer::manifest_text(*read) == trainer::manifest_text(manifest()));
         return read.has_value();
       },
       Kind::loose},
  };
}

const std::vector<Decoder>& all() {
  static const std::vector<Decoder> list = decoders();
  return list;
}

// A good frame with one kind of damage; never the frame itself.
Bytes damaged(const Bytes& good, const Bytes& other) {
  Bytes out = good;
  const auto place = *rc::gen::inRange<std::size_t>(0, out.size());
  switch (*rc::gen::inRange(0, 4)) {
    case 0: out.resize(place); break;
    case 1: out.insert(out.end(), 1 + place % 40, std::byte{0}); break;
    case 2: out[place] ^= std::byte(1 << *rc::gen::inRange(0, 8)); break;
    default: {
      const auto from = std::min(place, other.size());
      out.resize(place);
      out.insert(out.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
    }
  }
  if (out == good) out.push_back(std::byte{1});
  return out;
}

TEST(Decoders, AcceptWhatIsGood) {
  for (const Decoder& decoder : all()) EXPECT_TRUE(decoder.accepts(decoder.good)) << decoder.name;
}

RC_GTEST_PROP(Decoders, RefuseRandomBytes, (std::vector<std::uint8_t> noise)) {
  Bytes bytes;
  for (const std::uint8_t byte : noise) bytes.push_back(std::byte{byte});
  for (const Decoder& decoder : all()) {
    const bool accepted = decoder.accepts(bytes);
    if (decoder.kind == Decoder::Kind::signed_ && accepted) RC_FAIL("accepted: " + decoder.name);
  }
}

RC_GTEST_PROP(Decoders, DamageIsRefusedOrHarmless, ()) {
  const auto& list = all();
  for (const Decoder& decoder : list) {
    const Bytes bytes = damaged(decoder.good, list[*rc::gen::inRange<std::size_t>(0, list.size())].good);
    const bool accepted = decoder.accepts(bytes);
    if (decoder.kind == Decoder::Kind::signed_ && accepted) RC_FAIL("accepted: " + decoder.name);
  }
}

}  // namespace
}  // namespace starling
