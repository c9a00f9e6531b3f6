#include "trainer/checkpoint/partial_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <span>
#include <utility>

namespace starling::trainer {
namespace {

Status check_skipped(const std::vector<StageLayers>& cut, const std::vector<Stage>& skipped) {
  std::set<Stage> seen;
  for (const Stage stage : skipped) {
    if (stage == 0) return fail(ErrorCode::usage, "stage 0 cannot be skipped: it has the embedding and the head");
    if (stage < 0 || static_cast<std::size_t>(stage) >= cut.size()) {
      return fail(ErrorCode::usage,
                  cut.size() == 1
                      ? fmt::format("there is no stage {}: the model is in one stage, which cannot be skipped", stage)
                      : fmt::format("there is no stage {}: expected 1 to {}", stage, cut.size() - 1));
    }
    if (!seen.insert(stage).second) return fail(ErrorCode::usage, fmt::format("stage {} is named twice", stage));
  }
  return {};
}

}  // namespace

Result<PartialModel> read_without(const ModelReader& files, const ModelConfig& model,
                                  const std::vector<StageLayers>& cut, const std::vector<Stage>& skipped) {
  if (Status good = check_skipped(cut, skipped); !good) return tl::unexpected(good.error());
  std::vector<ParameterSpec> blocks;  // those that are left, by their names in the files
  PartialModel out{.model = model, .weights = {}};
  out.model.num_hidden_layers = 0;
  for (std::size_t i = 0; i < cut.size(); ++i) {
    if (std::ranges::count(skipped, static_cast<Stage>(i)) > 0) continue;
    for (ParameterSpec& spec : stage_parameters(model, cut[i], 1)) blocks.push_back(std::move(spec));
    out.model.num_hidden_layers += cut[i].last - cut[i].first;
  }
  // A stage 0 without blocks: embedding, final norm, head.
  const Result<std::vector<float>> ends = files.stage({0, 0}, 0);
  if (!ends) return tl::unexpected(ends.error());
  const auto embedding = model.vocab_size * model.hidden_size;
  out.weights.resize(static_cast<std::size_t>(parameter_count(out.model, {0, out.model.num_hidden_layers}, 0)));
  std::span<float> rest(out.weights);
  const auto put = [&](auto first, auto last) {
    std::copy(first, last, rest.begin());
    rest = rest.subspan(static_cast<std::size_t>(last - first));
  };
  put(ends->begin(), ends->begin() + embedding);
  for (const ParameterSpec& spec : blocks) {
    const auto count = static_cast<std::size_t>(spec.count());
    if (Status got = files.read(spec, rest.first(count)); !got) return tl::unexpected(got.error());
    rest = rest.subspan(count);
  }
  put(ends->begin() + embedding, ends->end());
  STARLING_CHECK(rest.empty(), "all parameters of what is left");
  return out;
}

}  // namespace starling::trainer
