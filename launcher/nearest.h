// "Did you mean ...?": how far a misspelt name is from the names that exist.
//
// Three ways in which people miss a name, each with its own distance: slips of the finger (edit distance, with swapped
// neighbours as one edit), the long or short form of an abbreviation (learning_rate for lr), and a word left out or
// added (num_layers for num_hidden_layers).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace starling::launcher {

// Insertions, deletions, replacements and swaps of neighbours between `a` and `b`, without regard to case. Names of more
// than 64 characters count as far from everything.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The least of the three distances, or nothing when `name` is too far from `candidate` for a suggestion to help.
std::optional<std::size_t> name_distance(std::string_view name, std::string_view candidate);

// The candidate that `name` most likely stands for (the first of equals), or nothing when none is near.
std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates);

// " (did you mean 'x'?)", or nothing when no candidate is near.
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

}  // namespace starling::launcher
