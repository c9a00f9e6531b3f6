// Files of data behind https: only the parts that are asked for are fetched, and the last ones are kept.
//
// A file is fetched in blocks with range requests; blocks lie in a cache that all files of a source share, and the one used
// longest ago goes when it is full. A window of a few thousand tokens anywhere in a terabyte so costs one request.
//
// What can go wrong: a server that does not know ranges or whose file changes (its length or ETag) is refused; a request
// that fails is made again, a few times at once; then the read fails, and the microbatch with it, not the run.
//
// Certificates are checked against those of the system. http is for this machine alone: elsewhere anybody on the way could
// write what is trained on.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "trainer/data/byte_file.h"

namespace starling::trainer {

bool is_url(std::string_view path);

struct DownloadConfig {
  std::size_t block_bytes = std::size_t{64} << 10;
  std::size_t cache_bytes = std::size_t{64} << 20;
  int attempts = 3;
  long connect_seconds = 10;
  long stall_seconds = 20;   // without a kilobyte a second
  std::string certificates;  // a file of authorities to trust; empty: the system's
};

// One connection, kept open, and the cache. Thread: one at a time.
class Downloads {
 public:
  static Result<std::shared_ptr<Downloads>> create(DownloadConfig config);
  ~Downloads();
  Downloads(const Downloads&) = delete;
  Downloads& operator=(const Downloads&) = delete;

  struct Version {
    std::int64_t bytes = 0;
    std::string etag;  // empty: the server names none
    bool operator==(const Version&) const = default;
  };
  // Errors: unreachable, not_found, bad_input (no ranges, an empty file); each begins with the URL.
  Result<Version> version(const std::string& url);
  // Bytes of the file while it is `version`. REQUIRES: they are inside of it. Errors: as version().
  Status read(const std::string& url, const Version& version, std::int64_t offset, std::span<std::byte> out);

  std::int64_t requests() const { return requests_; }
  std::size_t cached_bytes() const { return cached_bytes_; }

 private:
  struct Handle;
  struct Answer;
  using BlockName = std::pair<std::string, std::int64_t>;
  struct Block {
    Bytes bytes;
    std::list<BlockName>::iterator age;
  };
  explicit Downloads(DownloadConfig config);
  Result<Answer> fetch(const std::string& url, std::int64_t first, std::int64_t last);
  Result<const Bytes*> block(const std::string& url, const Version& version, std::int64_t index);

  DownloadConfig config_;
  std::unique_ptr<Handle> handle_;
  std::map<BlockName, Block> blocks_;
  std::list<BlockName> by_age_;  // the one used last comes first
  std::size_t cached_bytes_ = 0;
  std::int64_t requests_ = 0;
};

// Errors: bad_config (http to another machine), those of Downloads::version.
Result<std::shared_ptr<const ByteFile>> open_remote(const std::string& url, std::shared_ptr<Downloads> downloads);

}  // namespace starling::trainer
