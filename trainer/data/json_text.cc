#include "trainer/data/json_text.h"

#include <fmt/format.h>

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gossip/base/printable.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_depth = 16;
constexpr std::size_t max_values = 4'000'000;
constexpr std::size_t max_shown_bytes = 120;

// Looks at a text before a tree is made of it. Its functions are those that nlohmann's reader calls, one per token; false
// ends the reading.
class Watcher {
 public:
  bool null() { return value(); }
  bool boolean(bool) { return value(); }
  bool number_integer(std::int64_t) { return value(); }
  bool number_unsigned(std::uint64_t) { return value(); }
  bool number_float(double, const std::string&) { return value(); }
  bool string(std::string&) { return value(); }
  bool binary(nlohmann::json::binary_t&) { return value(); }
  bool start_object(std::size_t) { return (keys_.empty() || value()) && open(); }
  bool start_array(std::size_t) { return value() && open(); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (keys_.back().insert(name).second) return true;
    fault_ = fmt::format("the key '{}' twice", shown(std::string_view(name)));
    return false;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    fault_ = "text that is none: " + shown(std::string_view(error.what()));
    return false;
  }

  const std::string& fault() const { return fault_; }

 private:
  bool value() {
    if (keys_.empty()) fault_ = "another JSON value";
    if (++values_ > max_values) fault_ = fmt::format("more than {} values", max_values);
    return fault_.empty();
  }
  bool open() {
    keys_.emplace_back();
    if (keys_.size() > max_depth) fault_ = fmt::format("more than {} levels of objects and lists", max_depth);
    return keys_.size() <= max_depth;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys_;  // of what is open, outermost first
  std::size_t values_ = 0;
  std::string fault_;
};

}  // namespace

std::string shown(std::string_view text) { return printable(text, max_shown_bytes); }

std::string shown(const nlohmann::json& value) {
  return shown(std::string_view(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
}

Result<nlohmann::json> parse_json_object(std::string_view text) {
  Watcher watcher;
  if (!nlohmann::json::sax_parse(text, &watcher)) {
    return fail(ErrorCode::bad_input, "expected a JSON object, got " + watcher.fault());
  }
  return nlohmann::json::parse(text, nullptr, false);  // cannot fail any more
}

}  // namespace starling::trainer
