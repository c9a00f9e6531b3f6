// Text files of any size, cut into parts that can be encoded side by side and one after the other give the same tokens as
// the whole.
//
// A file is one document, or has many: one a line, one JSON object a line, or texts with a separator between them. Parts
// end where documents end; a document that is longer than a part is cut where the tokenizer says that it may be. Where a
// part ends depends on the files and the shape alone, so that work can be taken up at the beginning of any part.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/error.h"
#include "trainer/data/tokenizer.h"

namespace starling::trainer {

enum class Documents {
  files,
  lines,
  json_lines,  // the text under "text" of an object a line
  separated,   // the separator belongs to none
};

struct CorpusShape {
  Documents documents = Documents::files;
  std::string separator;
  std::size_t part_bytes = std::size_t{256} << 10;
  std::size_t max_part_bytes = std::size_t{16} << 20;  // for documents that cannot be cut
};

struct CorpusPosition {
  std::size_t file = 0;
  std::int64_t offset = 0;
  bool inside_document = false;
  bool operator==(const CorpusPosition&) const = default;
};

struct CorpusPart {
  CorpusPosition begin;
  CorpusPosition end;  // of the next part; in the same file, or at the beginning of the next one
  std::string bytes;
};

class CorpusReader {
 public:
  // REQUIRES: the tokenizer outlives the reader; `start` is the beginning of a part.
  CorpusReader(std::vector<std::filesystem::path> files, CorpusShape shape, const Tokenizer& tokenizer,
               CorpusPosition start);

  // The next part; nothing after the last. Errors: not_found, io, bad_input (a document that is too long and cannot be cut).
  Result<std::optional<CorpusPart>> next();

 private:
  Result<std::optional<CorpusPart>> next_of_file();
  Status fill(std::size_t wanted);
  std::size_t boundary(std::string_view window) const;
  CorpusPart take(std::size_t bytes, CorpusPosition end);

  std::vector<std::filesystem::path> files_;
  CorpusShape shape_;
  const Tokenizer* tokenizer_;
  CorpusPosition at_;
  std::ifstream file_;
  std::string buffer_;   // what follows at_
  bool at_end_ = false;  // of the file
};

// The ids of a part: of each of its documents what opens one, the text and what closes one, where the tokenizer has such
// tokens. A document of white space alone is none. Errors: bad_input, with the offset in the file of the line or document.
Result<TokenIds> encode_part(const CorpusPart& part, const CorpusShape& shape, const Tokenizer& tokenizer,
                             SpecialNames names, Encoder& encoder);

}  // namespace starling::trainer
