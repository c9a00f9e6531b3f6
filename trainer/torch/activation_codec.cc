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

Result<at::Tensor> decode_activation(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width) {
  at::Tensor out = at::empty({rows, width}, at::kFloat);
  if (Status ok = decode_values(bytes, encoding, floats(out)); !ok) return tl::unexpected(ok.error());
  return out;
}

Buffer encode_activation(const at::Tensor& values, Encoding encoding) {
  const std::span<const float> from = floats(values);
  return fits(from, encoding) ? encode_values(from, encoding) : nullptr;
}

}  // namespace starling::trainer
