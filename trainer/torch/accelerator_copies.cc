#include "trainer/torch/accelerator_copies.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "trainer/worker/slow_weights.h"

namespace starling::trainer {
namespace {

// What lies there in this type are the bytes on the wire.
at::ScalarType type_of(Encoding encoding) { return encoding == Encoding::bf16 ? at::kBFloat16 : at::kFloat; }

c10::Stream computing_on(at::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getStream(device); }
c10::Stream new_stream(at::Device device) { return c10::impl::VirtualGuardImpl(device.type()).getNewStream(device); }

at::Tensor pinned(at::IntArrayRef sizes, Encoding encoding) {
  return at::empty(sizes, at::TensorOptions(type_of(encoding)).pinned_memory(true));
}

// By all threads of the job. Whether the values are finite is seen while they are near.
bool copy_finite(ByteView from, std::byte* to, Encoding encoding) {
  constexpr std::size_t block = 1 << 15;
  constexpr std::int64_t blocks_of_a_thread = 32;
  std::atomic<bool> out = true;
  const auto blocks = static_cast<std::int64_t>((from.size() + block - 1) / block);
  at::parallel_for(0, blocks, blocks_of_a_thread, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const ByteView part = from.subspan(i * block, std::min(block, from.size() - i * block));
      std::memcpy(to + i * block, part.data(), part.size());
      if (!all_finite(part, encoding)) out = false;
    }
  });
  return out;
}

}  // namespace

// Answers are of one size, and a fresh page costs more than what is copied into it. Any thread gives back.
class AcceleratorCopies::Pool : public std::enable_shared_from_this<Pool> {
 public:
  std::shared_ptr<Bytes> take(std::size_t size) {
    std::unique_ptr<Bytes> out;
    {
      const std::scoped_lock lock(mutex_);
      if (!free_.empty()) {
        out = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (out == nullptr) out = std::make_unique<Bytes>();
    out->resize(size);
    return {out.release(), [pool = shared_from_this()](Bytes* bytes) { pool->give_back(std::unique_ptr<Bytes>(bytes)); }};
  }

 private:
  static constexpr std::size_t most_free = 8;
  void give_back(std::unique_ptr<Bytes> bytes) {
    const std::scoped_lock lock(mutex_);
    if (free_.size() < most_free) free_.push_back(std::move(bytes));
  }
  std::mutex mutex_;
  std::vector<std::unique_ptr<Bytes>> free_;
};

AcceleratorCopies::AcceleratorCopies(at::Device device)
    : in_(new_stream(device)), out_(new_stream(device)), pool_(std::make_shared<Pool>()) {}

Result<at::Tensor> AcceleratorCopies::bring(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width,
                                            at::ScalarType type) const {
  if (Status ok = check_size(bytes.size(), encoding, rows * width); !ok) return tl::unexpected(ok.error());
  // The allocator of pinned memory does not hand it out again before the copy is done.
  const at::Tensor host = pinned({rows, width}, encoding);
  if (!copy_finite(bytes, static_cast<std::byte*>(host.mutable_data_ptr()), encoding)) {
    return fail(ErrorCode::bad_input, "expected finite values, got one that is not");
  }
  c10::Event arrived(in_.device_type());
  at::Tensor there;
  {
    const c10::StreamGuard copying(in_);
    there = host.to(in_.device(), host.scalar_type(), /*non_blocking=*/true);
    arrived.record(in_);
  }
  const c10::Stream computing = computing_on(in_.device());
  arrived.block(computing);
  there.record_stream(computing);
  return there.to(type);
}

std::function<Buffer()> AcceleratorCopies::take(const at::Tensor& values, Encoding encoding) const {
  const at::Tensor there = values.to(type_of(encoding));
  c10::Event made(out_.device_type());
  made.record(computing_on(out_.device()));
  made.block(out_);
  const at::Tensor host = pinned(there.sizes(), encoding);
  const auto arrived = std::make_shared<c10::Event>(out_.device_type());
  {
    const c10::StreamGuard copying(out_);
    at::Tensor(host).copy_(there, /*non_blocking=*/true);
    arrived->record(out_);
  }
  there.record_stream(out_);
  return [host, arrived, encoding, pool = pool_]() -> Buffer {
    arrived->synchronize();
    std::shared_ptr<Bytes> out = pool->take(host.nbytes());
    const ByteView from(static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes());
    return copy_finite(from, out->data(), encoding) ? std::move(out) : nullptr;
  };
}

}  // namespace starling::trainer
