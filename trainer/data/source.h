// Where training and validation sequences come from. Torch-free.
//
// All files of a list, in the order of their names, read as one long text; a sequence is a window of it that begins
// anywhere. Which window belongs to a sample is a pure function of (seed, slot, step, index): nothing is remembered, so
// a run can be taken up at any step and two originators never need to agree on who reads what. Windows are drawn with
// replacement: over a text of n tokens and k drawn tokens a share of about exp(-k / n) is never seen.
//
// Held-out text. When `data.val` is empty, the last 5 % of every file are kept for validation and never sampled in
// training. Of every file, not of the last one: files differ, and the last one alone would be a different text.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "trainer/data/data_config.h"
#include "trainer/data/token_file.h"

namespace starling::trainer {

// Slices of files, one after the other.
class TokenText {
 public:
  void append(std::shared_ptr<const TokenFile> file, std::int64_t first, std::int64_t count);
  std::int64_t size() const { return size_; }
  // REQUIRES: first .. first + out.size() are inside [0, size()). Errors: those of TokenFile::read.
  Status read(std::int64_t first, std::span<std::int32_t> out) const;

 private:
  struct Slice {
    std::shared_ptr<const TokenFile> file;
    std::int64_t first = 0;  // in the file
    std::int64_t begin = 0;  // in the text
    std::int64_t end = 0;
  };
  std::vector<Slice> slices_;
  std::int64_t size_ = 0;
};

struct BatchShape {
  std::int64_t sequences = 1;  // B
  std::int64_t seq_len = 1;    // T
  std::int64_t tokens() const { return sequences * (seq_len + 1); }
};

// B sequences of T + 1 tokens, one after the other: the first T are the input, the last T the targets.
using TokenBatch = std::vector<std::int32_t>;

class Source {
 public:
  // Opens all files. A path may be a URL (remote_file.h), or hold *, ? and [...]; such a pattern passes over folders, empty
  // and binary files and second names of one file, while a path without them must be good. Errors: bad_config (no training data, unknown
  // format or tokenizer), not_found, io, limit (more than 16,384 files), bad_input (see TokenFile::open; too few tokens
  // for one sequence); each names the file and the fix.
  static Result<Source> open(const DataConfig& config, BatchShape shape, std::int64_t vocab_size);

  // Errors: those of TokenFile::read; files of this machine give none but for a disk that fails.
  Result<TokenBatch> sample(std::uint64_t seed, Slot slot, Step step, std::uint32_t index) const;
  // Windows index * B .. index * B + B of the validation text, which starts again where it ends.
  Result<TokenBatch> validation(std::uint32_t index) const;

  // Where a document begins inside of a sequence of `batch`: rows of the B x T inputs, rising; that one begins with each
  // sequence is not said. A document begins at the tokenizer's begin_of_text and behind its end_of_text; with a tokenizer
  // that has neither, a sequence is one document.
  std::vector<std::uint32_t> document_borders(const TokenBatch& batch) const;

  std::int64_t training_tokens() const { return training_.size(); }
  std::int64_t validation_tokens() const { return validation_.size(); }
  // Different windows of T tokens that the validation text has.
  std::int64_t validation_windows() const { return (validation_.size() - 1) / shape_.seq_len; }
  const BatchShape& shape() const { return shape_; }

 private:
  explicit Source(BatchShape shape) : shape_(shape) {}

  BatchShape shape_;
  TokenText training_;
  TokenText validation_;
  std::optional<std::int32_t> begin_of_text_;
  std::optional<std::int32_t> end_of_text_;
};

}  // namespace starling::trainer
