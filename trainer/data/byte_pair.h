// Byte pair encoding: a word begins as its bytes, and the pair of neighbours that comes first in the list of merges
// becomes one token, again and again, the leftmost of equal pairs first.
//
// Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (arXiv 1508.07909), on bytes as in
// GPT-2.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gossip/base/error.h"

namespace starling::trainer {

// The ids of two tokens that stand side by side and of what they become. The place in the list of merges is the rank.
struct Merge {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t merged = 0;
};

class BytePairs {
 public:
  // What becomes of a word that is a token as it stands.
  enum class WholeWords {
    merged,  // what the merges make of it
    taken,   // that token, whatever the merges would make of it
  };

  // The token for bytes that no token stands for.
  struct Unknown {
    std::optional<std::int32_t> id;  // none: such bytes are left out
    bool fused = false;              // one for all that stand side by side
  };

  // `bytes_of[id]` are the bytes of a token that words can consist of; empty for others. REQUIRES: the ids of `merges` are
  // inside of it; no pair stands twice.
  BytePairs(const std::vector<std::string>& bytes_of, const std::vector<Merge>& merges, WholeWords whole_words,
            Unknown unknown);
  BytePairs(const BytePairs&) = delete;
  BytePairs& operator=(const BytePairs&) = delete;

  // Bytes that no token stands for.
  const std::vector<std::uint8_t>& missing_bytes() const { return missing_; }

  class Workspace;  // what encoding a word needs; one for each thread
  // Appends the ids of one word.
  void append(std::string_view word, Workspace& workspace, std::vector<std::int32_t>& out) const;

 private:
  struct Rule {
    std::uint64_t pair = no_pair;
    std::int32_t rank = 0;
    std::int32_t merged = 0;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};
  const Rule* rule(std::int32_t left, std::int32_t right) const;
  void merge(Workspace& workspace) const;
  void propose(std::int32_t left, Workspace& workspace) const;

  Unknown unknown_;
  std::array<std::int32_t, 256> id_of_byte_;
  std::vector<std::uint8_t> missing_;
  std::unordered_map<std::string_view, std::int32_t> whole_words_;  // empty unless they are taken
  std::vector<std::string> words_;                                  // what they point into
  std::vector<Rule> rules_;                                         // open addressing; a power of two, half empty
};

class BytePairs::Workspace {
 private:
  friend class BytePairs;
  struct Symbol {
    std::int32_t id = 0;
    std::int32_t previous = 0;  // -1: none
    std::int32_t next = 0;      // -1: none
  };
  struct Candidate {
    std::int32_t rank = 0;
    std::int32_t left = 0;  // index of a symbol
    std::int32_t merged = 0;
    // For a heap whose top is the lowest rank, the leftmost of equal ones.
    bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
  };
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace starling::trainer
