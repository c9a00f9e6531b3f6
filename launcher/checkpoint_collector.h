// An observer's collection of checkpoints: parts that workers send at the end of a round become a directory.
//
//   parts of round r --> pending (mean of slow weights so far; momentum, Adam's state) --> complete, or late --> written
//
// Complete: of each stage as many slow weights as its senders see replicas, and the state of one of them. Late: `patience`
// after the first part; then it is written with what is there, and the manifest says what each stage missed; without any
// slow weights of a stage there is no checkpoint. Newer rounds push older pending ones out. Files are written by a thread of
// their own, one checkpoint at a time, so a slow disk keeps nobody waiting; one that is full, or that fails to sync, ends
// that checkpoint for good, and the older ones stand. Loop thread but for the writing.
#pragma once

#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/base/time.h"
#include "gossip/net/wire.h"
#include "trainer/checkpoint/checkpoint_directory.h"

namespace starling::launcher {

class CheckpointCollector {
 public:
  struct Config {
    std::filesystem::path directory;
    std::int64_t keep = 3;
    trainer::CheckpointPlan plan;                          // step, round and tokens are filled in
    Duration patience = std::chrono::seconds(30);
  };
  struct Outcome {
    Step step = 0;
    Result<std::filesystem::path> path;                    // or why there is none
    std::string missed;                                    // of a checkpoint that stands; empty: nothing
  };

  explicit CheckpointCollector(Config config) : config_(std::move(config)) {}

  // Whether an offer of so many bytes fits its stage, and is of a round that is not done with.
  bool wants(const net::CheckpointPart& part, std::uint64_t bytes) const;
  // REQUIRES: wanted.
  void came(const NodeId& from, const net::CheckpointPart& part, ByteView values, TimePoint now);

  // Looks whether a checkpoint is complete or late, and whether one has been written. `tokens`: trained so far.
  std::vector<Outcome> look(std::int64_t tokens, TimePoint now);
  // Waits for the one that is being written, if any, and for nothing that has not come.
  std::vector<Outcome> finish(std::int64_t tokens, TimePoint now);
  bool busy() const { return writing_.valid() || !pending_.empty(); }

 private:
  struct StageState {
    std::vector<float> sum;                                // of the slow weights
    std::set<NodeId> from;
    std::int32_t replicas = 1;                             // the most that a sender has seen
    std::vector<float> momentum, adam_m, adam_v;
    std::int64_t adam_steps = 0;
  };
  struct Pending {
    Step step = 0;
    TimePoint first{};
    std::map<Stage, StageState> stages;
  };
  std::int64_t values_of(Stage stage) const;
  bool complete(const Pending& pending) const;
  static Outcome write(const Config& config, Round round, Pending pending, std::int64_t tokens);
  void begin_writing(Round round, std::int64_t tokens);

  Config config_;
  std::map<Round, Pending> pending_;
  Round done_with_ = 0;                                    // this round and all before it
  std::future<Outcome> writing_;
};

}  // namespace starling::launcher
