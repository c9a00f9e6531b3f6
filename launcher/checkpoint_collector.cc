#include "launcher/checkpoint_collector.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "trainer/worker/slow_weights.h"

namespace starling::launcher {
namespace {

using trainer::StatePart;

constexpr std::size_t most_pending = 2;
constexpr std::pair<StatePart, const char*> state_arrays[] = {
    {StatePart::momentum, "momentum"}, {StatePart::adam_m, "adam_m"}, {StatePart::adam_v, "adam_v"}};

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
  std::vector<float> floats = floats_of(values);
  if (!trainer::all_finite(floats)) return;
  const auto kind = static_cast<StatePart>(part.part);
  if (kind != StatePart::phi) {
    if (kind == StatePart::adam_m) stage.adam_steps = part.adam_steps;
    stage.state[kind] = std::move(floats);
    return;
  }
  if (!stage.from.insert(from).second) return;
  if (stage.sum.empty()) {
    stage.sum = std::move(floats);
    return;
  }
  for (std::size_t i = 0; i < floats.size(); ++i) stage.sum[i] += floats[i];
}

bool CheckpointCollector::complete(const Pending& pending) const {
  if (pending.stages.size() < config_.plan.cut.size()) return false;
  return std::all_of(pending.stages.begin(), pending.stages.end(), [](const auto& entry) {
    const StageState& stage = entry.second;
    return std::cmp_greater_equal(stage.from.size(), stage.replicas) && stage.state.size() == std::size(state_arrays);
  });
}

std::vector<CheckpointCollector::Outcome> CheckpointCollector::look(std::int64_t tokens, TimePoint now) {
  std::vector<Outcome> out;
  const auto lose = [&](std::map<Round, Pending>::iterator at, const char* why) {
    done_with_ = std::max(done_with_, at->first);
    out.push_back({at->second.step, fail(ErrorCode::failed, why), ""});
    return pending_.erase(at);
  };
  if (writing_.valid()) {
    if (writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
      // The disk is slower than checkpoints come: the newest ones count.
      while (pending_.size() > most_pending) lose(pending_.begin(), "the one before it is still being written");
      return out;
    }
    out.push_back(writing_.get());
  }
  for (auto at = pending_.begin(); at != pending_.end(); ++at) {
    const bool late = now - at->second.first >= config_.patience || pending_.size() > most_pending;
    if (!complete(at->second) && !late) continue;
    for (auto older = pending_.begin(); older != at;) older = lose(older, "a newer one was complete before all its parts had come");
    begin_writing(at->first, tokens);
    break;
  }
  return out;
}

std::vector<CheckpointCollector::Outcome> CheckpointCollector::finish(std::int64_t tokens, TimePoint now) {
  std::vector<Outcome> out;
  do {
    if (writing_.valid()) writing_.wait();
    for (Outcome& outcome : look(tokens, now + config_.patience)) out.push_back(std::move(outcome));
  } while (writing_.valid() || !pending_.empty());
  return out;
}

void CheckpointCollector::begin_writing(Round round, std::int64_t tokens) {
  done_with_ = std::max(done_with_, round);
  auto node = pending_.extract(round);
  writing_ = std::async(std::launch::async, write, config_, round, std::move(node.mapped()), tokens);
}

// ---------------------------------------------------------------- the writing thread

CheckpointCollector::Outcome CheckpointCollector::write(const Config& config, Round round, Pending pending,
                                                        std::int64_t tokens) {
  Outcome out{pending.step, std::filesystem::path{}, ""};
  trainer::CheckpointPlan plan = config.plan;
  plan.step = pending.step;
  plan.round = round;
  plan.tokens = tokens;
  for (std::size_t i = 0; i < plan.cut.size(); ++i) {
    if (!pending.stages[static_cast<Stage>(i)].sum.empty()) continue;
    out.path = fail(ErrorCode::failed, fmt::format("nobody sent the weights of stage {}", i));
    return out;
  }
  auto writer = trainer::CheckpointWriter::begin(config.directory, std::move(plan), *config.disk);
  if (!writer) {
    out.path = tl::unexpected(writer.error());
  } else if (const Status written = write_stages(*writer, pending, out.missed); !written) {
    out.path = tl::unexpected(written.error());
  } else {
    out.path = writer->commit();
  }
  if (!out.path) return out;
  if (const auto removed = trainer::remove_old(config.directory, config.keep); !removed) {
    out.missed += fmt::format("{}older ones stay: {}", out.missed.empty() ? "" : "; ", removed.error().message);
  }
  return out;
}

Status CheckpointCollector::write_stages(trainer::CheckpointWriter& writer, Pending& pending, std::string& missed) {
  for (auto& [number, stage] : pending.stages) {
    trainer::StagePlan plan{
        .stage = number, .arrays = {}, .scalars = fmt::format("{{\"adam_steps\": {}}}", stage.adam_steps), .missed = {}};
    std::vector<std::string> lacks;
    for (const auto& [part, name] : state_arrays) {
      const auto it = stage.state.find(part);
      if (it == stage.state.end()) {
        lacks.emplace_back(name);
      } else {
        plan.arrays.push_back({name, static_cast<std::int64_t>(it->second.size())});
      }
    }
    const auto absent = stage.replicas - static_cast<std::int32_t>(stage.from.size());
    if (absent > 0) lacks.push_back(fmt::format("slow weights of {} of {} replicas", absent, stage.replicas));
    plan.missed = fmt::format("{}", fmt::join(lacks, ", "));
    if (!lacks.empty()) missed += fmt::format("{}stage {}: {}", missed.empty() ? "" : "; ", number, plan.missed);
    if (Status begun = writer.begin_stage(plan); !begun) return begun;
    if (stage.from.size() > 1) {
      for (float& value : stage.sum) value /= static_cast<float>(stage.from.size());
    }
    if (Status written = writer.weights(stage.sum); !written) return written;
    for (const auto& [part, name] : state_arrays) {
      const auto it = stage.state.find(part);
      if (it == stage.state.end()) continue;
      if (Status written = writer.state(it->second); !written) return written;
    }
    if (Status ended = writer.end_stage(); !ended) return ended;
  }
  return {};
}

}  // namespace starling::launcher
