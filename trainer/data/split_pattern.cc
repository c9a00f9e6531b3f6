#include "trainer/data/split_pattern.h"

#include <algorithm>
#include <bit>

#include "trainer/data/split_pattern_parser.h"

namespace starling::trainer {
namespace {

constexpr std::string_view letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

bool has_some_letter(const CharacterClass& c) {
  return std::any_of(letters.begin(), letters.end(), [&](char l) { return c.contains(static_cast<char32_t>(l)); });
}

bool has_all_letters(const CharacterClass& c) {
  return std::all_of(letters.begin(), letters.end(), [&](char l) { return c.contains(static_cast<char32_t>(l)); });
}

}  // namespace

void CharacterClass::add(char32_t first, char32_t last) { ranges_.emplace_back(first, last); }
void CharacterClass::add(CategorySet categories) { categories_ |= categories; }
void CharacterClass::add_outside(CategorySet categories) { categories_ |= ~categories; }

// The property White_Space.
void CharacterClass::add_white_space() {
  add(*category_set("Z"));
  add(U'\t', U'\r');
  add(U'\x85', U'\x85');
}

void CharacterClass::finish() {
  for (char32_t c = 0; c < ascii_.size(); ++c) ascii_[c] = slow_contains(c);
}

bool CharacterClass::slow_contains(char32_t c) const {
  const bool in = (categories_ & category_of(c)) != 0 ||
                  std::any_of(ranges_.begin(), ranges_.end(), [c](auto r) { return r.first <= c && c <= r.second; });
  return in != negated_;
}

Result<SplitPattern> SplitPattern::parse(std::string_view pattern) {
  SplitPattern out;
  SplitPatternParser parser(pattern, out);
  if (Status ok = parser.parse(); !ok) return tl::unexpected(ok.error());
  if (out.matches_nothing(out.start_)) return fail(ErrorCode::bad_input, "the pattern matches an empty text");
  out.index_branches();
  const auto crosses = [&out](const Node& node) {
    if (node.kind != Node::Kind::characters || !has_some_letter(out.classes_[node.characters])) return false;
    return (node.most > 1 && out.classes_[node.characters].contains(U' ')) || out.may_go_on_with_space(node.next);
  };
  out.may_cross_words_ = std::any_of(out.nodes_.begin(), out.nodes_.end(), crosses);
  out.takes_letters_ = out.always_takes_letter(out.start_, false);
  return out;
}

void SplitPattern::index_branches() {
  const Node& first = nodes_[start_];
  if (first.kind != Node::Kind::choice || first.branches.size() > 64) return;
  branches_are_indexed_ = true;
  for (char32_t c = 0; c < branches_for_.size(); ++c) {
    for (std::size_t i = 0; i < first.branches.size(); ++i) {
      if (may_begin(first.branches[i], c)) branches_for_[c] |= std::uint64_t{1} << i;
    }
  }
}

bool SplitPattern::may_begin(std::size_t index, char32_t c) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::end:
      return true;
    case Node::Kind::characters:
      return classes_[node.characters].contains(c) || (node.least == 0 && may_begin(node.next, c));
    case Node::Kind::not_ahead:
      return !classes_[node.characters].contains(c) && may_begin(node.next, c);
    case Node::Kind::choice:
      break;
  }
  return std::any_of(node.branches.begin(), node.branches.end(), [&](std::size_t b) { return may_begin(b, c); });
}

bool SplitPattern::matches_nothing(std::size_t index) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::end:
      return true;
    case Node::Kind::characters:
      return node.least == 0 && matches_nothing(node.next);
    case Node::Kind::not_ahead:
      return matches_nothing(node.next);
    case Node::Kind::choice:
      break;
  }
  return std::any_of(node.branches.begin(), node.branches.end(), [this](std::size_t b) { return matches_nothing(b); });
}

bool SplitPattern::may_go_on_with_space(std::size_t index) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::end:
      return false;
    case Node::Kind::characters:
      return classes_[node.characters].contains(U' ') || (node.least == 0 && may_go_on_with_space(node.next));
    case Node::Kind::not_ahead:
      return true;  // it looks at the space
    case Node::Kind::choice:
      break;
  }
  return std::any_of(node.branches.begin(), node.branches.end(),
                     [this](std::size_t b) { return may_go_on_with_space(b); });
}

// Whether, at a letter, some way through the pattern from here on needs this letter and nothing else.
bool SplitPattern::always_takes_letter(std::size_t index, bool taken) const {
  const Node& node = nodes_[index];
  switch (node.kind) {
    case Node::Kind::end:
      return taken;
    case Node::Kind::characters: {
      const CharacterClass& c = classes_[node.characters];
      if (!taken && node.least <= 1 && has_all_letters(c) && always_takes_letter(node.next, true)) return true;
      return node.least == 0 && !(node.possessive && has_some_letter(c)) && always_takes_letter(node.next, taken);
    }
    case Node::Kind::not_ahead:
      return false;
    case Node::Kind::choice:
      break;
  }
  return std::any_of(node.branches.begin(), node.branches.end(),
                     [&](std::size_t b) { return always_takes_letter(b, taken); });
}

struct SplitPattern::Run {
  std::string_view text;
  std::int64_t& steps;
};

std::optional<std::size_t> SplitPattern::match(std::string_view text, std::size_t begin, std::int64_t& steps) const {
  Run run{text, steps};
  const auto first = static_cast<unsigned char>(text[begin]);
  if (!branches_are_indexed_ || first >= 128) return match_node(run, start_, begin);
  // What match_node() does, less the branches that cannot begin here.
  --steps;
  for (std::uint64_t branches = branches_for_[first]; branches != 0; branches &= branches - 1) {
    const std::size_t branch = nodes_[start_].branches[static_cast<std::size_t>(std::countr_zero(branches))];
    if (const auto end = match_node(run, branch, begin)) return end;
  }
  return std::nullopt;
}

std::optional<std::size_t> SplitPattern::match_node(Run& run, std::size_t index, std::size_t at) const {
  const Node& node = nodes_[index];
  if (--run.steps < 0) return std::nullopt;
  switch (node.kind) {
    case Node::Kind::end:
      return at;
    case Node::Kind::characters:
      return match_characters(run, node, at);
    case Node::Kind::not_ahead:
      if (at < run.text.size() && classes_[node.characters].contains(code_point(run.text.substr(at)).value)) {
        return std::nullopt;
      }
      return match_node(run, node.next, at);
    case Node::Kind::choice:
      break;
  }
  for (const std::size_t branch : node.branches) {
    if (const auto end = match_node(run, branch, at)) return end;
  }
  return std::nullopt;
}

// As many characters as there are, then fewer and fewer until the rest of the pattern matches too.
std::optional<std::size_t> SplitPattern::match_characters(Run& run, const Node& node, std::size_t at) const {
  const CharacterClass& wanted = classes_[node.characters];
  std::size_t end = at;
  std::size_t count = 0;
  while (count < node.most && end < run.text.size()) {
    const CodePoint c = code_point(run.text.substr(end));
    if (!wanted.contains(c.value)) break;
    end += c.bytes;
    ++count;
  }
  run.steps -= static_cast<std::int64_t>(count);
  while (count >= node.least) {
    const auto matched = match_node(run, node.next, end);
    if (matched || node.possessive || count == 0 || run.steps < 0) return matched;
    do {
      --end;
    } while ((static_cast<unsigned char>(run.text[end]) & 0xc0) == 0x80);
    --count;
  }
  return std::nullopt;
}

}  // namespace starling::trainer
