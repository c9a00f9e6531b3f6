#include "launcher/part_encoders.h"

#include <atomic>
#include <thread>
#include <utility>

namespace starling::launcher {

PartEncoders::PartEncoders(const trainer::Tokenizer& tokenizer, trainer::CorpusShape shape, trainer::SpecialNames names,
                           int threads)
    : tokenizer_(tokenizer), shape_(std::move(shape)), names_(names) {
  for (int i = 0; i < threads; ++i) encoders_.push_back(tokenizer.encoder());
}

// Threads are started anew for each call: that costs microseconds, a call takes tens of milliseconds, and nothing has to
// be guarded, since a thread takes the next number and writes only what has that number.
std::vector<Result<trainer::TokenIds>> PartEncoders::encode(std::span<const trainer::CorpusPart> parts,
                                                            const std::function<void()>& meanwhile) {
  std::vector<Result<trainer::TokenIds>> out(parts.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&](trainer::Encoder& encoder) {
    for (std::size_t i = next++; i < parts.size(); i = next++) {
      out[i] = trainer::encode_part(parts[i], shape_, tokenizer_, names_, encoder);
    }
  };
  std::vector<std::thread> others;
  for (std::size_t i = 1; i < encoders_.size() && i < parts.size(); ++i) {
    others.emplace_back([&work, &encoder = *encoders_[i]] { work(encoder); });
  }
  meanwhile();
  work(*encoders_.front());
  for (std::thread& other : others) other.join();
  return out;
}

}  // namespace starling::launcher
