#include "launcher/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <optional>
#include <sstream>
#include <utility>

#include "gossip/base/printable.h"

namespace starling::launcher {
namespace {

constexpr std::size_t max_faults = 1000;
constexpr std::size_t max_quoted_bytes = 64;

Position position_of(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

// Ends the reading of a text that is beyond a bound.
struct TooMuch : YamlFault {};

// Builds the tree from yaml-cpp's events. What is refused becomes a fault and the reading goes on, so that one run of it
// finds all faults.
class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(YamlTree& tree) : tree_(tree) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ == 2) fault(position_of(mark), "a second document begins here; a run file is one document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add({YamlValue::Kind::null, position_of(mark), {}, {}, {}});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fault(position_of(mark), "aliases (*name) are not used in run files; a text that begins with * needs quotes");
    add({YamlValue::Kind::refused, position_of(mark), {}, {}, {}});
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& text) override {
    refuse_anchor(mark, anchor);
    // yaml-cpp's marks for scalars without a tag: "?" for plain ones, "!" for quoted ones.
    if (tag != "?" && tag != "!") refuse_tag(mark, tag);
    add({tag == "?" ? YamlValue::Kind::plain : YamlValue::Kind::quoted, position_of(mark), text, {}, {}});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlValue::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(YamlValue::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  // A list or map that is being read. In a map, `key` is the key whose value comes next.
  struct Open {
    YamlValue value;
    std::optional<YamlEntry> key;
  };

  void fault(Position at, std::string message) {
    if (tree_.faults.size() >= max_faults) throw TooMuch{{at, "more faults than are worth counting"}};
    tree_.faults.push_back({at, std::move(message)});
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (anchor != 0) {
      fault(position_of(mark), "anchors (&name) are not used in run files; a text that begins with & needs quotes");
    }
  }

  void refuse_tag(const YAML::Mark& mark, const std::string& tag) {
    fault(position_of(mark), fmt::format("tags ({}) are not used in run files; a text that begins with ! needs quotes",
                                         printable(tag, max_quoted_bytes)));
  }

  void open(YamlValue::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    refuse_anchor(mark, anchor);
    if (tag != "?" && !tag.empty()) refuse_tag(mark, tag);
    if (open_.size() >= static_cast<std::size_t>(max_yaml_depth)) {
      throw TooMuch{
          {position_of(mark), fmt::format("more than {} levels of nesting; a run file has two", max_yaml_depth)}};
    }
    open_.push_back({{kind, position_of(mark), {}, {}, {}}, std::nullopt});
  }

  void close() {
    YamlValue value = std::move(open_.back().value);
    open_.pop_back();
    add(std::move(value));
  }

  void add(YamlValue value) {
    if (++values_ > max_yaml_values) {
      throw TooMuch{{value.at, fmt::format("more than {} values; this is no run file", max_yaml_values)}};
    }
    if (open_.empty()) {
      if (documents_ == 1) tree_.root = std::move(value);
    } else if (Open& parent = open_.back(); parent.value.kind == YamlValue::Kind::list) {
      parent.value.items.push_back(std::move(value));
    } else if (!parent.key) {
      parent.key = read_key(value);
    } else {
      add_entry(parent, std::move(value));
    }
  }

  YamlEntry read_key(const YamlValue& value) {
    if (value.kind == YamlValue::Kind::plain && value.text == "<<") {
      fault(value.at, "merge keys (<<) are not used in run files; write the values out");
    } else if (value.kind != YamlValue::Kind::plain && value.kind != YamlValue::Kind::quoted) {
      fault(value.at, "a key must be a word");
    } else {
      return {value.text, value.at, {}};
    }
    return {};
  }

  void add_entry(Open& parent, YamlValue value) {
    YamlEntry entry = std::move(*parent.key);
    parent.key.reset();
    if (entry.at.line == 0) return;  // its key was refused
    auto& entries = parent.value.entries;
    const auto first =
        std::find_if(entries.begin(), entries.end(), [&](const YamlEntry& other) { return other.key == entry.key; });
    if (first != entries.end()) {
      fault(entry.at, fmt::format("duplicate key '{}': it stands in line {} already; keep one of them",
                                  printable(entry.key, max_quoted_bytes), first->at.line));
      return;
    }
    entry.value = std::move(value);
    entries.push_back(std::move(entry));
  }

  YamlTree& tree_;
  std::vector<Open> open_;
  int documents_ = 0;
  std::size_t values_ = 0;
};

// Bytes that are no text: yaml-cpp takes them in silence.
std::optional<YamlFault> find_binary(std::string_view text) {
  Position at{1, 1};
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text.front());
    const std::size_t length = utf8_length(text);
    const bool is_control = (byte < 0x20 && byte != '\n' && byte != '\r' && byte != '\t') || byte == 0x7f;
    if (length == 0 || is_control) {
      return YamlFault{at, fmt::format("byte 0x{:02x} cannot stand in a text; a run file is UTF-8 text", byte)};
    }
    at = byte == '\n' ? Position{at.line + 1, 1} : Position{at.line, at.column + 1};
    text.remove_prefix(length);
  }
  return std::nullopt;
}

std::vector<YamlFault> find_tabs(std::string_view text) {
  std::vector<YamlFault> faults;
  for (int line = 1; !text.empty() && faults.size() < max_faults; ++line) {
    const std::size_t indentation = std::min(text.find_first_not_of(" \t\r"), text.size());
    const std::size_t tab = text.substr(0, indentation).find('\t');
    if (tab != std::string_view::npos) {
      faults.push_back({{line, static_cast<int>(tab) + 1}, "a tab in the indentation; YAML wants spaces"});
    }
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  return faults;
}

// yaml-cpp's own messages, as a sentence that helps where it has none.
std::string explain(const YAML::Exception& failure) {
  if (failure.msg == YAML::ErrorMsg::UNKNOWN_ANCHOR || failure.msg == YAML::ErrorMsg::ALIAS_NOT_FOUND ||
      failure.msg == YAML::ErrorMsg::ANCHOR_NOT_FOUND || failure.msg == YAML::ErrorMsg::CHAR_IN_ALIAS ||
      failure.msg == YAML::ErrorMsg::CHAR_IN_ANCHOR) {
    return "aliases (*name) and anchors (&name) are not used in run files; a text that begins with * or & needs quotes";
  }
  if (failure.msg == YAML::ErrorMsg::DOC_IN_SCALAR || failure.msg == YAML::ErrorMsg::EOF_IN_SCALAR) {
    return "a quoted text that begins in this line or above is never closed";
  }
  return "this is not YAML: " + printable(failure.msg, 200);
}

// What ended the reading early, if anything did.
std::optional<YamlFault> parse(std::string_view text, YamlTree& tree) {
  // yaml-cpp takes a quote that is never closed in silence when the text ends with its line. A mark for the end of the
  // document inside of a quoted text is an error, and changes nothing elsewhere.
  std::istringstream stream(std::string(text) + "\n...\n");
  const Position end{1 + static_cast<int>(std::count(text.begin(), text.end(), '\n')) - (text.ends_with('\n') ? 1 : 0),
                     1};
  TreeBuilder builder(tree);
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
    return std::nullopt;
  } catch (const TooMuch& fault) {
    return fault;
  } catch (const YAML::Exception& failure) {
    const Position at = failure.mark.is_null() ? Position{1, 1} : position_of(failure.mark);
    return YamlFault{at.line > end.line ? end : at, explain(failure)};
  } catch (const std::exception& failure) {
    return YamlFault{{1, 1}, "this is not YAML: " + printable(failure.what(), 200)};
  }
}

}  // namespace

YamlTree read_yaml(std::string_view text) {
  YamlTree tree;
  tree.root.kind = YamlValue::Kind::refused;
  if (text.size() > max_yaml_bytes) {
    tree.faults.push_back(
        {{1, 1}, fmt::format("the text has {} bytes; a run file has at most {}", text.size(), max_yaml_bytes)});
    return tree;
  }
  if (const auto fault = find_binary(text)) {
    tree.faults.push_back(*fault);
    return tree;
  }
  tree.root.kind = YamlValue::Kind::null;
  tree.faults = find_tabs(text);
  const bool tabs = !tree.faults.empty();
  if (const auto fault = parse(text, tree)) {
    tree.root = {YamlValue::Kind::refused, {}, {}, {}, {}};
    // Tabs lead yaml-cpp to complaints about other things than tabs.
    if (!tabs) tree.faults.push_back(*fault);
  }
  std::stable_sort(tree.faults.begin(), tree.faults.end(),
                   [](const YamlFault& a, const YamlFault& b) { return a.at < b.at; });
  return tree;
}

}  // namespace starling::launcher
