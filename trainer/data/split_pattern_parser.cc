#include "trainer/data/split_pattern_parser.h"

#include <fmt/format.h>

#include <utility>

#include "trainer/data/json_text.h"
#include "trainer/data/utf8.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_pattern_bytes = 4096;
constexpr int max_depth = 8;
constexpr std::size_t max_repetitions = 1000;
constexpr std::size_t no_limit = static_cast<std::size_t>(-1);
constexpr std::string_view with_meaning = "\\|()[]{}?*+.^$";

bool is_ascii_letter(char32_t c) { return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z'); }

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const Utf8Unit unit = next_utf8(text);
    if (unit.kind != Utf8::whole) return false;
    text.remove_prefix(unit.bytes);
  }
  return true;
}

}  // namespace

Status SplitPatternParser::parse() {
  if (text_.empty() || text_.size() > max_pattern_bytes || !is_valid_utf8(text_)) {
    return fail(ErrorCode::bad_input, fmt::format("expected a pattern of 1 to {} bytes of UTF-8", max_pattern_bytes));
  }
  const std::vector<Branch> pattern = branches(Letters::as_written, 0);
  if (fault_.empty() && at_ < text_.size()) refuse("a ')' without '('");
  if (!fault_.empty()) return fail(ErrorCode::bad_input, fault_);
  out_.nodes_.emplace_back();  // the end
  out_.start_ = build(pattern, 0, false);
  return {};
}

bool SplitPatternParser::take(std::string_view what) {
  if (!next_is(what)) return false;
  at_ += what.size();
  return true;
}

void SplitPatternParser::refuse(std::string_view what) {
  if (fault_.empty()) fault_ = fmt::format("byte {} of the pattern: {} is not known here", at_, shown(what));
}

std::vector<SplitPatternParser::Branch> SplitPatternParser::branches(Letters letters, int depth) {
  std::vector<Branch> out(1);
  while (!at_end() && !next_is(")")) {
    if (take("|")) {
      out.emplace_back();
    } else {
      out.back().push_back(item(letters, depth));
    }
  }
  return out;
}

SplitPatternParser::Item SplitPatternParser::item(Letters letters, int depth) {
  if (take("(?!")) {
    Item out;
    out.kind = out.node.kind = Node::Kind::not_ahead;
    out.node.characters = add(one_class(letters));
    if (!take(")")) refuse("more than one class in (?!");
    return out;
  }
  if (next_is("(")) return group(letters, depth);
  Item out;
  out.node.kind = Node::Kind::characters;
  out.node.characters = add(one_class(letters));
  repetition(out.node);
  return out;
}

SplitPatternParser::Item SplitPatternParser::group(Letters letters, int depth) {
  Item out;
  out.kind = Node::Kind::choice;
  const bool any_case = take("(?i:");
  if (!any_case && !take("(?:")) refuse("a group that is neither (?:, (?i: nor (?!");
  if (depth == max_depth) refuse("a group so deep inside of others");
  if (!fault_.empty()) return out;
  out.branches = branches(any_case ? Letters::any_case : letters, depth + 1);
  if (!take(")")) refuse("a '(' without ')'");
  out.optional = take("?");
  if (next_is("?") || next_is("*") || next_is("+") || next_is("{")) refuse("a repeated group");
  return out;
}

void SplitPatternParser::repetition(Node& node) {
  if (take("?")) {
    node.least = 0;
  } else if (take("*")) {
    node.least = 0;
    node.most = no_limit;
  } else if (take("+")) {
    node.most = no_limit;
  } else if (take("{")) {
    node.least = node.most = number();
    if (take(",")) node.most = next_is("}") ? no_limit : number();
    if (!take("}") || node.least > node.most || node.most == 0) refuse("such a repetition");
    if (next_is("+") || next_is("?")) refuse("what follows the '}'");
    return;
  } else {
    return;
  }
  node.possessive = take("+");
  if (next_is("?") || next_is("*") || next_is("+") || next_is("{")) refuse("a repeated repetition");
}

std::size_t SplitPatternParser::number() {
  std::size_t out = 0;
  const std::size_t begin = at_;
  for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
    out = out * 10 + static_cast<std::size_t>(text_[at_] - '0');
    if (out > max_repetitions) break;
  }
  if (at_ == begin || out > max_repetitions)
    refuse(fmt::format("a repetition that is no number up to {}", max_repetitions));
  return out;
}

char32_t SplitPatternParser::letter() {
  const CodePoint c = code_point(text_.substr(at_));
  at_ += c.bytes;
  return c.value;
}

CharacterClass SplitPatternParser::one_class(Letters letters) {
  CharacterClass out;
  if (at_end()) {
    refuse("the end");
  } else if (next_is("[")) {
    if (letters == Letters::any_case) refuse("'[' inside of (?i:");
    return bracket();
  } else if (next_is("\\")) {
    escape(out);
  } else if (with_meaning.find(text_[at_]) != std::string_view::npos) {
    refuse(text_.substr(at_, 1));
  } else {
    const char32_t c = letter();
    out.add(c, c);
    if (letters == Letters::any_case) {
      if (is_ascii_letter(c)) {
        out.add(c ^ 0x20, c ^ 0x20);
        // The two letters beyond ASCII that fold to one of it: the long s and the sign for kelvin.
        if ((c | 0x20) == U's') out.add(U'\x17f', U'\x17f');
        if ((c | 0x20) == U'k') out.add(U'\x212a', U'\x212a');
      } else if (c >= 128) {
        refuse("a letter beyond ASCII inside of (?i:");
      }
    }
  }
  out.finish();
  return out;
}

CharacterClass SplitPatternParser::bracket() {
  CharacterClass out;
  take("[");
  const bool negated = take("^");
  bool empty = true;
  while (!at_end() && !next_is("]")) {
    empty = false;
    if (next_is("[") || next_is("&&") || next_is("\\S")) {
      refuse("'[', '&&' or \\S inside of '['");
    } else if (next_is("\\") && !escaped_letter()) {
      escape(out);
      if (next_is("-")) refuse("'-' after a class");
    } else {
      const auto one = [this] {
        if (const auto c = escaped_letter()) return at_ += 2, *c;
        if (at_end() || next_is("\\") || next_is("[")) return refuse("such a range"), U' ';
        return letter();
      };
      const char32_t first = one();
      char32_t last = first;
      if (next_is("-") && !next_is("-]")) {
        take("-");
        last = one();
      }
      if (last < first) refuse("a range that runs backwards");
      out.add(first, last);
    }
  }
  if (empty || !take("]")) refuse("a '[' without ']' or with nothing in it");
  if (negated) out.negate();
  out.finish();
  return out;
}

// The letter that a backslash and the byte after it stand for, if they stand for one.
std::optional<char32_t> SplitPatternParser::escaped_letter() const {
  if (!next_is("\\") || at_ + 1 >= text_.size()) return std::nullopt;
  const auto c = static_cast<unsigned char>(text_[at_ + 1]);
  switch (c) {
    case 'r':
      return U'\r';
    case 'n':
      return U'\n';
    case 't':
      return U'\t';
    case 'f':
      return U'\f';
    default:
      break;
  }
  const bool is_sign = c > ' ' && c < 0x7f && !is_ascii_letter(c) && !(c >= '0' && c <= '9');
  if (!is_sign) return std::nullopt;
  return c;
}

void SplitPatternParser::escape(CharacterClass& into) {
  if (const auto c = escaped_letter()) {
    at_ += 2;
    into.add(*c, *c);
  } else if (take("\\s")) {
    into.add_white_space();
  } else if (take("\\S")) {
    into.add_white_space();
    into.negate();
  } else if (take("\\d")) {
    into.add(*category_set("Nd"));
  } else if (take("\\p{")) {
    category(into, false);
  } else if (take("\\P{")) {
    category(into, true);
  } else {
    refuse(text_.substr(at_, 2));
  }
}

void SplitPatternParser::category(CharacterClass& into, bool outside) {
  const std::size_t close = text_.find('}', at_);
  const std::string_view name = text_.substr(at_, close == std::string_view::npos ? 0 : close - at_);
  const auto set = category_set(name);
  if (!set) return refuse(fmt::format("the category '{}'", name));
  at_ = close + 1;
  outside ? into.add_outside(*set) : into.add(*set);
}

std::size_t SplitPatternParser::add(CharacterClass c) {
  out_.classes_.push_back(std::move(c));
  return out_.classes_.size() - 1;
}

std::size_t SplitPatternParser::build(const Branch& branch, std::size_t next) {
  for (auto item = branch.rbegin(); item != branch.rend(); ++item) {
    if (item->kind == Node::Kind::choice) {
      next = build(item->branches, next, item->optional);
    } else {
      out_.nodes_.push_back(item->node);
      out_.nodes_.back().next = next;
      next = out_.nodes_.size() - 1;
    }
  }
  return next;
}

std::size_t SplitPatternParser::build(const std::vector<Branch>& branches, std::size_t next, bool optional) {
  Node node;
  node.kind = Node::Kind::choice;
  for (const Branch& branch : branches) node.branches.push_back(build(branch, next));
  if (optional) node.branches.push_back(next);
  out_.nodes_.push_back(std::move(node));
  return out_.nodes_.size() - 1;
}

}  // namespace starling::trainer
