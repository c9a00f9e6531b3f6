#include "trainer/torch/accelerator.h"

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>
#include <fmt/format.h>

namespace starling::trainer {

Result<OpenedDevice> open_accelerator(DeviceWish wish) {
  const OpenedDevice cpu{.type = DeviceType::cpu, .name = "the CPU"};
  if (wish == DeviceWish::cpu) return cpu;
  const auto absent = [&](std::string why) -> Result<OpenedDevice> {
    if (wish == DeviceWish::automatic) return cpu;
    return fail(ErrorCode::not_found, "--device cuda: " + why);
  };
  // Its initialisers register the kernels; they stay for the life of the program.
  if (::dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return absent(
        fmt::format("{}; this build carries LibTorch for CPUs: let LD_LIBRARY_PATH begin with the lib folder of a "
                    "PyTorch or LibTorch "
                    "of the same version with CUDA",
                    ::dlerror()));
  }
  const at::CUDAHooksInterface& hooks = at::detail::getCUDAHooks();
  const int count = hooks.hasCUDA() ? hooks.getNumGPUs() : 0;
  if (count == 0)
    return absent("LibTorch's CUDA library is here, but it sees no GPU; look at nvidia-smi and the driver");
  return OpenedDevice{.type = DeviceType::cuda, .name = fmt::format("CUDA device 0 of {}", count)};
}

std::int64_t accelerator_bytes(DeviceType device) {
  if (device != DeviceType::cuda) return 0;
  constexpr std::size_t all_pools = 0;
  return c10::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(0).allocated_bytes[all_pools].current;
}

Precision precision_of(const std::string& dtype, DeviceType device) {
  if (dtype == "auto") return device == DeviceType::cuda ? Precision::bfloat16 : Precision::measured;
  return dtype == "bfloat16" ? Precision::bfloat16 : Precision::float32;
}

}  // namespace starling::trainer
