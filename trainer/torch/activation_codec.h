// Activations and gradients between wire bytes and tensors in main memory; accelerator_copies.h is the same for those of an
// accelerator. Bytes come from peers: a wrong size or a value that is not finite is refused before it reaches the model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/worker/compute.h"

namespace starling::trainer {

// A new tensor [rows, width], fp32 in main memory. Errors: bad_input.
Result<at::Tensor> decode_activation(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width);
// Of such a tensor. Null when a value is not finite, or becomes infinite by rounding.
Buffer encode_activation(const at::Tensor& values, Encoding encoding);

}  // namespace starling::trainer
