// What the values of a run file mean: numbers, texts, durations, sizes, lists, read strictly and written back.
//
// Strictly: a value is taken only in the one spelling that nobody can read otherwise. YAML 1.1 and 1.2 readers disagree on
// 010 (8 or 10), yes (true or "yes"), 1_000 and 0x10, so those are errors that say what to write; a text that looks like
// a number, a truth value or null needs quotes. What write_... gives, read_... takes back without loss.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <vector>

#include "gossip/base/time.h"
#include "launcher/yaml_tree.h"

namespace starling::launcher {

// A value, or what was expected, what came and what to write.
template <typename T>
using Read = tl::expected<T, std::string>;

// How a message calls a value: null, a list, the text 'x', 12.
std::string describe(const YamlValue& value);
// "expected an integer, got the text 'x'"
tl::unexpected<std::string> unexpected_value(std::string_view expected, const YamlValue& value);

Read<std::int64_t> read_integer(const YamlValue& value);
// Every 64-bit number from 0 up.
Read<std::uint64_t> read_seed(const YamlValue& value);
// A finite number; an integer is one too.
Read<double> read_number(const YamlValue& value);
// true | false
Read<bool> read_boolean(const YamlValue& value);
Read<std::string> read_text(const YamlValue& value);
// 500ms, 2s, 1.5h: a number and one of ns us ms s m h d.
Read<Duration> read_duration(const YamlValue& value);
// 20GiB, 512MiB, 1.5GB: a number and one of B kB MB GB TB KiB MiB GiB TiB.
Read<std::int64_t> read_bytes(const YamlValue& value);
Read<std::vector<std::int64_t>> read_integers(const YamlValue& value);
Read<std::vector<std::string>> read_texts(const YamlValue& value);

bool is_null(const YamlValue& value);
bool is_word(const YamlValue& value, std::string_view word);

std::string write_integer(std::int64_t value);
std::string write_seed(std::uint64_t value);
// The shortest digits that give the same double again.
std::string write_number(double value);
std::string write_boolean(bool value);
// In double quotes. REQUIRES: no control characters, as read_text assures.
std::string write_text(std::string_view value);
std::string write_duration(Duration value);
std::string write_bytes(std::int64_t value);
std::string write_integers(std::span<const std::int64_t> values);
std::string write_texts(std::span<const std::string> values);

}  // namespace starling::launcher
