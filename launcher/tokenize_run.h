// The work of `starling tokenize`: reads text files of any size part by part, encodes parts on all cores, writes shards in
// their order. What is kept in memory does not grow with the files.
//
// Beside the shards lies PREFIX.progress.json. It is rewritten after every so many bytes of text, once all tokens of what
// stands before are on the disk; a run that was ended by anything goes on there, and gives the same bytes as one that was
// not. It holds a fingerprint of all that decides about those bytes (files, tokenizer, flags), and what differs is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/corpus_reader.h"
#include "trainer/data/shard_writer.h"
#include "trainer/data/tokenizer.h"

namespace starling::launcher {

struct TokenizeJob {
  std::vector<std::filesystem::path> files;
  std::string tokenizer = "byte";  // as tokenizer.path
  trainer::CorpusShape shape;
  trainer::ShardSpec shards;  // without the vocabulary, which is the tokenizer's
  trainer::SpecialNames names = trainer::SpecialNames::text;
  int threads = 1;
  std::int64_t mark_bytes = std::int64_t{16} << 20;  // of text between two marks
};

struct TokenizeProgress {
  std::int64_t bytes = 0;  // of text
  std::int64_t all_bytes = 0;
  std::int64_t tokens = 0;
  std::int64_t shards = 0;
  std::int64_t resumed_bytes = 0;  // of them, by earlier runs
  bool finished = false;
};

enum class EarlierRun { resumed, discarded };

// Calls `report` now and then, from this thread. Errors: those of the tokenizer, of the files and of the disk; bad_config
// when the progress file is of other work, or when there are shards without one.
Result<TokenizeProgress> tokenize(TokenizeJob job, EarlierRun earlier,
                                  const std::function<void(const TokenizeProgress&)>& report);

}  // namespace starling::launcher
