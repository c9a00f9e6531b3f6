// Activations and gradients between wire bytes and tensors. Bytes come from peers: a wrong size or a value that is not
// finite is refused before it reaches the model.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/worker/compute.h"

namespace starling::trainer {

// Where and in what type a tensor is wanted.
struct ActivationPlace {
  at::Device device = at::kCPU;
  at::ScalarType type = at::kFloat;
};

// A new tensor [rows, width]. Errors: bad_input.
Result<at::Tensor> decode_activation(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width,
                                     const ActivationPlace& place = {});
// Waits for the device. Null when a value is not finite, or becomes infinite by rounding.
Buffer encode_activation(const at::Tensor& values, Encoding encoding);

}  // namespace starling::trainer
