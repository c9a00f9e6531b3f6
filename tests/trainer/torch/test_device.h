// The device that STARLING_TEST_DEVICE names: cpu, or cuda, where the same tests check a GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>

#include "trainer/torch/accelerator.h"

namespace starling::trainer {

inline DeviceType test_device() {
  static const DeviceType device = [] {
    const char* const wished = std::getenv("STARLING_TEST_DEVICE");
    const bool cuda = wished != nullptr && std::string_view(wished) == "cuda";
    const auto opened = open_accelerator(cuda ? DeviceWish::cuda : DeviceWish::cpu);
    if (!opened) ADD_FAILURE() << opened.error().message;
    return opened ? opened->type : DeviceType::cpu;
  }();
  return device;
}

}  // namespace starling::trainer
