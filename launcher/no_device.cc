// A build without LibTorch: the control plane and its tests, nothing that trains.
#include "launcher/node.h"

namespace starling::launcher {

Result<Device> open_device(const RunConfig&, const std::filesystem::path&, int, const Clock&, std::function<void()>) {
  return fail(ErrorCode::failed, "this build of starling has no LibTorch and cannot train; build the preset 'release'");
}

}  // namespace starling::launcher
