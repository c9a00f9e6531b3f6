// Copies of activations between main memory and an accelerator, in and out each on a stream of its own, beside what it
// computes:
//
//   in         | k+1 |   | k+2 |
//   computing  | job k      | job k+1    |
//   out            | k-1 |      | k |
//
// On the device each waits for what it needs; the caller does not. Compute thread only, under c10::InferenceMode.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/worker/compute.h"

namespace starling::trainer {

class AcceleratorCopies {
 public:
  // REQUIRES: open_accelerator() has found it.
  explicit AcceleratorCopies(at::Device device);

  // A new tensor [rows, width] of `type` there. Errors: bad_input, as decode_activation.
  Result<at::Tensor> bring(ByteView bytes, Encoding encoding, std::int64_t rows, std::int64_t width,
                           at::ScalarType type) const;
  // Begins to copy `values`, which must not be changed in place before that is done. The call that is returned waits for
  // the bytes: those of encode_activation, null when one is not finite. Their memory is used again when nobody holds it.
  std::function<Buffer()> take(const at::Tensor& values, Encoding encoding) const;

 private:
  class Pool;
  c10::Stream in_;
  c10::Stream out_;
  std::shared_ptr<Pool> pool_;
};

}  // namespace starling::trainer
