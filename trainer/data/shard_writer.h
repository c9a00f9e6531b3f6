// Token ids into shards of equal size: llm.c's files, or ids and nothing else.
//
//   PREFIX_000000.bin     256 int32 (magic, version, number of tokens), then the ids. Ids that fit into 16 bits: magic
//                         20240520, version 1; else 32 bits: magic 20240801, version 7, as llm.c writes for Llama 3
//   PREFIX_000000.uint16, .uint32     little-endian ids
//
// A shard that is being written is called NAME.part; it gets its own name when it is whole and on the disk. What stands
// before a mark() survives a crash: resume() cuts away what came after it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"

namespace starling::trainer {

enum class ShardFormat { bin, uint16, uint32 };

struct ShardSpec {
  std::string prefix;
  ShardFormat format = ShardFormat::bin;
  std::int64_t vocab_size = 0;  // decides between 16 and 32 bits for bin
  std::int64_t shard_tokens = 100'000'000;

  std::size_t token_bytes() const;
  std::size_t header_bytes() const;
  std::filesystem::path shard(std::int64_t index) const;
};

// How far a writer has come.
struct ShardMark {
  std::int64_t shard = 0;   // shards before it are whole
  std::int64_t tokens = 0;  // in the .part of `shard`
};

class ShardWriter {
 public:
  // Goes on at `mark`; {} begins anew. REQUIRES: nobody else writes this prefix. Errors: io, disk_full, not_found (the .part
  // that the mark is about).
  static Result<ShardWriter> resume(ShardSpec spec, ShardMark mark);
  ShardWriter(ShardWriter&& other) noexcept;
  ShardWriter& operator=(ShardWriter&& other) noexcept;
  ~ShardWriter();

  // REQUIRES: all ids are in [0, spec.vocab_size). Errors: io, disk_full.
  Status append(std::span<const std::int32_t> ids);
  // Brings all to the disk. Errors: io, disk_full.
  Result<ShardMark> mark();
  // Gives the last shard its name; one without tokens is removed. Returns the number of shards. Errors: io, disk_full.
  Result<std::int64_t> finish();

 private:
  ShardWriter(ShardSpec spec, ShardMark mark) : spec_(std::move(spec)), mark_(mark) {}
  std::filesystem::path part() const;
  tl::unexpected<Error> failed(const char* doing) const;
  Status open_part();
  Status flush();
  Status close_shard();

  ShardSpec spec_;
  ShardMark mark_;
  int file_ = -1;
  Bytes buffer_;
};

}  // namespace starling::trainer
