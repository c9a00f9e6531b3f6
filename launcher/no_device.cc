// A build without LibTorch: the control plane and its tests, nothing that trains.
#include "launcher/inference_commands.h"
#include "launcher/node.h"

namespace starling::launcher {

namespace {

constexpr const char* no_torch = "this build of starling has no LibTorch; build the preset 'release'";

}  // namespace

Result<trainer::DeviceType> choose_device(trainer::DeviceWish) { return trainer::DeviceType::cpu; }

Result<Device> open_device(const RunConfig&, const std::filesystem::path&, trainer::DeviceType, int, const Clock&,
                           std::function<void()>) {
  return fail(ErrorCode::failed, no_torch);
}

ExitCode run_generate(const Options& options) {
  options.err() << "starling generate: " << no_torch << "\n";
  return ExitCode::failed;
}

ExitCode run_eval(const Options& options) {
  options.err() << "starling eval: " << no_torch << "\n";
  return ExitCode::failed;
}

}  // namespace starling::launcher
