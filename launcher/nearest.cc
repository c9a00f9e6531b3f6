#include "launcher/nearest.h"

#include <algorithm>
#include <limits>
#include <set>
#include <vector>

namespace starling::launcher {
namespace {

constexpr std::size_t max_name_bytes = 64;
constexpr std::size_t far = std::numeric_limits<std::size_t>::max();

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words(1);
  for (const char c : name) {
    if (c == '_' || c == '-' || c == '.') {
      words.emplace_back();
    } else {
      words.back() += lower(c);
    }
  }
  std::erase(words, "");
  return words;
}

std::string initials_of(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) out += word.front();
  return out;
}

bool is_abbreviation(std::string_view shorter, const std::vector<std::string>& words) {
  return words.size() >= 2 && shorter.size() >= 2 && initials_of(words) == shorter;
}

// Words that one name has more than the other, when the other's words are all in it.
std::optional<std::size_t> missing_words(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  const std::set<std::string> few(a.begin(), a.end());
  const std::set<std::string> many(b.begin(), b.end());
  if (few.empty() || few.size() > many.size()) return std::nullopt;
  if (!std::includes(many.begin(), many.end(), few.begin(), few.end())) return std::nullopt;
  return many.size() - few.size();
}

}  // namespace

std::size_t edit_distance(std::string_view a, std::string_view b) {
  if (a.size() > max_name_bytes || b.size() > max_name_bytes) return far;
  // Optimal string alignment: row i holds the distances of a's first i characters to each prefix of b.
  std::vector<std::size_t> before_last;
  std::vector<std::size_t> last(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::vector<std::size_t> row(b.size() + 1);
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1;
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + replaced});
      if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1])) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    before_last = std::move(last);
    last = std::move(row);
  }
  return last[b.size()];
}

std::optional<std::size_t> name_distance(std::string_view name, std::string_view candidate) {
  if (name.size() > max_name_bytes || candidate.size() > max_name_bytes) return std::nullopt;
  std::size_t best = far;
  // A third of the letters may be wrong; of a name of two or three letters only one.
  const std::size_t allowed = std::max<std::size_t>(1, std::min(name.size(), candidate.size()) / 3);
  if (const std::size_t edits = edit_distance(name, candidate); edits <= allowed) best = edits;
  const auto name_words = words_of(name);
  const auto candidate_words = words_of(candidate);
  if (is_abbreviation(candidate, name_words) || is_abbreviation(name, candidate_words))
    best = std::min<std::size_t>(best, 1);
  for (const auto& more : {missing_words(name_words, candidate_words), missing_words(candidate_words, name_words)}) {
    if (more) best = std::min(best, 1 + *more);
  }
  return best == far ? std::nullopt : std::optional(best);
}

std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = far;
  for (const auto& candidate : candidates) {
    const auto distance = name_distance(name, candidate);
    if (distance && *distance < best_distance) {
      best_distance = *distance;
      best = candidate;
    }
  }
  return best;
}

std::string did_you_mean(std::string_view name, std::span<const std::string> candidates) {
  const auto candidate = nearest(name, candidates);
  return candidate ? " (did you mean '" + *candidate + "'?)" : "";
}

}  // namespace starling::launcher
