#include "launcher/yaml_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "gossip/base/printable.h"

namespace starling::launcher {
namespace {

using Kind = YamlValue::Kind;

constexpr std::size_t max_shown_bytes = 60;

struct Unit {
  std::string_view name;
  double factor;  // exact: every factor here is an integer below 2^53
};

constexpr std::array<Unit, 7> time_units{
    {{"d", 86400e9}, {"h", 3600e9}, {"m", 60e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1.0}}};
constexpr std::array<Unit, 9> size_units{{{"TiB", 1099511627776.0},
                                          {"GiB", 1073741824.0},
                                          {"MiB", 1048576.0},
                                          {"KiB", 1024.0},
                                          {"TB", 1e12},
                                          {"GB", 1e9},
                                          {"MB", 1e6},
                                          {"kB", 1e3},
                                          {"B", 1.0}}};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view take_digits(std::string_view& rest) {
  std::size_t n = 0;
  while (n < rest.size() && is_digit(rest[n])) ++n;
  const std::string_view digits = rest.substr(0, n);
  rest.remove_prefix(n);
  return digits;
}

void skip_sign(std::string_view& rest) {
  if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
}

enum class Shape { none, integer, real };

// What `text` looks like as a decimal number: [+-] digits [. digits] [e [+-] digits].
Shape shape_of(std::string_view text) {
  skip_sign(text);
  const std::string_view whole = take_digits(text);
  if (text.empty()) return whole.empty() ? Shape::none : Shape::integer;
  std::string_view fraction;
  if (text.starts_with('.')) {
    text.remove_prefix(1);
    fraction = take_digits(text);
  }
  if (whole.empty() && fraction.empty()) return Shape::none;
  if (text.starts_with('e') || text.starts_with('E')) {
    text.remove_prefix(1);
    skip_sign(text);
    if (take_digits(text).empty()) return Shape::none;
  }
  return text.empty() ? Shape::real : Shape::none;
}

bool has_leading_zero(std::string_view text) {
  skip_sign(text);
  return text.size() > 1 && text[0] == '0' && is_digit(text[1]);
}

std::string without_leading_zeros(std::string_view text) {
  const std::string sign(text.starts_with('-') ? "-" : "");
  skip_sign(text);
  while (text.size() > 1 && text[0] == '0' && is_digit(text[1])) text.remove_prefix(1);
  return sign + std::string(text);
}

bool is_any_of(std::string_view text, std::initializer_list<std::string_view> words) {
  std::string lower;
  for (const char c : text) lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const auto word : words) {
    if (lower == word) return true;
  }
  return false;
}

// Spellings that some YAML reader takes for something else than a text.
bool looks_like_something_else(std::string_view text) {
  if (text.empty() || is_any_of(text, {"null", "~", "true", "false", "yes", "no", "on", "off", "y", "n"})) return true;
  if (is_any_of(text, {".nan", ".inf", "+.inf", "-.inf"}) || shape_of(text) != Shape::none) return true;
  const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'o' || text[1] == 'b');
  return hex && text.find_first_not_of("0123456789abcdefABCDEF", 2) == std::string_view::npos;
}

std::string shown(std::string_view text) { return printable(text, max_shown_bytes); }

// What a person most likely wanted to write instead of a number that is spelt in another way, or nothing.
std::string hint_for_number(const YamlValue& value) {
  const std::string_view text = value.text;
  if (value.kind == Kind::quoted && shape_of(text) != Shape::none) return "; remove the quotes";
  if (value.kind != Kind::plain) return "";
  if (has_leading_zero(text) && shape_of(text) != Shape::none) {
    return fmt::format("; a leading zero means octal to some readers: write {}", shown(without_leading_zeros(text)));
  }
  if (is_any_of(text, {".nan", "nan", ".inf", "inf", "+.inf", "-.inf", "+inf", "-inf", "infinity"})) {
    return "; it must be finite";
  }
  const bool other_base =
      text.size() > 2 && text[0] == '0' && std::string_view("xXoObB").find(text[1]) != std::string_view::npos;
  if (other_base) return "; write it in decimal";
  std::string plain_digits;
  for (const char c : text) {
    if (c != '_' && c != '\'') plain_digits += c;
  }
  if (plain_digits.size() < text.size() && shape_of(plain_digits) != Shape::none) {
    return fmt::format("; write {}", shown(plain_digits));
  }
  return "";
}

template <typename T>
Read<T> read_whole(const YamlValue& value, std::string_view expected) {
  std::string_view text = value.text;
  if (value.kind != Kind::plain || shape_of(text) == Shape::none || has_leading_zero(text)) {
    auto problem = unexpected_value(expected, value);
    return tl::unexpected<std::string>(problem.value() + hint_for_number(value));
  }
  if (shape_of(text) == Shape::real) return unexpected_value(expected, value);
  if (text.starts_with('+')) text.remove_prefix(1);
  T out{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (failure == std::errc{} && end == text.data() + text.size()) return out;
  return tl::unexpected<std::string>(fmt::format("expected {} of {} to {}, got {}", expected,
                                                 std::numeric_limits<T>::min(), std::numeric_limits<T>::max(),
                                                 describe(value)));
}

// REQUIRES: shape_of(text) is not none.
std::optional<double> parse_number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double out = 0.0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (failure != std::errc{} || end != text.data() + text.size() || !std::isfinite(out)) return std::nullopt;
  return out;
}

// A number and a unit, as a whole number of the smallest unit.
template <std::size_t N>
Read<std::int64_t> read_quantity(const YamlValue& value, const std::array<Unit, N>& units, std::string_view expected,
                                 std::string_view add) {
  const std::string_view text = value.text;
  const bool scalar = value.kind == Kind::plain || value.kind == Kind::quoted;
  const std::size_t letters = std::min(text.find_first_not_of("0123456789.+-"), text.size());
  const std::string_view number = text.substr(0, letters);
  if (!scalar || shape_of(number) == Shape::none || has_leading_zero(number)) return unexpected_value(expected, value);
  std::string_view unit = text.substr(letters);
  if (unit.empty()) {
    return tl::unexpected<std::string>(unexpected_value(expected, value).value() +
                                       fmt::format("; add a unit: {}{}", number, add));
  }
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  for (const Unit& known : units) {
    if (unit != known.name) continue;
    const auto count = parse_number(number);
    const double total = count ? *count * known.factor : 0.0;
    // 2^62 keeps the rounding below well inside the type.
    if (!count || std::abs(total) > 4.0e18) return tl::unexpected<std::string>("too large: " + describe(value));
    return static_cast<std::int64_t>(std::llround(total));
  }
  return unexpected_value(expected, value);
}

template <std::size_t N>
std::string write_quantity(std::int64_t value, const std::array<Unit, N>& units) {
  for (const Unit& unit : units) {
    const auto factor = static_cast<std::int64_t>(unit.factor);
    const std::int64_t count = value / factor;
    // Read back through a double: beyond 2^53 the count would not be exact.
    if (value % factor == 0 && std::abs(count) < (std::int64_t{1} << 53) && (value != 0 || factor == 1)) {
      return fmt::format("{}{}", count, unit.name);
    }
  }
  return fmt::format("{}{}", value, units.back().name);
}

template <typename T, typename ReadItem>
Read<std::vector<T>> read_list(const YamlValue& value, std::string_view expected, ReadItem read_item) {
  if (value.kind != Kind::list) {
    auto problem = unexpected_value(expected, value);
    const bool scalar = value.kind == Kind::plain || value.kind == Kind::quoted;
    return tl::unexpected<std::string>(problem.value() +
                                       (scalar ? fmt::format("; write [{}]", shown(value.text)) : ""));
  }
  std::vector<T> out;
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    auto item = read_item(value.items[i]);
    if (!item) return tl::unexpected<std::string>(fmt::format("item {}: {}", i + 1, item.error()));
    out.push_back(std::move(*item));
  }
  return out;
}

template <typename T, typename WriteItem>
std::string write_list(std::span<const T> values, WriteItem write_item) {
  std::string out;
  for (const auto& value : values) out += (out.empty() ? "" : ", ") + write_item(value);
  return "[" + out + "]";
}

}  // namespace

std::string describe(const YamlValue& value) {
  switch (value.kind) {
    case Kind::null:
      return "null";
    case Kind::list:
      return fmt::format("a list of {}", value.items.size());
    case Kind::map:
      return "a mapping";
    case Kind::quoted:
      return fmt::format("the text \"{}\"", shown(value.text));
    case Kind::plain:
    case Kind::refused:
      break;
  }
  return looks_like_something_else(value.text) ? shown(value.text) : fmt::format("'{}'", shown(value.text));
}

tl::unexpected<std::string> unexpected_value(std::string_view expected, const YamlValue& value) {
  return tl::unexpected<std::string>(fmt::format("expected {}, got {}", expected, describe(value)));
}

Read<std::int64_t> read_integer(const YamlValue& value) { return read_whole<std::int64_t>(value, "an integer"); }

Read<std::uint64_t> read_seed(const YamlValue& value) { return read_whole<std::uint64_t>(value, "an integer"); }

Read<double> read_number(const YamlValue& value) {
  if (value.kind != Kind::plain || shape_of(value.text) == Shape::none || has_leading_zero(value.text)) {
    return tl::unexpected<std::string>(unexpected_value("a number", value).value() + hint_for_number(value));
  }
  const auto number = parse_number(value.text);
  if (number) return *number;
  return unexpected_value("a number that a double can hold", value);
}

Read<bool> read_boolean(const YamlValue& value) {
  if (is_word(value, "true")) return true;
  if (is_word(value, "false")) return false;
  std::string hint;
  if (value.kind == Kind::plain || value.kind == Kind::quoted) {
    if (is_any_of(value.text, {"true", "yes", "on", "y", "1"})) hint = "; write true";
    if (is_any_of(value.text, {"false", "no", "off", "n", "0"})) hint = "; write false";
  }
  return tl::unexpected<std::string>(unexpected_value("true or false", value).value() + hint);
}

Read<std::string> read_text(const YamlValue& value) {
  if (value.kind != Kind::plain && value.kind != Kind::quoted) return unexpected_value("a text", value);
  if (value.kind == Kind::plain && looks_like_something_else(value.text)) {
    return tl::unexpected<std::string>(unexpected_value("a text", value).value() +
                                       fmt::format("; if it is one, write \"{}\"", shown(value.text)));
  }
  // An escape such as "\n" can bring in what the reader of the file refuses.
  if (printable(value.text, value.text.size() + 3) != value.text) {
    return unexpected_value("a text of one line without control characters", value);
  }
  return value.text;
}

Read<Duration> read_duration(const YamlValue& value) {
  const auto count = read_quantity(value, time_units, "a duration such as 500ms or 2s", "s");
  if (!count) return tl::unexpected<std::string>(count.error());
  return Duration(*count);
}

Read<std::int64_t> read_bytes(const YamlValue& value) {
  return read_quantity(value, size_units, "a size such as 512MiB or 20GiB", "MiB");
}

Read<std::vector<std::int64_t>> read_integers(const YamlValue& value) {
  return read_list<std::int64_t>(value, "a list of integers", read_integer);
}

Read<std::vector<std::string>> read_texts(const YamlValue& value) {
  return read_list<std::string>(value, "a list of texts", read_text);
}

bool is_null(const YamlValue& value) { return value.kind == Kind::null; }

bool is_word(const YamlValue& value, std::string_view word) { return value.kind == Kind::plain && value.text == word; }

std::string write_integer(std::int64_t value) { return fmt::format("{}", value); }
std::string write_seed(std::uint64_t value) { return fmt::format("{}", value); }
std::string write_number(double value) { return fmt::format("{}", value); }
std::string write_boolean(bool value) { return value ? "true" : "false"; }

std::string write_text(std::string_view value) {
  std::string out = "\"";
  for (const char c : value) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string write_duration(Duration value) { return write_quantity(value.count(), time_units); }
std::string write_bytes(std::int64_t value) { return write_quantity(value, size_units); }

std::string write_integers(std::span<const std::int64_t> values) { return write_list(values, write_integer); }
std::string write_texts(std::span<const std::string> values) {
  return write_list(values, [](const std::string& value) { return write_text(value); });
}

}  // namespace starling::launcher
