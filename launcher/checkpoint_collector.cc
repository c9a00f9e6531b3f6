#include "launcher/checkpoint_collector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "trainer/worker/compute.h"

namespace starling::launcher {
namespace {

using trainer::StatePart;

constexpr std::size_t most_pending = 2;

std::vector<float> floats_of(ByteView bytes) {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
  return out;
}

}  // namespace

std::int64_t CheckpointCollector::values_of(Stage stage) const {
  return trainer::parameter_count(config_.plan.model, config_.plan.cut[static_cast<std::size_t>(stage)], stage);
}

bool CheckpointCollector::wants(const net::CheckpointPart& part, std::uint64_t bytes) const {
  if (part.stage < 0 || static_cast<std::size_t>(part.stage) >= config_.plan.cut.size()) return false;
  if (part.round <= done_with_ || part.part > static_cast<std::uint8_t>(StatePart::momentum)) return false;
  return bytes == static_cast<std::uint64_t>(values_of(part.stage)) * sizeof(float);
}

void CheckpointCollector::came(const NodeId& from, const net::CheckpointPart& part, ByteView values, TimePoint now) {
  const auto [it, fresh] = pending_.try_emplace(part.round);
  Pending& pending = it->second;
  if (fresh) {
    pending.step = part.step;
    pending.first = now;
  }
  StageState& stage = pending.stages[part.stage];
  stage.replicas = std::max(stage.replicas, part.replicas);
  switch (static_cast<StatePart>(part.part)) {
    case StatePart::phi: {
      if (!stage.from.insert(from).second) return;
      const std::vector<float> phi = floats_of(values);
      if (stage.sum.empty()) {
        stage.sum = phi;
      } else {
        for (std::size_t i = 0; i < phi.size(); ++i) stage.sum[i] += phi[i];
      }
      return;
    }
    case StatePart::momentum: stage.momentum = floats_of(values); return;
    case StatePart::adam_m:
      stage.adam_m = floats_of(values);
      stage.adam_steps = part.adam_steps;
      return;
    case StatePart::adam_v: stage.adam_v = floats_of(values); return;
    case StatePart::theta: return;  // not wanted
  }
}

bool CheckpointCollector::complete(const Pending& pending) const {
  for (std::size_t i = 0; i < config_.plan.cut.size(); ++i) {
    const auto it = pending.stages.find(static_cast<Stage>(i));
    if (it == pending.stages.end()) return false;
    const StageState& stage = it->second;
    if (std::cmp_less(stage.from.size(), stage.replicas)) return false;
    if (stage.momentum.empty() || stage.adam_m.empty() || stage.adam_v.empty()) return false;
  }
  return true;
}

std::vector<CheckpointCollector::Outcome> CheckpointCollector::look(std::int64_t tokens, TimePoint now) {
  std::vector<Outcome> out;
  if (writing_.valid()) {
    if (writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return out;
    out.push_back(writing_.get());
  }
  while (pending_.size() > most_pending) {
    done_with_ = pending_.begin()->first;
    out.push_back({pending_.begin()->second.step,
                   fail(ErrorCode::failed, "newer rounds came before all of its parts had"), ""});
    pending_.erase(pending_.begin());
  }
  for (const auto& [round, pending] : pending_) {
    if (!complete(pending) && now - pending.first < config_.patience) continue;
    begin_writing(round, tokens);
    break;
  }
  return out;
}

std::vector<CheckpointCollector::Outcome> CheckpointCollector::finish(std::int64_t tokens, TimePoint now) {
  std::vector<Outcome> out;
  if (writing_.valid()) out.push_back(writing_.get());
  while (!pending_.empty()) {
    for (Outcome& lost : look(tokens, now + config_.patience)) out.push_back(std::move(lost));
    if (writing_.valid()) out.push_back(writing_.get());
  }
  return out;
}

void CheckpointCollector::begin_writing(Round round, std::int64_t tokens) {
  auto node = pending_.extract(round);
  done_with_ = std::max(done_with_, round);
  pending_.erase(pending_.begin(), pending_.lower_bound(round));
  writing_ = std::async(std::launch::async, write, config_, round, std::move(node.mapped()), tokens);
}

// The writing thread.
CheckpointCollector::Outcome CheckpointCollector::write(const Config& config, Round round, Pending pending,
                                                        std::int64_t tokens) {
  Outcome out{pending.step, std::filesystem::path{}, ""};
  const auto failed = [&](Error error) {
    out.path = tl::unexpected(std::move(error));
    return out;
  };
  trainer::CheckpointPlan plan = config.plan;
  plan.step = pending.step;
  plan.round = round;
  plan.tokens = tokens;
  for (std::size_t i = 0; i < plan.cut.size(); ++i) {
    if (pending.stages[static_cast<Stage>(i)].sum.empty()) {
      return failed({ErrorCode::failed, fmt::format("nobody sent the weights of stage {}", i)});
    }
  }
  auto writer = trainer::CheckpointWriter::begin(config.directory, std::move(plan));
  if (!writer) return failed(writer.error());
  for (auto& [number, stage] : pending.stages) {
    trainer::StagePlan staged{.stage = number, .arrays = {}, .scalars = fmt::format("{{\"adam_steps\": {}}}", stage.adam_steps)};
    const std::pair<const char*, const std::vector<float>*> arrays[] = {
        {"momentum", &stage.momentum}, {"adam_m", &stage.adam_m}, {"adam_v", &stage.adam_v}};
    for (const auto& [name, values] : arrays) {
      if (values->empty()) {
        staged.missed += fmt::format("{}{}", staged.missed.empty() ? "" : ", ", name);
      } else {
        staged.arrays.push_back({name, static_cast<std::int64_t>(values->size())});
      }
    }
    const auto absent = stage.replicas - static_cast<std::int32_t>(stage.from.size());
    if (absent > 0) {
      staged.missed += fmt::format("{}slow weights of {} of {} replicas", staged.missed.empty() ? "" : ", ", absent, stage.replicas);
    }
    if (!staged.missed.empty()) {
      out.missed += fmt::format("{}stage {}: {}", out.missed.empty() ? "" : "; ", number, staged.missed);
    }
    if (auto begun = writer->begin_stage(staged); !begun) return failed(begun.error());
    if (stage.from.size() > 1) {
      for (float& value : stage.sum) value /= static_cast<float>(stage.from.size());
    }
    if (auto written = writer->weights(stage.sum); !written) return failed(written.error());
    for (const auto& [name, values] : arrays) {
      if (values->empty()) continue;
      if (auto written = writer->state(*values); !written) return failed(written.error());
    }
    if (auto ended = writer->end_stage(); !ended) return failed(ended.error());
  }
  out.path = writer->commit();
  if (out.path) {
    if (auto removed = trainer::remove_old(config.directory, config.keep); !removed) return failed(removed.error());
  }
  return out;
}

}  // namespace starling::launcher
