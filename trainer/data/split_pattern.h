// The regular expressions by which tokenizers cut a text into words, before tokens are made of each.
//
// They are a small family (GPT-2's, Llama 3's and their relatives), and this is the part of regular expressions that they
// are written in: classes with general categories, greedy and possessive repetition of a class, groups, alternatives, and
// "not followed by". A pattern with anything else is refused by name instead of being read a little differently from the
// way Python's `tokenizers` (Oniguruma) reads it.
//
//   pattern = branch {"|" branch}          branch = {item}
//   item    = class [repeat] | "(?:" pattern ")" ["?"] | "(?i:" pattern ")" ["?"] | "(?!" class ")"
//   class   = letter | escape | "[" ["^"] {letter | escape | letter "-" letter} "]"
//   escape  = \r \n \t \f \s \S \d \p{Category} \P{Category} or a sign, as \'
//   repeat  = ("?" | "*" | "+") ["+"] | "{" n ["," [m]] "}"
//
// Matching is backtracking from left to right, first branch first, most repetitions first. A hostile pattern can make
// that slow, so it counts its steps.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/unicode_classes.h"

namespace starling::trainer {

// A set of characters.
class CharacterClass {
 public:
  void add(char32_t first, char32_t last);
  void add(CategorySet categories);
  void add_white_space();
  void add_outside(CategorySet categories);  // all characters but these
  void negate() { negated_ = !negated_; }
  void finish();  // after the last change

  bool contains(char32_t c) const { return c < 128 ? ascii_[c] : slow_contains(c); }

 private:
  bool slow_contains(char32_t c) const;
  CategorySet categories_ = 0;
  std::vector<std::pair<char32_t, char32_t>> ranges_;
  bool negated_ = false;
  std::array<bool, 128> ascii_{};
};

class SplitPattern {
 public:
  // Errors: bad_input, with what stands at which byte of the pattern; also for one that matches an empty text.
  static Result<SplitPattern> parse(std::string_view pattern);

  // The end of the match that begins at `begin`, or nothing. Takes what it did off `steps`; when they are used up, there
  // is no match and `steps` is negative.
  // REQUIRES: `text` is valid UTF-8, begin < text.size() is the beginning of a character.
  std::optional<std::size_t> match(std::string_view text, std::size_t begin, std::int64_t& steps) const;

  // Whether a match may lie on both sides of a place that has an ASCII letter before it and a space after it, or depends
  // there on what comes after.
  bool may_cross_words() const { return may_cross_words_; }
  // Whether an ASCII letter is always part of a match.
  bool takes_letters() const { return takes_letters_; }

 private:
  friend class SplitPatternParser;
  struct Node {
    enum class Kind { characters, not_ahead, choice, end } kind = Kind::end;
    std::size_t characters = 0;  // index of the class
    std::size_t least = 1;
    std::size_t most = 1;
    bool possessive = false;
    std::size_t next = 0;
    std::vector<std::size_t> branches;  // first choice first
  };
  struct Run;
  std::optional<std::size_t> match_node(Run& run, std::size_t node, std::size_t at) const;
  std::optional<std::size_t> match_characters(Run& run, const Node& node, std::size_t at) const;
  void index_branches();
  bool may_begin(std::size_t node, char32_t c) const;
  bool matches_nothing(std::size_t node) const;
  bool may_go_on_with_space(std::size_t node) const;
  bool always_takes_letter(std::size_t node, bool taken) const;

  std::vector<CharacterClass> classes_;
  std::vector<Node> nodes_;  // the first is the end
  std::size_t start_ = 0;
  std::array<std::uint64_t, 128>
      branches_for_{};  // of the first choice, one bit each: those that may begin with the letter
  bool branches_are_indexed_ = false;
  bool may_cross_words_ = true;
  bool takes_letters_ = false;
};

}  // namespace starling::trainer
