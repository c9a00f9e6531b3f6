// Files of tensors in the safetensors format: read in place, written as a stream.
//
//   file      = length header data
//   length    = u64, little-endian: bytes of the header, at most 100,000,000
//   header    = UTF-8 JSON object, first byte '{', padded with spaces at its end
//   object    = { "__metadata__": {string: string}, name: tensor, ... }   (no key twice, at any depth)
//   tensor    = { "dtype": string, "shape": [n, ...], "data_offsets": [begin, end] }
//   data      = the bytes of all tensors: each byte belongs to exactly one of them, offsets count from its first
//
// Source: the format's own description, github.com/huggingface/safetensors. Files are hostile: everything above is checked
// when a file is opened, nothing is allocated by a number that the file names, and no tensor is handed out that is not
// wholly inside of the file. Values are not looked at before read_floats().
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/checkpoint/output_file.h"
#include "trainer/data/byte_file.h"

namespace starling::trainer {

using TensorMetadata = std::map<std::string, std::string>;

// One tensor of an open file. The bytes are the file's own: valid as long as the file is open.
struct TensorView {
  std::string name;
  std::string dtype;  // as the file names it, one that the format knows: "F32", "BF16", "I64", ...
  std::vector<std::int64_t> shape;
  ByteView bytes;

  std::int64_t count() const;  // product of the shape; 1 for a scalar
};

struct TensorTable {
  TensorMetadata metadata;
  std::vector<TensorView> tensors;  // in the order of their bytes
};

// Reads the header of a file that lies in memory as a whole. Errors: bad_input, saying what was expected and what came.
Result<TensorTable> parse_safetensors(ByteView file);

class SafetensorsFile {
 public:
  // Maps the file; the file must not be cut off while it is open. Errors: those of MappedFile::open and
  // parse_safetensors, with the path before them.
  static Result<SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const TensorMetadata& metadata() const { return table_.metadata; }
  const std::vector<TensorView>& tensors() const { return table_.tensors; }
  // Null when there is none of that name.
  const TensorView* find(std::string_view name) const;
  // The whole file.
  ByteView bytes() const { return file_.bytes(); }

 private:
  SafetensorsFile(std::filesystem::path path, MappedFile file, TensorTable table);

  std::filesystem::path path_;
  MappedFile file_;
  TensorTable table_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

// The values of a tensor of F32, BF16 or F16 as fp32. `out` has tensor.count() values.
// Errors: bad_input: another dtype, another count, a value that is not finite (its position is named).
Status read_floats(const TensorView& tensor, std::span<float> out);

enum class WeightDtype { float32, bfloat16 };
std::string_view to_string(WeightDtype dtype);  // "float32" | "bfloat16", as config.json says it
// Errors: usage, naming the two.
Result<WeightDtype> weight_dtype(std::string_view name);

// One tensor of a file that is to be written.
struct TensorPlan {
  std::string name;
  WeightDtype dtype = WeightDtype::float32;
  std::vector<std::int64_t> shape;

  std::int64_t count() const;
};

class SafetensorsWriter {
 public:
  // Writes the header. The values of the tensors then follow in the order of `tensors`.
  // REQUIRES: names differ, are valid UTF-8 and none is "__metadata__"; shapes are not negative. Errors: those of OutputFile;
  // limit: a header of more than 100,000,000 bytes.
  static Result<SafetensorsWriter> create(const std::filesystem::path& path, std::vector<TensorPlan> tensors,
                                          const TensorMetadata& metadata, Disk& disk = Disk::real());

  // The next values, cut as the caller likes: a piece may end in the middle of a tensor or cover several. bfloat16 rounds to
  // nearest even. REQUIRES: no more than are planned. Errors: those of OutputFile; bad_input: a value that is not finite.
  Status append(std::span<const float> values);
  // Syncs and closes. REQUIRES: all planned values have come. Errors: those of OutputFile.
  Result<FileDigest> finish();

  std::int64_t missing() const { return missing_; }  // values still to come

 private:
  SafetensorsWriter(OutputFile file, std::vector<TensorPlan> tensors);

  OutputFile file_;
  std::vector<TensorPlan> tensors_;
  std::size_t tensor_ = 0;     // that the next value belongs to
  std::int64_t left_ = 0;      // values of it still to come
  std::int64_t missing_ = 0;   // of all
};

}  // namespace starling::trainer
