// A folder of its own for a test, gone with it, and ways to fill it.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace starling::trainer {

class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "starling_data_XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path_); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::string path(std::string_view name) const { return (path_ / name).string(); }

  std::string write(std::string_view name, std::string_view content) const {
    std::ofstream(path(name), std::ios::binary) << content;
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

inline std::string raw_ids(const std::vector<std::uint16_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(std::uint16_t)};
}

// A shard as llm.c writes it; `announced` is the number of tokens that its header claims.
inline std::string llmc_shard(const std::vector<std::uint16_t>& ids, std::int32_t announced,
                              std::int32_t magic = 20240520, std::int32_t version = 1) {
  std::vector<std::int32_t> header(256, 0);
  header[0] = magic;
  header[1] = version;
  header[2] = announced;
  return std::string(reinterpret_cast<const char*>(header.data()), header.size() * sizeof(std::int32_t)) + raw_ids(ids);
}

}  // namespace starling::trainer
