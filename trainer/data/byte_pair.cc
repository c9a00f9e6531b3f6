#include "trainer/data/byte_pair.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace starling::trainer {
namespace {

constexpr std::int32_t gone = -1;  // the id of a symbol that has become part of its left neighbour

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

std::size_t spread(std::uint64_t pair) {
  pair *= 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: neighbouring ids land far apart
  return static_cast<std::size_t>(pair ^ (pair >> 32));
}

}  // namespace

BytePairs::BytePairs(const std::vector<std::string>& bytes_of, const std::vector<Merge>& merges, WholeWords whole_words,
                     Unknown unknown)
    : unknown_(unknown), rules_(std::bit_ceil(2 * merges.size() + 2)) {
  id_of_byte_.fill(-1);
  for (std::size_t id = 0; id < bytes_of.size(); ++id) {
    if (bytes_of[id].size() == 1) {
      id_of_byte_[static_cast<unsigned char>(bytes_of[id][0])] = static_cast<std::int32_t>(id);
    }
  }
  for (std::size_t byte = 0; byte < id_of_byte_.size(); ++byte) {
    if (id_of_byte_[byte] < 0) missing_.push_back(static_cast<std::uint8_t>(byte));
  }
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    std::size_t at = spread(pair) & (rules_.size() - 1);
    while (rules_[at].pair != no_pair) at = (at + 1) & (rules_.size() - 1);
    rules_[at] = {pair, static_cast<std::int32_t>(rank), merges[rank].merged};
  }
  if (whole_words == WholeWords::merged) return;
  words_ = bytes_of;
  for (std::size_t id = 0; id < words_.size(); ++id) {
    if (!words_[id].empty()) whole_words_.emplace(words_[id], static_cast<std::int32_t>(id));
  }
}

const BytePairs::Rule* BytePairs::rule(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t at = spread(pair) & (rules_.size() - 1);; at = (at + 1) & (rules_.size() - 1)) {
    if (rules_[at].pair == pair) return &rules_[at];
    if (rules_[at].pair == no_pair) return nullptr;
  }
}

void BytePairs::append(std::string_view word, Workspace& workspace, std::vector<std::int32_t>& out) const {
  STARLING_CHECK(word.size() < std::size_t{std::numeric_limits<std::int32_t>::max()}, "a word has a limit");
  if (!whole_words_.empty()) {
    if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  auto& symbols = workspace.symbols_;
  symbols.clear();
  bool after_unknown = false;
  for (const char c : word) {
    std::int32_t id = id_of_byte_[static_cast<unsigned char>(c)];
    const bool is_unknown = id < 0;
    if (is_unknown) {
      const bool left_out = !unknown_.id || (unknown_.fused && after_unknown);
      after_unknown = true;
      if (left_out) continue;
      id = *unknown_.id;
    }
    after_unknown = is_unknown;
    const auto index = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;
  merge(workspace);
  for (const auto& symbol : symbols) {
    if (symbol.id != gone) out.push_back(symbol.id);
  }
}

// Offers to merge the symbol `left` with its neighbour, if there is a rule for it.
void BytePairs::propose(std::int32_t left, Workspace& workspace) const {
  const auto& symbol = workspace.symbols_[static_cast<std::size_t>(left)];
  if (symbol.next < 0) return;
  const Rule* found = rule(symbol.id, workspace.symbols_[static_cast<std::size_t>(symbol.next)].id);
  if (found == nullptr) return;
  workspace.heap_.push_back({found->rank, left, found->merged});
  std::push_heap(workspace.heap_.begin(), workspace.heap_.end());
}

// n log n in the length of the word.
void BytePairs::merge(Workspace& workspace) const {
  auto& symbols = workspace.symbols_;
  auto& heap = workspace.heap_;
  heap.clear();
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) propose(static_cast<std::int32_t>(i), workspace);
  while (!heap.empty()) {
    const Workspace::Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    auto& left = symbols[static_cast<std::size_t>(top.left)];
    if (left.id == gone || left.next < 0) continue;
    auto& right = symbols[static_cast<std::size_t>(left.next)];
    // One of the two may have become another token since. What counts is what they would become, not the rank: in "abc"
    // an offer for a + bc also merges ab + c, earlier than the rank of ab + c says. So do Python's tokenizers.
    const Rule* now = rule(left.id, right.id);
    if (now == nullptr || now->merged != top.merged) continue;
    left.id = top.merged;
    right.id = gone;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = top.left;
    propose(top.left, workspace);
    if (left.previous >= 0) propose(left.previous, workspace);
  }
}

}  // namespace starling::trainer
