#include "trainer/data/tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "trainer/data/byte_alphabet.h"
#include "trainer/data/json_text.h"

namespace starling::trainer {
namespace {

using nlohmann::json;

constexpr std::size_t max_file_bytes = std::size_t{64} << 20;
constexpr std::size_t spare_ids = 65536;
constexpr std::size_t ids_per_token = 4;
constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The first fault of a file. Everything that reads goes on with empty values after one, so that it is asked for once.
class Fault {
 public:
  void set(std::string_view field, std::string_view expected, std::string_view got) {
    if (message_.empty()) message_ = fmt::format("{}: expected {}, got {}", field, expected, got);
  }
  bool any() const { return !message_.empty(); }
  const std::string& message() const { return message_; }

 private:
  std::string message_;
};

// The fields of one object. Each is asked for by name; what nobody asked for is a fault, since it might mean something.
class Fields {
 public:
  Fields(const json& object, std::string name, Fault& fault) : object_(object), name_(std::move(name)), fault_(fault) {
    if (!object_.is_object()) fault_.set(name_, "an object", shown(object_));
  }
  ~Fields() {
    if (!object_.is_object() || fault_.any()) return;
    for (const auto& [key, value] : object_.items()) {
      if (!asked_.contains(key)) fault_.set(path(shown(key)), "no such field", shown(value));
    }
  }
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  std::string path(std::string_view key) const {
    return name_.empty() ? std::string(key) : fmt::format("{}.{}", name_, key);
  }

  // null where there is none.
  const json& at(const char* key) {
    static const json none;
    asked_.insert(key);
    if (!object_.is_object()) return none;
    const auto found = object_.find(key);
    return found == object_.end() ? none : *found;
  }
  void ignore(const char* key) { asked_.insert(key); }

  bool boolean(const char* key, bool without) {
    const json& value = at(key);
    if (value.is_boolean()) return value.get<bool>();
    if (!value.is_null()) refuse(key, "true or false");
    return without;
  }
  std::string text(const char* key) {
    const json& value = at(key);
    if (value.is_string()) return value.get<std::string>();
    refuse(key, "a text");
    return {};
  }
  const json& list(const char* key) {
    static const json empty = json::array();
    const json& value = at(key);
    if (value.is_array()) return value;
    refuse(key, "a list");
    return empty;
  }
  // A field that has to be null, false, "" or absent.
  void off(const char* key, std::string_view expected) {
    const json& value = at(key);
    const bool is_off = value.is_null() || value == false || value == "" || value == 0;
    if (!is_off) refuse(key, expected);
  }
  void refuse(const char* key, std::string_view expected) { fault_.set(path(key), expected, shown(at(key))); }

 private:
  const json& object_;
  std::string name_;
  Fault& fault_;
  std::set<std::string> asked_;
};

class Reader {
 public:
  Result<TokenizerJson> read(const json& file) {
    {
      Fields fields(file, "", fault_);
      if (fields.text("version") != "1.0") fields.refuse("version", "\"1.0\"");
      fields.ignore("truncation");
      fields.ignore("padding");
      fields.off("normalizer", "null (a tokenizer of another kind: only byte-level BPE is known)");
      pre_tokenizer(fields.at("pre_tokenizer"), "pre_tokenizer");
      decoder(fields.at("decoder"));
      model(fields.at("model"));
      added_tokens(fields.list("added_tokens"));
      post_processor(fields.at("post_processor"), "post_processor");
    }
    if (fault_.any()) return fail(ErrorCode::bad_input, fault_.message());
    return std::move(out_);
  }

 private:
  static std::string type_of(const json& object) {
    const auto found = object.is_object() ? object.find("type") : object.end();
    return object.is_object() && found != object.end() && found->is_string() ? found->get<std::string>()
                                                                             : shown(object);
  }

  void pre_tokenizer(const json& value, const std::string& name) {
    const std::string type = type_of(value);
    if (byte_level_seen_) return fault_.set(name, "nothing after ByteLevel", type);
    Fields fields(value, name, fault_);
    fields.ignore("type");
    if (type == "Sequence") {
      std::size_t index = 0;
      for (const json& part : fields.list("pretokenizers")) {
        if (type_of(part) == "Sequence") return fault_.set(name, "no Sequence inside of a Sequence", type);
        pre_tokenizer(part, fmt::format("{}.pretokenizers[{}]", name, index++));
      }
      if (!byte_level_seen_) fault_.set(name, "ByteLevel as the last of the Sequence", shown(value));
    } else if (type == "ByteLevel") {
      byte_level(fields);
    } else if (type == "Digits") {
      // A run of digits is one piece, or every digit is.
      stage(SplitStage::Kind::pattern, fields.boolean("individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)", name);
    } else if (type == "Split") {
      split(fields);
    } else {
      fault_.set(fields.path("type"), "ByteLevel, Split, Digits or a Sequence of them", type);
    }
    if (name == "pre_tokenizer" && !byte_level_seen_) fault_.set(name, "ByteLevel or a Sequence that ends in it", type);
  }

  void byte_level(Fields& fields) {
    byte_level_seen_ = true;
    fields.ignore("trim_offsets");  // where a token stands in the text, not which
    if (fields.boolean("add_prefix_space", true)) out_.stages.push_back({SplitStage::Kind::space_in_front, {}});
    if (fields.boolean("use_regex", true)) stage(SplitStage::Kind::pattern, gpt2_pattern, fields.path("use_regex"));
  }

  void split(Fields& fields) {
    const std::string behavior = fields.text("behavior");
    const bool invert = fields.boolean("invert", false);
    if (!(behavior == "Isolated" && !invert) && !(behavior == "Removed" && invert)) {
      fields.refuse("behavior", "Isolated with invert false, or Removed with invert true");
    }
    const json& pattern = fields.at("pattern");
    Fields inner(pattern, fields.path("pattern"), fault_);
    if (pattern.is_object() && pattern.contains("String")) inner.refuse("String", "a Regex instead");
    stage(invert ? SplitStage::Kind::pattern_only : SplitStage::Kind::pattern, inner.text("Regex"),
          inner.path("Regex"));
  }

  void stage(SplitStage::Kind kind, std::string_view pattern, const std::string& name) {
    if (fault_.any()) return;
    auto parsed = SplitPattern::parse(pattern);
    if (!parsed) return fault_.set(name, "a pattern of the kind that byte-level BPE has", parsed.error().message);
    out_.stages.push_back({kind, std::move(*parsed)});
  }

  void decoder(const json& value) {
    Fields fields(value, "decoder", fault_);
    if (fields.text("type") != "ByteLevel") fields.refuse("type", "ByteLevel");
    for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"})
      fields.ignore(key);  // none changes a text
  }

  void model(const json& value) {
    Fields fields(value, "model", fault_);
    const json& type = fields.at("type");  // old files have none
    if (!type.is_null() && type != "BPE") fields.refuse("type", "BPE");
    fields.off("dropout", "null: encoding has to be the same every time");
    fields.off("continuing_subword_prefix", "null");
    fields.off("end_of_word_suffix", "null");
    fields.off("byte_fallback", "false (a tokenizer of another kind: only byte-level BPE is known)");
    out_.unknown.fused = fields.boolean("fuse_unk", false);
    if (fields.boolean("ignore_merges", false)) out_.whole_words = BytePairs::WholeWords::taken;
    vocabulary(fields);
    merges(fields);
    if (const json& unknown = fields.at("unk_token"); !unknown.is_null()) {
      const auto known = unknown.is_string() ? id_of_.find(unknown.get<std::string>()) : id_of_.end();
      if (known == id_of_.end()) return fields.refuse("unk_token", "null or a token of model.vocab");
      out_.unknown.id = known->second;
    }
  }

  void vocabulary(Fields& fields) {
    const json& vocab = fields.at("vocab");
    if (!vocab.is_object() || vocab.empty()) return fields.refuse("vocab", "an object of tokens with their ids");
    for (const auto& [content, id] : vocab.items()) {
      const std::string name = fmt::format("model.vocab['{}']", shown(content));
      const auto number = id_at(id, vocab.size(), name);
      if (!number || !put(content, *number, name)) return;
      out_.words[static_cast<std::size_t>(*number)] = from_byte_alphabet(content).value_or("");
    }
  }

  std::optional<std::int32_t> id_at(const json& value, std::size_t tokens, const std::string& name) {
    const std::size_t limit = spare_ids + ids_per_token * tokens;
    if (value.is_number_unsigned() && value.get<std::uint64_t>() < limit) return value.get<std::int32_t>();
    fault_.set(name, fmt::format("an id from 0 to {}", limit - 1), shown(value));
    return std::nullopt;
  }

  bool put(const std::string& content, std::int32_t id, const std::string& name) {
    const auto at = static_cast<std::size_t>(id);
    if (out_.contents.size() <= at) {
      out_.contents.resize(at + 1);
      out_.words.resize(at + 1);
    }
    if (content.empty()) {
      fault_.set(name, "a token with at least one character", "none");
    } else if (!out_.contents[at].empty()) {
      fault_.set(name, "an id that no other token has",
                 fmt::format("{}, the id of '{}'", id, shown(out_.contents[at])));
    } else {
      out_.contents[at] = content;
      id_of_.emplace(content, id);
      return true;
    }
    return false;
  }

  void merges(Fields& fields) {
    std::unordered_set<std::uint64_t> seen;
    std::size_t index = 0;
    for (const json& merge : fields.list("merges")) {
      const std::string name = fmt::format("model.merges[{}]", index++);
      std::string left;
      std::string right;
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      } else if (const auto* pair = merge.get_ptr<const std::string*>()) {
        const std::size_t space = pair->find(' ');
        if (space != std::string::npos && pair->find(' ', space + 1) == std::string::npos) {
          left = pair->substr(0, space);
          right = pair->substr(space + 1);
        }
      }
      if (left.empty() || right.empty()) return fault_.set(name, "two tokens", shown(merge));
      const auto l = known(left, name);
      const auto r = known(right, name);
      const auto merged = known(left + right, name);
      if (!l || !r || !merged) return;
      const auto pair = std::uint64_t{static_cast<std::uint32_t>(*l)} << 32 | static_cast<std::uint32_t>(*r);
      if (!seen.insert(pair).second) return fault_.set(name, "each pair once", shown(merge) + " again");
      out_.merges.push_back({*l, *r, *merged});
    }
  }

  std::optional<std::int32_t> known(const std::string& content, const std::string& name) {
    const auto found = id_of_.find(content);
    if (found != id_of_.end()) return found->second;
    fault_.set(name, "tokens of model.vocab, and what they make together too", fmt::format("'{}'", shown(content)));
    return std::nullopt;
  }

  void added_tokens(const json& list) {
    std::set<std::string> seen;
    std::size_t index = 0;
    const std::size_t tokens = out_.contents.size() + list.size();
    for (const json& value : list) {
      const std::string name = fmt::format("added_tokens[{}]", index++);
      Fields fields(value, name, fault_);
      AddedToken token;
      token.content = fields.text("content");
      token.special = fields.boolean("special", false);
      token.normalized = fields.boolean("normalized", !token.special);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) fields.off(key, "false");
      const auto id = id_at(fields.at("id"), tokens, fields.path("id"));
      if (!id || fault_.any()) return;
      token.id = *id;
      if (!seen.insert(token.content).second) return fields.refuse("content", "each added token once");
      const auto known = id_of_.find(token.content);
      if (known == id_of_.end()) {
        if (!put(token.content, token.id, fields.path("id"))) return;
      } else if (known->second != token.id) {
        return fields.refuse("id", fmt::format("the id that model.vocab gives it, {}", known->second));
      }
      out_.added.push_back(std::move(token));
    }
  }

  void post_processor(const json& value, const std::string& name) {
    if (value.is_null()) return;
    const std::string type = type_of(value);
    Fields fields(value, name, fault_);
    fields.ignore("type");
    if (type == "Sequence") {
      std::size_t index = 0;
      for (const json& part : fields.list("processors")) {
        if (type_of(part) == "Sequence") return fault_.set(name, "no Sequence inside of a Sequence", type);
        post_processor(part, fmt::format("{}.processors[{}]", name, index++));
      }
    } else if (type == "ByteLevel") {
      for (const char* key : {"add_prefix_space", "trim_offsets", "use_regex"}) fields.ignore(key);
    } else if (type == "TemplateProcessing") {
      for (const char* key : {"pair", "special_tokens"}) fields.ignore(key);
      const json& single = fields.list("single");
      if (single.empty() || !single[0].is_object() || !single[0].contains("SpecialToken")) return;
      Fields part(single[0], fields.path("single[0]"), fault_);
      Fields first(part.at("SpecialToken"), part.path("SpecialToken"), fault_);
      first.ignore("type_id");
      const auto known = id_of_.find(first.text("id"));
      if (known == id_of_.end()) return first.refuse("id", "a token that there is");
      out_.begin_of_text = known->second;
    } else {
      fault_.set(fields.path("type"), "null, ByteLevel, TemplateProcessing or a Sequence of them", type);
    }
  }

  TokenizerJson out_;
  Fault fault_;
  bool byte_level_seen_ = false;
  std::unordered_map<std::string, std::int32_t> id_of_;
};

}  // namespace

Result<TokenizerJson> parse_tokenizer_json(std::string_view text) {
  if (text.size() > max_file_bytes) {
    return fail(ErrorCode::bad_input,
                fmt::format("expected a tokenizer.json of at most {} bytes, got {}", max_file_bytes, text.size()));
  }
  const auto file = parse_json_object(text);
  if (!file) return tl::unexpected(file.error());
  return Reader().read(*file);
}

}  // namespace starling::trainer
