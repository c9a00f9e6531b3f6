// Reads the text of a SplitPattern; a part of split_pattern.cc in a file of its own.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/split_pattern.h"

namespace starling::trainer {

class SplitPatternParser {
 public:
  SplitPatternParser(std::string_view pattern, SplitPattern& out) : text_(pattern), out_(out) {}
  // Fills the pattern. Errors: bad_input.
  Status parse();

 private:
  using Node = SplitPattern::Node;
  // Groups become nodes only once what follows them is known, so a pattern is read into items first.
  struct Item;
  using Branch = std::vector<Item>;
  struct Item {
    Node::Kind kind = Node::Kind::characters;
    Node node;                     // characters, not_ahead
    std::vector<Branch> branches;  // choice
    bool optional = false;         // choice
  };
  enum class Letters { as_written, any_case };

  std::vector<Branch> branches(Letters letters, int depth);
  Item item(Letters letters, int depth);
  Item group(Letters letters, int depth);
  void repetition(Node& node);
  std::size_t number();
  CharacterClass one_class(Letters letters);
  CharacterClass bracket();
  void escape(CharacterClass& into);
  std::optional<char32_t> escaped_letter() const;
  void category(CharacterClass& into, bool outside);
  char32_t letter();

  std::size_t add(CharacterClass c);
  std::size_t build(const Branch& branch, std::size_t next);
  std::size_t build(const std::vector<Branch>& branches, std::size_t next, bool optional);

  bool at_end() const { return at_ >= text_.size() || !fault_.empty(); }
  bool next_is(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  bool take(std::string_view what);
  void refuse(std::string_view what);  // the first one counts; reading then ends

  std::string_view text_;
  SplitPattern& out_;
  std::size_t at_ = 0;
  std::string fault_;
};

}  // namespace starling::trainer
