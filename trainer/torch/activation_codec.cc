#include "trainer/torch/activation_codec.h"

#include <ATen/Functions.h>

#include <span>

#include "trainer/worker/slow_weights.h"

namespace starling::trainer {
namespace {

// Above this a value rounds to infinity in bf16: half a unit in the last place over the largest.
constexpr float bf16_limit = 3.3961775e38F;

std::span<float> floats(const at::Tensor& tensor) {
  STARLING_CHECK(tensor.is_cpu() && tensor.is_contiguous(), "activations are encoded from main memory");
  return {tensor.mutable_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

bool fits(std::span<const float> values, Encoding encoding) {
  if (encoding == Encoding::fp32) return all_finite(values);
  bool out = true;
  for (const float x : values) out &= x > -bf16_limit && x < bf16_limit;  // false for NaN
  return out;
}

}  // namespace

Result<at::Tensor> decode_activation(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width,
                                     const ActivationPlace& place) {
  const at::Tensor host = at::empty({rows, width}, at::TensorOptions(at::kFloat).pinned_memory(!place.device.is_cpu()));
  if (Status ok = decode_values(bytes, encoding, floats(host)); !ok) return tl::unexpected(ok.error());
  // The allocator of pinned memory does not hand it out again before the copy is done.
  return host.to(place.device, place.type, /*non_blocking=*/true);
}

Buffer encode_activation(const at::Tensor& values, Encoding encoding) {
  const at::Tensor host = values.to(at::kCPU, at::kFloat);
  const std::span<const float> from = floats(host);
  return fits(from, encoding) ? encode_values(from, encoding) : nullptr;
}

}  // namespace starling::trainer
