// The device of a build with LibTorch.
#include "launcher/device.h"

#include <filesystem>

#include "gossip/base/log.h"
#include "launcher/node.h"
#include "trainer/data/remote_file.h"
#include "trainer/data/source.h"
#include "trainer/torch/accelerator.h"
#include "trainer/torch/learner.h"

namespace starling::launcher {
namespace {

// A path of the run file inside of the folder that the volunteer gave; a URL stands for itself. An absolute path that is not inside of it stands for
// the file of that name there: the owner's paths mean nothing on another machine.
std::string inside(const std::filesystem::path& root, const std::string& text) {
  if (trainer::is_url(text)) return text;
  const std::filesystem::path path(text);
  if (path.is_relative()) return (root / path).string();
  const std::string prefix = (root / "").lexically_normal().string();
  if (path.lexically_normal().string().starts_with(prefix)) return text;
  return (root / path.filename()).string();
}

}  // namespace

trainer::LearnerConfig learner_config(const RunConfig& config, trainer::DeviceType type, int threads) {
  const bool exact = config.pipeline.activation_dtype == pipeline::ActivationDtype::fp32;
  return {.model = config.model,
          .cut = config.stage_layers(),
          .training = config.training,
          .optimizer = config.optimizer,
          .activation_encoding = exact ? trainer::Encoding::fp32 : trainer::Encoding::bf16,
          .seed = config.run.seed,
          .threads = threads,
          .device = type,
          .precision = trainer::precision_of(config.training.dtype, type)};
}

Result<trainer::DeviceType> choose_device(trainer::DeviceWish wish) {
  auto opened = trainer::open_accelerator(wish);
  if (!opened) return tl::unexpected(opened.error());
  log_info("computing on {}", opened->name);
  return opened->type;
}

Result<Device> open_device(const RunConfig& config, const std::filesystem::path& data_root, trainer::DeviceType type,
                           int threads, const Clock& clock, std::function<void()> wake) {
  using namespace trainer;
  std::shared_ptr<const Source> source;
  if (!data_root.empty()) {
    DataConfig data = config.data;
    for (auto* paths : {&data.train, &data.val}) {
      for (std::string& path : *paths) path = inside(data_root, path);
    }
    if (data.tokenizer != "byte") data.tokenizer = inside(data_root, data.tokenizer);
    auto opened =
        Source::open(data, {config.training.micro_batch_size, config.training.seq_len}, config.model.vocab_size);
    if (!opened) return tl::unexpected(opened.error());
    source = std::make_shared<const Source>(std::move(*opened));
  }
  auto compute = std::make_unique<Learner>(learner_config(config, type, threads), std::move(source), clock, std::move(wake));
  Learner* raw = compute.get();
  return Device{std::move(compute), [raw] { return raw->take_completions(); }};
}

}  // namespace starling::launcher
