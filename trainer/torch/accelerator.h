// Which device a worker computes on. The program is linked with LibTorch for CPUs alone; a LibTorch with CUDA is the same
// libraries and some more, so the kernels of a GPU are a library that is loaded when one is asked for. The header is
// torch-free.
#pragma once

#include <string>

#include "gossip/base/error.h"
#include "trainer/torch/job_runner.h"
#include "trainer/worker/compute.h"

namespace starling::trainer {

struct OpenedDevice {
  DeviceType type = DeviceType::cpu;
  std::string name;  // for a person
};

// Loads libtorch_cuda.so when it is asked for and looks for a GPU. automatic: CUDA if there is any, without a word if there
// is none. Errors: not_found, with what is missing and what to do. Once, before the first tensor is made.
Result<OpenedDevice> open_accelerator(DeviceWish wish);

// Bytes that tensors of this process take there; 0 on a CPU. Any thread.
std::int64_t accelerator_bytes(DeviceType device);

// What `training.dtype` means there: auto is bfloat16 on CUDA and measured on a CPU.
Precision precision_of(const std::string& dtype, DeviceType device);

}  // namespace starling::trainer
