// A build without LibTorch: the control plane and its tests, nothing that trains.
#include "launcher/node.h"

namespace starling::launcher {

Result<trainer::DeviceType> choose_device(trainer::DeviceWish) { return trainer::DeviceType::cpu; }

Result<Device> open_device(const RunConfig&, const std::filesystem::path&, trainer::DeviceType, int, const Clock&,
                           std::function<void()>) {
  return fail(ErrorCode::failed, "this build of starling has no LibTorch and cannot train; build the preset 'release'");
}

}  // namespace starling::launcher
