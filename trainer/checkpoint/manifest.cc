#include "trainer/checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "trainer/data/json_text.h"

namespace starling::trainer {
namespace {

using Json = nlohmann::json;  // keys in the order of their bytes: the same object gives the same text

constexpr std::int64_t format_version = 1;
constexpr std::size_t max_files = 1 << 16;
constexpr std::size_t max_stages = 1 << 12;
constexpr const char* hash_key = "xxh3_128";

std::string hash_of(const Json& manifest) { return to_hex(xxh3_128(as_bytes(manifest.dump(2)))); }

template <std::size_t N>
std::optional<std::array<std::byte, N>> hex_of(const Json& value) {
  if (!value.is_string()) return std::nullopt;
  const auto bytes = from_hex(value.get_ref<const std::string&>());
  if (!bytes || bytes->size() != N) return std::nullopt;
  std::array<std::byte, N> out;
  std::copy(bytes->begin(), bytes->end(), out.begin());
  return out;
}

// Reads values; the first that is not as expected is remembered and all later ones are empty.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  std::int64_t count(const Json& in, const char* key, std::int64_t highest = INT64_MAX) {
    const Json& value = get(in, key);
    const bool whole = value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(highest);
    if (!whole) wrong(key, "a whole number from 0 up", value);
    return whole ? value.get<std::int64_t>() : 0;
  }
  std::string text(const Json& in, const char* key) {
    const Json& value = get(in, key);
    if (!value.is_string()) wrong(key, "a text", value);
    return value.is_string() ? value.get<std::string>() : std::string();
  }
  const Json& list(const Json& in, const char* key, std::size_t most) {
    static const Json none = Json::array();
    const Json& value = get(in, key);
    if (value.is_array() && value.size() <= most) return value;
    wrong(key, fmt::format("a list of at most {}", most), value);
    return none;
  }
  const Json& get(const Json& in, const char* key) const {
    static const Json null;
    const auto found = in.is_object() ? in.find(key) : in.end();
    return found == in.end() ? null : *found;
  }
  void wrong(std::string_view key, std::string_view expected, const Json& got) {
    if (fault_.empty()) fault_ = fmt::format("{}: expected {}, got {}", key, expected, shown(got));
  }

  const Json& object() const { return object_; }
  const std::string& fault() const { return fault_; }

 private:
  const Json& object_;
  std::string fault_;
};

bool is_file_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name.front() != '.' &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

void read_cut(Reader& in, Manifest& out) {
  std::int64_t next = 0;
  for (const Json& layers : in.list(in.get(in.object(), "model"), "stages", max_stages)) {
    const bool pair = layers.is_array() && layers.size() == 2 && layers[0].is_number_unsigned() &&
                      layers[1].is_number_unsigned() && layers[0] == next && layers[1] > next && layers[1] < (1 << 20);
    if (!pair) return in.wrong("model.stages", fmt::format("[{}, last], one after the other", next), layers);
    out.cut.push_back({next, layers[1].get<std::int64_t>()});
    next = out.cut.back().last;
  }
  if (out.cut.empty()) in.wrong("model.stages", "at least one stage", in.get(in.object(), "model"));
}

void read_missed(Reader& in, Manifest& out) {
  for (const Json& missed : in.list(in.object(), "missed", max_stages)) {
    const std::int64_t stage = in.count(missed, "stage", static_cast<std::int64_t>(max_stages));
    out.missed.push_back({static_cast<Stage>(stage), in.text(missed, "what")});
  }
}

void read_files(Reader& in, Manifest& out) {
  std::set<std::string> names;
  for (const Json& file : in.list(in.object(), "files", max_files)) {
    ManifestFile entry{.name = in.text(file, "name"), .digest = {.bytes = in.count(file, "bytes"), .hash = {}}};
    const auto hash = hex_of<sizeof(Hash128)>(in.get(file, hash_key));
    if (!hash) return in.wrong("files", "hashes of 32 hex digits", in.get(file, hash_key));
    entry.digest.hash = *hash;
    if (!is_file_name(entry.name) || !names.insert(entry.name).second) {
      return in.wrong("files", "names of files in this directory, each once", in.get(file, "name"));
    }
    out.files.push_back(std::move(entry));
  }
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  Json out;
  out["format"] = format_version;
  out["run_id"] = manifest.run_id;
  out["config_hash"] = manifest.config_hash;
  out["step"] = manifest.step;
  out["round"] = manifest.round;
  out["tokens"] = manifest.tokens;
  out["model"]["stages"] = Json::array();
  for (const StageLayers& layers : manifest.cut) out["model"]["stages"].push_back({layers.first, layers.last});
  out["missed"] = Json::array();
  for (const Missed& missed : manifest.missed) {
    out["missed"].push_back({{"stage", missed.stage}, {"what", shown(std::string_view(missed.what))}});
  }
  out["files"] = Json::array();
  for (const ManifestFile& file : manifest.files) {
    out["files"].push_back({{"name", file.name}, {"bytes", file.digest.bytes}, {hash_key, to_hex(file.digest.hash)}});
  }
  out[hash_key] = hash_of(out);
  return out.dump(2) + "\n";
}

Result<Manifest> parse_manifest(std::string_view text) {
  Result<Json> object = parse_json_object(text);
  if (!object) return tl::unexpected(object.error());
  const Json hash = object->contains(hash_key) ? object->at(hash_key) : Json();
  object->erase(hash_key);
  if (hash != hash_of(*object)) {
    return fail(ErrorCode::bad_input, "its own hash does not hold: the manifest was damaged or changed");
  }
  Reader in(*object);
  Manifest out;
  if (const std::int64_t version = in.count(*object, "format"); version != format_version) {
    in.wrong("format", fmt::format("{}, which this program reads", format_version), in.get(*object, "format"));
  }
  out.run_id = in.text(*object, "run_id");
  out.config_hash = in.text(*object, "config_hash");
  out.step = in.count(*object, "step");
  out.round = in.count(*object, "round");
  out.tokens = in.count(*object, "tokens");
  read_cut(in, out);
  read_missed(in, out);
  read_files(in, out);
  if (!in.fault().empty()) return fail(ErrorCode::bad_input, in.fault());
  return out;
}

}  // namespace starling::trainer
