// Claim: a control message costs a few microseconds, both ways together; a microbatch (Offer, Accepted, Passed per hop)
// costs the loop thread nothing that a forward pass would notice. The reference is a copy of the same frame.
#include "gossip/net/wire.h"

#include <benchmark/benchmark.h>

#include <string>

namespace starling::net {
namespace {

NodeId id_of(unsigned char fill) {
  NodeId id;
  id.key.fill(static_cast<std::byte>(fill));
  return id;
}
const NodeId alice = id_of(1);
const NodeId bob = id_of(2);

Message ping() {
  Ping out{1, {1, 5}, {}};
  for (int i = 0; i < 4; ++i) out.updates.push_back({Update::Kind::record, Bytes(700)});
  return out;
}
Message offer() {
  MicrobatchHeader header;
  header.id = {alice, 1, 2, 3};
  for (Stage stage = 1; stage < 4; ++stage) header.made.push_back({stage, bob});
  header.ahead = header.made;
  return Offer{{alice, 1, 2}, header, 1 << 20, {}, 1 << 20};
}
Message accepted() { return Accepted{{bob, 1, 2}, std::chrono::milliseconds(20)}; }

void encode_and_decode(benchmark::State& state, Message message) {
  std::size_t bytes = 0;
  for (auto _ : state) {
    const Bytes frame = encode(message);
    bytes = frame.size();
    const auto back = decode(frame, alice, bob);
    if (!back) state.SkipWithError(back.error().message.c_str());
    benchmark::DoNotOptimize(back);
  }
  state.counters["frame_bytes"] = static_cast<double>(bytes);
}
BENCHMARK_CAPTURE(encode_and_decode, ping_with_4_records, ping());
BENCHMARK_CAPTURE(encode_and_decode, offer_with_6_hops, offer());
BENCHMARK_CAPTURE(encode_and_decode, accepted, accepted());

void copy_of_the_frame(benchmark::State& state, Message message) {
  const Bytes frame = encode(message);
  for (auto _ : state) {
    Bytes copy = frame;
    benchmark::DoNotOptimize(copy.data());
  }
}
BENCHMARK_CAPTURE(copy_of_the_frame, ping_with_4_records, ping());
BENCHMARK_CAPTURE(copy_of_the_frame, offer_with_6_hops, offer());

}  // namespace
}  // namespace starling::net

BENCHMARK_MAIN();
