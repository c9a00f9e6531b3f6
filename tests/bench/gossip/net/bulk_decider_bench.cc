// Claim: what Bulk itself costs, without sockets, is little more than what it cannot avoid: one copy and one hash of every
// byte. Two Bulks pass 64 MiB to each other; the reference copies and hashes the same bytes in chunks.
#include <benchmark/benchmark.h>

#include <deque>

#include "gossip/net/bulk.h"

namespace starling::net {
namespace {

constexpr std::size_t size = 64 << 20;
constexpr TimePoint now{};

NodeId id_of(unsigned char fill) {
  NodeId id;
  id.key.fill(static_cast<std::byte>(fill));
  return id;
}
const NodeId ids[] = {id_of(1), id_of(2)};

Buffer some_buffer() { return std::make_shared<const Bytes>(Bytes(size, std::byte{42})); }

// Carries the actions of both out until there are none; true when the buffer was delivered.
bool exchange(Bulk (&bulks)[2], std::deque<std::pair<int, Bulk::Action>> actions) {
  bool delivered = false;
  const auto feed = [&](int node, const Bulk::Event& event) {
    for (auto& action : bulks[node].on(event, now)) actions.emplace_back(node, std::move(action));
  };
  while (!actions.empty()) {
    const auto [node, action] = std::move(actions.front());
    actions.pop_front();
    const int other = 1 - node;
    if (const auto* chunk = std::get_if<Bulk::SendChunk>(&action)) {
      feed(other, Bulk::ChunkCame{
                      {chunk->transfer, chunk->offset, ByteView(*chunk->buffer).subspan(chunk->offset, chunk->bytes)}});
    } else if (const auto* announced = std::get_if<Bulk::OfferAnnounced>(&action)) {
      feed(node, Bulk::OfferTaken{announced->from, announced->offer});
    } else if (const auto* done = std::get_if<Bulk::Delivered>(&action)) {
      delivered = true;
      feed(node, Bulk::Answered{done->from, done->offer.transfer, {}});
    } else if (const auto* control = std::get_if<Bulk::SendControl>(&action)) {
      if (const auto* offer = std::get_if<Offer>(&control->message)) feed(other, Bulk::OfferCame{ids[node], *offer});
      if (const auto* pull = std::get_if<Pull>(&control->message)) feed(other, Bulk::PullCame{ids[node], *pull});
      if (const auto* end = std::get_if<Release>(&control->message))
        feed(other, Bulk::ReleaseCame{ids[node], end->transfer});
    }
  }
  return delivered;
}

void through_bulk(benchmark::State& state) {
  Bulk bulks[2] = {Bulk({}, ids[0], 1), Bulk({}, ids[1], 1)};
  const Buffer buffer = some_buffer();
  const Hash128 hash = xxh3_128(*buffer);
  for (auto _ : state) {
    std::deque<std::pair<int, Bulk::Action>> actions;
    for (auto& action :
         bulks[0].on(Bulk::OfferBuffer{ids[1], bulks[0].next_transfer(), BackupPart{}, buffer, hash}, now)) {
      actions.emplace_back(0, std::move(action));
    }
    if (!exchange(bulks, std::move(actions))) state.SkipWithError("not delivered");
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(size));
}
BENCHMARK(through_bulk)->Unit(benchmark::kMillisecond);

void copy_and_hash(benchmark::State& state) {
  const Buffer buffer = some_buffer();
  for (auto _ : state) {
    Bytes copy;
    copy.reserve(size);
    for (std::size_t at = 0; at < size; at += max_chunk_payload_bytes) {
      const ByteView part = ByteView(*buffer).subspan(at, std::min(max_chunk_payload_bytes, size - at));
      copy.insert(copy.end(), part.begin(), part.end());
      benchmark::DoNotOptimize(xxh3_128(part));
    }
    benchmark::DoNotOptimize(copy.data());
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(size));
}
BENCHMARK(copy_and_hash)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace starling::net

BENCHMARK_MAIN();
