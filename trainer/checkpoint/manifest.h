// manifest.json: what a checkpoint is, and the hash of each of its files. Written last: a directory without one that holds
// is no checkpoint.
//
//   {"format": 1, "run_id": text, "config_hash": BLAKE2b-256 of the resolved run file, hex, "step": k, "round": r,
//    "tokens": n, "model": {"stages": [[first, last], ...]}, "missed": [{"stage": s, "what": text}, ...],
//    "files": [{"name": text, "bytes": n, "xxh3_128": hex}, ...],
//    "xxh3_128": hex}
//
// The last hash is that of the object without it, as this file writes it, so a damaged manifest is known as one. XXH3 finds
// damage, not malice: nothing here is signed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "trainer/checkpoint/output_file.h"
#include "trainer/worker/model_config.h"

namespace starling::trainer {

struct ManifestFile {
  std::string name;
  FileDigest digest;
};

// What a checkpoint lacks of a stage, in words for a person: "no replica answered: weights of step 480".
struct Missed {
  Stage stage = 0;
  std::string what;

  bool operator==(const Missed&) const = default;
};

struct Manifest {
  std::string run_id;       // hex
  std::string config_hash;  // hex
  Step step = 0;            // steps that are closed
  Round round = 0;          // rounds that are closed
  std::int64_t tokens = 0;  // trained so far, of all originators
  std::vector<StageLayers> cut;
  std::vector<Missed> missed;
  std::vector<ManifestFile> files;
};

std::string manifest_text(const Manifest& manifest);
// Errors: bad_input: what is not a manifest, or was damaged.
Result<Manifest> parse_manifest(std::string_view text);

}  // namespace starling::trainer
