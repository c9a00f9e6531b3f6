#include "metrics/step_line.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string_view>

namespace starling::metrics {
namespace {

// "nan" and "inf" look the same everywhere.
std::optional<std::string> not_finite(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return std::nullopt;
}

// Three digits: 4.12, 41.2, 412. REQUIRES: 0 <= value < 999.5.
std::string three_digits(double value) {
  const int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}", value, decimals);
}

std::string format_loss(double loss) {
  if (auto text = not_finite(loss)) return *text;
  return std::abs(loss) < 1000.0 ? fmt::format("{:.3f}", loss) : format_scientific(loss);
}

}  // namespace

std::string format_count(double value) {
  if (auto text = not_finite(value)) return *text;
  if (value < 0) return "-" + format_count(-value);
  if (value < 999.5) return value == std::floor(value) ? fmt::format("{:.0f}", value) : three_digits(value);
  for (const char prefix : {'k', 'M', 'G', 'T', 'P'}) {
    value /= 1000.0;
    if (value < 999.5) return three_digits(value) + prefix;
  }
  return format_scientific(value * 1e15);
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  static constexpr std::array<std::string_view, 6> units = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024.0;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1024.0;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, value < 99.95 ? 1 : 0, units[unit]);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  static constexpr double minute = 60, hour = 3600, day = 86400;
  if (seconds >= 1000 * day) return ">999d";
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t days = whole / 86400, hours = whole / 3600 % 24, minutes = whole / 60 % 60, rest = whole % 60;
  if (static_cast<double>(whole) < minute) return fmt::format("{}s", rest);
  if (static_cast<double>(whole) < hour) return fmt::format("{}m{:02}s", minutes, rest);
  if (static_cast<double>(whole) < day) return fmt::format("{}h{:02}m", hours, minutes);
  return fmt::format("{}d{}h", days, hours);
}

std::string format_scientific(double value) {
  if (auto text = not_finite(value)) return *text;
  if (value == 0) return "0";
  const std::string padded = fmt::format("{:.1e}", value);  // 5.9e-04
  const std::size_t e = padded.find('e');
  return fmt::format("{}e{}", padded.substr(0, e), std::stoi(padded.substr(e + 1)));
}

std::string format_short(double value) {
  if (auto text = not_finite(value)) return *text;
  const double size = std::abs(value);
  if (value == 0) return "0";
  if (size < 0.01 || size >= 9999.5) return format_scientific(value);
  return fmt::format("{:.{}f}", value, size < 9.995 ? 2 : size < 99.95 ? 1 : 0);
}

std::string format_step_line(const StepLine& line) {
  std::string out = fmt::format("step {}", line.step);
  if (line.max_steps > 0) out += fmt::format("/{}", line.max_steps);
  if (line.loss) out += " loss " + format_loss(*line.loss);
  if (line.learning_rate) out += " lr " + format_scientific(*line.learning_rate);
  if (line.gradient_norm) out += " grad " + format_short(*line.gradient_norm);
  if (line.tokens_per_second) out += " tok/s " + format_count(*line.tokens_per_second);
  out += fmt::format(" workers {}", line.workers_active);
  if (line.workers_wanted > 0) out += fmt::format("/{}", line.workers_wanted);
  if (line.skip_ratio) out += fmt::format(" skipped {:.1f}%", *line.skip_ratio * 100.0);
  if (line.eta_seconds) out += " eta " + format_duration(*line.eta_seconds);
  return out;
}

}  // namespace starling::metrics
