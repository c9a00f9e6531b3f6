#include "trainer/checkpoint/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "gossip/outer/compress.h"
#include "trainer/data/json_text.h"
#include "trainer/worker/slow_weights.h"

namespace starling::trainer {
namespace {

constexpr std::uint64_t max_header_bytes = 100'000'000;  // the format's own limit
constexpr std::size_t max_dimensions = 32;
constexpr std::size_t length_bytes = sizeof(std::uint64_t);
constexpr std::size_t header_alignment = 8;
constexpr std::size_t piece_values = std::size_t{1} << 16;

struct DtypeSize {
  std::string_view name;
  std::int64_t bits;
};
constexpr DtypeSize dtypes[] = {
    {"BOOL", 8},    {"U8", 8},       {"I8", 8},       {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F4", 4},
    {"F6_E2M3", 6}, {"F6_E3M2", 6},  {"I16", 16},     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},
    {"U32", 32},    {"F32", 32},     {"C64", 64},     {"F64", 64},    {"I64", 64},    {"U64", 64},
};

const DtypeSize* find_dtype(std::string_view name) {
  const auto found = std::find_if(std::begin(dtypes), std::end(dtypes), [&](const auto& d) { return d.name == name; });
  return found == std::end(dtypes) ? nullptr : found;
}

// What the header says of one tensor, before it is believed.
struct Entry {
  std::string name;
  std::string dtype;
  std::vector<std::uint64_t> shape;
  std::vector<std::uint64_t> offsets;
};

// Takes the header token by token, so that nothing is built of what does not belong there: the first token that does not
// fit ends it. Functions as nlohmann's reader calls them.
class HeaderReader {
 public:
  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("true or false"); }
  bool number_integer(std::int64_t value) { return unexpected(fmt::format("{}", value)); }  // negative
  bool number_float(double, const std::string& text) { return unexpected(shown(std::string_view(text))); }
  bool binary(nlohmann::json::binary_t&) { return unexpected("bytes"); }

  bool number_unsigned(std::uint64_t value) {
    if (at_ == At::shape) {
      if (entry_.shape.size() == max_dimensions) {
        return refuse_tensor(fmt::format("expected at most {} dimensions", max_dimensions));
      }
      entry_.shape.push_back(value);
      return true;
    }
    if (at_ == At::offsets) {
      if (entry_.offsets.size() == 2) return refuse_tensor("expected two data_offsets, got more");
      entry_.offsets.push_back(value);
      return true;
    }
    return unexpected(fmt::format("{}", value));
  }

  bool string(std::string& value) {
    if (at_ == At::metadata) {
      metadata_[key_] = std::move(value);
      return true;
    }
    if (at_ == At::tensor && key_ == "dtype") {
      entry_.dtype = std::move(value);
      return true;
    }
    return unexpected(fmt::format("the text '{}'", shown(std::string_view(value))));
  }

  bool start_object(std::size_t) {
    if (at_ == At::start) return go(At::top);
    if (at_ != At::top) return unexpected("an object");
    if (key_ == "__metadata__") return go(At::metadata);
    entry_ = Entry{.name = key_, .dtype = {}, .shape = {}, .offsets = {}};
    seen_.clear();
    return go(At::tensor);
  }

  bool key(std::string& name) {
    key_ = name;
    if (at_ == At::top) return names_.insert(name).second || refuse("its name twice");
    if (at_ == At::metadata) return metadata_.emplace(name, "").second || refuse("its key twice");
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return refuse_tensor(fmt::format("expected dtype, shape and data_offsets, got '{}'", shown(std::string_view(name))));
    }
    return seen_.insert(name).second || refuse_tensor(fmt::format("'{}' twice", name));
  }

  bool end_object() {
    if (at_ == At::metadata) return go(At::top);
    if (at_ == At::top) return go(At::end);
    if (seen_.size() != 3) {
      return refuse_tensor(fmt::format("expected dtype, shape and data_offsets, got only {}", fmt::join(seen_, ", ")));
    }
    entries_.push_back(std::move(entry_));
    return go(At::top);
  }

  bool start_array(std::size_t) {
    if (at_ == At::tensor && key_ == "shape") return go(At::shape);
    if (at_ == At::tensor && key_ == "data_offsets") return go(At::offsets);
    return unexpected("a list");
  }

  bool end_array() {
    if (at_ == At::offsets && entry_.offsets.size() != 2) {
      return refuse_tensor(fmt::format("expected two data_offsets, got {}", entry_.offsets.size()));
    }
    return go(At::tensor);
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    fault_ = "the header is no JSON: " + shown(std::string_view(error.what()));
    return false;
  }

  const std::string& fault() const { return fault_; }
  std::vector<Entry> take_entries() { return std::move(entries_); }
  TensorMetadata take_metadata() { return std::move(metadata_); }

 private:
  enum class At { start, top, metadata, tensor, shape, offsets, end };

  bool go(At at) {
    at_ = at;
    return true;
  }
  bool refuse(std::string_view what) {
    fault_ = fmt::format("'{}': {}", shown(std::string_view(key_)), what);
    return false;
  }
  bool refuse_tensor(std::string_view what) {
    fault_ = fmt::format("tensor '{}': {}", shown(std::string_view(entry_.name)), what);
    return false;
  }
  bool unexpected(std::string_view got) {
    switch (at_) {
      case At::start:
      case At::end:
        fault_ = fmt::format("the header is no JSON object: got {}", got);
        return false;
      case At::top:
        return refuse(fmt::format("expected an object, got {}", got));
      case At::metadata:
        fault_ = fmt::format("__metadata__: '{}': expected a text, got {}", shown(std::string_view(key_)), got);
        return false;
      case At::tensor:
        return refuse_tensor(fmt::format("{}: expected {}, got {}", key_,
                                         key_ == "dtype" ? "a text" : "a list of numbers", got));
      case At::shape:
      case At::offsets:
        return refuse_tensor(fmt::format("{}: expected whole numbers from 0 up, got {}", key_, got));
    }
    return false;
  }

  At at_ = At::start;
  std::string key_;  // the last one; a value inside of an object follows one
  Entry entry_;
  std::set<std::string> seen_;   // keys of the tensor that is open
  std::set<std::string> names_;  // keys of the header
  std::vector<Entry> entries_;
  TensorMetadata metadata_;
  std::string fault_;
};

// The product of a shape in values; nothing when it exceeds what an int64 holds in bits.
std::optional<std::int64_t> count_of(const std::vector<std::uint64_t>& shape) {
  constexpr std::uint64_t most = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 64;
  if (std::find(shape.begin(), shape.end(), 0U) != shape.end()) {
    // 0 whatever the others are, and they too must fit.
    const bool fits = std::all_of(shape.begin(), shape.end(), [](std::uint64_t size) { return size <= most; });
    return fits ? std::optional<std::int64_t>(0) : std::nullopt;
  }
  std::uint64_t product = 1;
  for (const std::uint64_t size : shape) {
    if (size > most / product) return std::nullopt;
    product *= size;
  }
  return static_cast<std::int64_t>(product);
}

tl::unexpected<Error> bad_tensor(const Entry& entry, std::string_view what) {
  return fail(ErrorCode::bad_input, fmt::format("tensor '{}': {}", shown(std::string_view(entry.name)), what));
}

// Dtype, shape and offsets of one tensor against each other and against the data.
Result<TensorView> view_of(Entry& entry, ByteView data) {
  const DtypeSize* dtype = find_dtype(entry.dtype);
  if (dtype == nullptr) {
    return bad_tensor(entry, fmt::format("unknown dtype '{}'", shown(std::string_view(entry.dtype))));
  }
  const std::optional<std::int64_t> count = count_of(entry.shape);
  if (!count) return bad_tensor(entry, fmt::format("the shape [{}] is too large", fmt::join(entry.shape, ", ")));
  const std::int64_t bits = *count * dtype->bits;
  const std::uint64_t begin = entry.offsets[0];
  const std::uint64_t end = entry.offsets[1];
  if (begin > end || end > data.size()) {
    return bad_tensor(entry, fmt::format("expected data_offsets inside of the {} bytes of data, got [{}, {}]",
                                         data.size(), begin, end));
  }
  if (bits % 8 != 0 || end - begin != static_cast<std::uint64_t>(bits) / 8) {
    return bad_tensor(entry, fmt::format("{} of shape [{}] needs {} bits, data_offsets [{}, {}] hold {} bytes",
                                         entry.dtype, fmt::join(entry.shape, ", "), bits, begin, end, end - begin));
  }
  TensorView view{.name = std::move(entry.name),
                  .dtype = std::move(entry.dtype),
                  .shape = {},
                  .bytes = data.subspan(begin, end - begin)};
  for (const std::uint64_t size : entry.shape) view.shape.push_back(static_cast<std::int64_t>(size));
  return view;
}

// Each byte of the data in exactly one tensor.
Status check_cover(const std::vector<TensorView>& tensors, ByteView data) {
  const std::byte* next = data.data();
  for (const TensorView& tensor : tensors) {
    const auto at = tensor.bytes.data() - data.data();
    if (tensor.bytes.data() != next) {
      return fail(ErrorCode::bad_input,
                  fmt::format("tensor '{}' begins at byte {} of the data, expected {}: {}",
                              shown(std::string_view(tensor.name)), at, next - data.data(),
                              tensor.bytes.data() > next ? "no tensor holds the bytes between"
                                                         : "it overlaps with the tensor before"));
    }
    next += tensor.bytes.size();
  }
  if (const auto rest = data.data() + data.size() - next; rest != 0) {
    return fail(ErrorCode::bad_input, fmt::format("{} bytes after the last tensor belong to none", rest));
  }
  return {};
}

float from_half(std::uint16_t half) {
  constexpr int exponent_bits = 10;
  const int exponent = (half >> exponent_bits) & 0x1f;
  const int fraction = half & 0x3ff;
  float value = 0.0F;
  if (exponent == 0x1f) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);  // subnormal: fraction x 2^-24
  } else {
    value = std::ldexp(static_cast<float>(fraction + 0x400), exponent - 25);  // (1 + fraction / 1024) x 2^(exponent - 15)
  }
  return (half & 0x8000) != 0 ? -value : value;
}

std::int64_t product(const std::vector<std::int64_t>& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

// Whether `value` is a number, and still one after rounding.
bool stays_finite(float value, WeightDtype dtype) {
  // From here up bfloat16 rounds to infinity.
  const std::uint32_t limit = dtype == WeightDtype::float32 ? 0x7f800000U : 0x7f7f8000U;
  return (std::bit_cast<std::uint32_t>(value) & 0x7fffffffU) < limit;
}

std::size_t bytes_per_value(WeightDtype dtype) { return dtype == WeightDtype::float32 ? 4 : 2; }

std::string header_of(const std::vector<TensorPlan>& tensors, const TensorMetadata& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t at = 0;
  for (const TensorPlan& tensor : tensors) {
    const std::int64_t end = at + tensor.count() * static_cast<std::int64_t>(bytes_per_value(tensor.dtype));
    header[tensor.name] = {{"dtype", tensor.dtype == WeightDtype::float32 ? "F32" : "BF16"},
                           {"shape", tensor.shape},
                           {"data_offsets", {at, end}}};
    at = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + header_alignment - 1) / header_alignment * header_alignment, ' ');
  return text;
}

}  // namespace

std::int64_t TensorView::count() const { return product(shape); }
std::int64_t TensorPlan::count() const { return product(shape); }

Result<TensorTable> parse_safetensors(ByteView file) {
  if (file.size() < length_bytes) {
    return fail(ErrorCode::bad_input,
                fmt::format("expected a safetensors file, which begins with {} bytes of length, got {} bytes in all",
                            length_bytes, file.size()));
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  const ByteView rest = file.subspan(length_bytes);
  if (length > max_header_bytes) {
    return fail(ErrorCode::bad_input,
                fmt::format("expected a safetensors file with a header of at most {} bytes, got {}; is this one?",
                            max_header_bytes, length));
  }
  if (length > rest.size()) {
    return fail(ErrorCode::bad_input, fmt::format("the header has {} bytes, but only {} follow: the file was cut off",
                                                  length, rest.size()));
  }
  const std::string_view header = as_text(rest.first(length));
  if (!header.starts_with('{')) {
    return fail(ErrorCode::bad_input, "expected a header that begins with '{', got " +
                                          (header.empty() ? "none" : fmt::format("'{}'", shown(header.substr(0, 1)))));
  }
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, &reader)) return fail(ErrorCode::bad_input, reader.fault());
  const ByteView data = rest.subspan(length);
  TensorTable table{.metadata = reader.take_metadata(), .tensors = {}};
  for (Entry& entry : reader.take_entries()) {
    Result<TensorView> view = view_of(entry, data);
    if (!view) return tl::unexpected(view.error());
    table.tensors.push_back(std::move(*view));
  }
  // Empty ones before those that begin where they lie.
  std::sort(table.tensors.begin(), table.tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  if (Status covered = check_cover(table.tensors, data); !covered) return tl::unexpected(covered.error());
  return table;
}

SafetensorsFile::SafetensorsFile(std::filesystem::path path, MappedFile file, TensorTable table)
    : path_(std::move(path)), file_(std::move(file)), table_(std::move(table)) {
  for (std::size_t i = 0; i < table_.tensors.size(); ++i) by_name_.emplace(table_.tensors[i].name, i);
}

Result<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file) return tl::unexpected(file.error());
  Result<TensorTable> table = parse_safetensors(file->bytes());
  if (!table) return fail(table.error().code, path.string() + ": " + table.error().message);
  return SafetensorsFile(path, std::move(*file), std::move(*table));
}

const TensorView* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &table_.tensors[found->second];
}

Status read_floats(const TensorView& tensor, std::span<float> out) {
  const auto refuse = [&](const std::string& what) {
    return fail(ErrorCode::bad_input, fmt::format("tensor '{}': {}", shown(std::string_view(tensor.name)), what));
  };
  if (static_cast<std::uint64_t>(tensor.count()) != out.size()) {
    return refuse(fmt::format("expected {} values, got {}", out.size(), tensor.count()));
  }
  if (tensor.dtype == "F32") {
    if (!out.empty()) std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  } else if (tensor.dtype == "BF16") {
    outer::decompress(tensor.bytes, outer::Compression::bf16, out);
  } else if (tensor.dtype == "F16") {
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::uint16_t half = 0;
      std::memcpy(&half, tensor.bytes.data() + i * sizeof half, sizeof half);
      out[i] = from_half(half);
    }
  } else {
    return refuse("expected weights of F32, BF16 or F16, got " + tensor.dtype);
  }
  if (!all_finite(out)) {
    const auto bad = std::find_if(out.begin(), out.end(), [](float x) { return !std::isfinite(x); });
    return refuse(fmt::format("expected finite values, got {} at position {}", *bad, bad - out.begin()));
  }
  return {};
}

std::string_view to_string(WeightDtype dtype) { return dtype == WeightDtype::float32 ? "float32" : "bfloat16"; }

Result<WeightDtype> weight_dtype(std::string_view name) {
  for (const WeightDtype dtype : {WeightDtype::float32, WeightDtype::bfloat16}) {
    if (name == to_string(dtype)) return dtype;
  }
  return fail(ErrorCode::usage, fmt::format("expected float32 or bfloat16, got '{}'", shown(name)));
}

SafetensorsWriter::SafetensorsWriter(OutputFile file, std::vector<TensorPlan> tensors)
    : file_(std::move(file)), tensors_(std::move(tensors)) {
  for (const TensorPlan& tensor : tensors_) missing_ += tensor.count();
  if (!tensors_.empty()) left_ = tensors_.front().count();
}

Result<SafetensorsWriter> SafetensorsWriter::create(const std::filesystem::path& path, std::vector<TensorPlan> tensors,
                                                    const TensorMetadata& metadata, Disk& disk) {
  std::set<std::string_view> names{"__metadata__"};
  for (const TensorPlan& tensor : tensors) {
    STARLING_CHECK(names.insert(tensor.name).second, "tensors of one file have different names");
    STARLING_CHECK(std::all_of(tensor.shape.begin(), tensor.shape.end(), [](auto size) { return size >= 0; }),
                   "a shape is not negative");
  }
  const std::string header = header_of(tensors, metadata);
  if (header.size() > max_header_bytes) {
    return fail(ErrorCode::limit, fmt::format("{}: its header would have {} bytes; the format allows {}", path.string(),
                                              header.size(), max_header_bytes));
  }
  Result<OutputFile> file = OutputFile::create(path, disk);
  if (!file) return tl::unexpected(file.error());
  ByteWriter first;
  first.number(static_cast<std::uint64_t>(header.size()));
  first.raw(as_bytes(header));
  if (Status written = file->append(first.bytes()); !written) return tl::unexpected(written.error());
  return SafetensorsWriter(std::move(*file), std::move(tensors));
}

Status SafetensorsWriter::append(std::span<const float> values) {
  STARLING_CHECK(static_cast<std::int64_t>(values.size()) <= missing_, "no more values than planned");
  while (!values.empty()) {
    while (left_ == 0) left_ = tensors_[++tensor_].count();
    const std::size_t take = std::min({values.size(), static_cast<std::size_t>(left_), piece_values});
    const std::span<const float> piece = values.first(take);
    const TensorPlan& tensor = tensors_[tensor_];
    if (!std::all_of(piece.begin(), piece.end(), [&](float x) { return stays_finite(x, tensor.dtype); })) {
      return fail(ErrorCode::bad_input, fmt::format("tensor '{}': expected values that are finite as {}, got others",
                                                    tensor.name, to_string(tensor.dtype)));
    }
    Status written;
    if (tensor.dtype == WeightDtype::float32) {
      written = file_.append(std::as_bytes(piece));
    } else {
      Bytes rounded;
      rounded.reserve(take * bytes_per_value(WeightDtype::bfloat16));
      outer::compress(piece, outer::Compression::bf16, rounded);
      written = file_.append(rounded);
    }
    if (!written) return written;
    values = values.subspan(take);
    left_ -= static_cast<std::int64_t>(take);
    missing_ -= static_cast<std::int64_t>(take);
  }
  return {};
}

Result<FileDigest> SafetensorsWriter::finish() {
  STARLING_CHECK(missing_ == 0, "all planned values have come");
  return file_.finish();
}

}  // namespace starling::trainer
